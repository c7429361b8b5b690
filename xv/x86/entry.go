package x86

// entry describes one opcode of one opcode map.
//
//	bits 0-3    immediate
//	bits 4-7    flags
//	bits 8-11   mandatory prefixes with which the memory form exists, or the opcode where it has no ModRM
//	bits 12-15  mandatory prefixes with which the register form exists
//	bits 16-19  Class
//	bits 20-23  rule
//	bits 24-31  values of ModRM.reg with which the opcode does not exist
type entry uint32

// Immediates, as the operand codes of SDM vol. 2 sec. A.2.2 give them.
const (
	ib    entry = 1 + iota // imm8
	iw                     // imm16
	iz                     // imm16 or imm32 by operand size
	iv                     // imm16, imm32 or imm64 by operand size
	id                     // imm32
	iwb                    // enter: imm16, imm8
	ibb                    // extrq, insertq: imm8, imm8
	moffs                  // absolute address of the size of an address
	relB                   // rel8
	relZ                   // rel16 or rel32 by operand size

	immMask entry = 15
)

// Flags.
const (
	valid     entry = 1 << (4 + iota) // the opcode exists in 64-bit mode
	modrm                             // ModRM follows the opcode
	prefix                            // legacy prefix or REX
	regAlways                         // ModRM.mod is not looked at
)

// Mandatory prefixes: m the memory form, r the register form, p both; NP is none.
const (
	mNP entry = 1 << (8 + iota)
	m66
	mF3
	mF2
	rNP
	r66
	rF3
	rF2

	pNP = mNP | rNP
	p66 = m66 | r66
	pF3 = mF3 | rF3
	pF2 = mF2 | rF2

	memAny = mNP | m66 | mF3 | mF2
	regAny = rNP | r66 | rF3 | rF2

	plain = valid | memAny | regAny // an opcode without ModRM, with any prefix
	op    = valid | modrm           // an opcode with ModRM
	form  = plain | modrm           // an opcode with ModRM and with any prefix
)

// Classes.
const (
	jmp     = entry(Jmp) << classShift
	jcc     = entry(Jcc) << classShift
	loop    = entry(Loop) << classShift
	call    = entry(Call) << classShift
	ret     = entry(Ret) << classShift
	syscall = entry(Syscall) << classShift
	int3    = entry(Int3) << classShift
	special = entry(Special) << classShift
	trap    = entry(Trap) << classShift
)

// Rules: what the other bits cannot say; see check.
const (
	_        entry = iota << ruleShift
	lockable       // takes a LOCK prefix when its destination is memory
	lockGrp        // the same, by ModRM.reg
	grp3           // f6, f7: an immediate follows with /0 and /1
	grp5           // ff
	grp11          // c6, c7: /0, xabort, xbegin
	movSeg         // 8e
	grp6           // 0f 00
	grp7           // 0f 01
	grp9           // 0f c7
	grp15          // 0f ae
	extrq          // 0f 78
	now3d          // 0f 0f
	movCR          // 0f 20 to 23
	sib            // a memory operand needs a SIB byte: vector index, or rows of a tile
	x87            // d8 to df
)

// Bit positions.
const (
	ppShift    = 8
	classShift = 16
	ruleShift  = 20
	regShift   = 24

	ruleMask entry = 15 << ruleShift
	regMask  entry = 255 << regShift

	// unchecked is equal to memAny|regAny in an entry that exists with all prefixes and all forms.
	unchecked = memAny | regAny | ruleMask | regMask
)

// regs excludes all values of ModRM.reg but those given.
func regs(r ...uint) entry {
	e := regMask
	for _, n := range r {
		e &^= 1 << (regShift + n)
	}
	return e
}

func (e entry) rule() entry { return e & ruleMask }

// row describes the opcodes first to last.
type row struct {
	first, last byte
	entry
}

func table(rows []row) (t [256]entry) {
	for _, r := range rows {
		for op := int(r.first); op <= int(r.last); op++ {
			t[op] = r.entry
		}
	}
	return t
}

// immSize returns the number of bytes of the immediate, relative displacement or absolute address.
func (in *Inst) immSize(e entry) int {
	wide := in.Ext&8 != 0
	switch e & immMask {
	case ib, relB:
		return 1
	case iw, ibb:
		return 2
	case iwb:
		return 3
	case id:
		return 4
	case iv:
		if wide {
			return 8
		}
		fallthrough
	case iz, relZ:
		// SDM vol. 2 sec. 2.2.1.2: REX.W overrides the prefix 66.
		if in.OpSize && !wide {
			return 2
		}
		return 4
	case moffs:
		if in.AddrSize {
			return 4
		}
		return 8
	}
	switch e.rule() {
	case grp3:
		if in.ModRM>>3&7 < 2 {
			if in.Opcode == 0xf6 {
				return 1
			}
			if in.OpSize && !wide {
				return 2
			}
			return 4
		}
	case extrq:
		// AMD SSE4A (APM vol. 4 "EXTRQ", "INSERTQ"): with 66 or F2 two immediates; without a prefix 0f 78 is vmread.
		if in.PP == 1 || in.PP == 3 {
			return 2
		}
	}
	return 0
}

// immediate reads the immediate b at offset off.
func (in *Inst) immediate(e entry, b []byte, off int) {
	var v int64
	switch len(b) {
	case 1:
		v = int64(int8(b[0]))
	case 2:
		v = int64(int16(uint16(b[0]) | uint16(b[1])<<8))
	case 3:
		v = int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16
	case 4:
		v = int64(int32(le32(b)))
	case 8:
		v = int64(uint64(le32(b)) | uint64(le32(b[4:]))<<32)
	}
	switch {
	case e&immMask == moffs:
		// A 32-bit address is not sign-extended.
		if len(b) == 4 {
			v = int64(uint32(v))
		}
		in.Disp, in.DispOff, in.DispSize = v, uint8(off), uint8(len(b))
	case e.rule() == now3d:
		in.Encoding, in.Opcode, in.OpOff = Now3D, b[0], uint8(off)
	default:
		in.Imm, in.ImmOff, in.ImmSize = v, uint8(off), uint8(len(b))
	}
}
