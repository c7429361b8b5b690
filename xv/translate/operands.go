package translate

import (
	"math/bits"

	"xvrun/xv/x86"
)

const (
	rax = 0
	rcx = 1
	rsp = 4
	r8  = 8
)

// gsSlot emits an instruction with opcode op, a 64-bit register and gs:[slot].
func (b *Buffer) gsSlot(op byte, reg uint8, slot uint8) {
	c := b.code[b.n : b.n+9]
	c[0], c[1], c[2], c[3], c[4] = 0x65, 0x48|reg>>3<<2, op, 0x04|reg&7<<3, 0x25
	c[5], c[6], c[7], c[8] = slot, 0, 0, 0
	b.n += 9
}

// storeGS emits mov gs:[slot],reg.
func (b *Buffer) storeGS(reg, slot uint8) { b.gsSlot(0x89, reg, slot) }

// loadGS emits mov reg,gs:[slot].
func (b *Buffer) loadGS(reg, slot uint8) { b.gsSlot(0x8b, reg, slot) }

// movImm loads a register with an original address, the short way if it can.
func (b *Buffer) movImm(reg uint8, v uint64) {
	if v < 1<<32 {
		if reg >= 8 {
			b.put1(0x41)
		}
		b.put1(0xb8 | reg&7) // mov r32,imm32
		b.putOrig(v)
		return
	}
	b.pin()
	b.put1(0x48 | reg>>3)
	b.put1(0xb8 | reg&7) // movabs r64,imm64
	b.put8(v)
}

// absolute stands for no base register in copyWith: the operand is at a disp32.
const absolute = 0xff

// prefixes copies the legacy prefixes of the instruction, without REX, and with noSeg without FS and GS
// overrides and address-size prefixes.
func (b *Buffer) prefixes(noSeg bool) {
	for _, c := range b.raw[:b.in.PrefixLen] {
		switch {
		case c&0xf0 == 0x40, noSeg && c >= 0x64 && c <= 0x67 && c != 0x66:
		default:
			b.put1(c)
		}
	}
}

// operandEnd is where ModRM, SIB and displacement end.
func operandEnd(in *x86.Inst) uint8 {
	n := in.ModRMOff + 1 + in.DispSize
	if in.HasSIB {
		n++
	}
	return n
}

// copyWith emits the instruction with another memory operand: [base], or [addr] if base is absolute.
func (b *Buffer) copyWith(base uint8, addr uint32, noSeg bool) {
	in := &b.in
	b.prefixes(noSeg)
	var ext, rm byte = 0, 4
	if base != absolute {
		ext, rm = base>>3, base&7
	}
	switch in.Encoding {
	case x86.Legacy, x86.Now3D:
		if in.REX != 0 || ext != 0 {
			b.put1(0x40 | in.REX&0x0c | ext) // W and R stay
		}
		b.n += copy(b.code[b.n:], b.raw[in.PrefixLen:in.ModRMOff])
	default:
		at := b.n + 1
		b.n += copy(b.code[b.n:], b.raw[in.PrefixLen:in.ModRMOff])
		if in.Encoding != x86.VEX2 { // which has neither X nor B
			b.code[at] = b.code[at]&^0x60 | 0x40 | (ext^1)<<5 // the bits are inverted
		}
	}
	b.put1(in.ModRM&0x38 | rm)
	if base == absolute {
		b.put1(0x25) // no base, no index
		b.putOrig(uint64(addr))
	}
	b.n += copy(b.code[b.n:], b.raw[operandEnd(in):in.Len])
}

// named returns the set of general registers that ModRM and SIB name, and perhaps some more.
func named(in *x86.Inst) uint32 {
	m := uint32(1) << in.Reg()
	if in.HasSIB {
		return m | 1<<(in.SIB&7|in.Ext&1<<3) | 1<<(in.SIB>>3&7|in.Ext&2<<2)
	}
	return m | 1<<in.RM()
}

// Scratch registers: none needs a SIB byte or a displacement as a base. No instruction uses one of the first
// without naming it. The others serve where the encoding has no fourth bit for the base.
const (
	highScratch = 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<14 | 1<<15
	lowScratch  = 1<<6 | 1<<7 | 1<<3 | 1<<2 | 1<<1 // rsi, rdi, rbx, rdx, rcx
)

// scratch chooses a base register for the memory operand, and another register, of those that the instruction
// does not use.
func scratch(in *x86.Inst) (base, other uint8) {
	use := named(in)
	switch {
	case in.Encoding == x86.VEX2: // its vvvv names no general register
		base = lowest(lowScratch &^ use)
	case highByte(in): // ah, ch, dh and bh are parts of rax, rcx, rdx and rbx
		base = lowest(lowScratch &^ (use | 1<<(in.ModRM>>3&3)))
	default:
		use |= 1 << (in.VVVV & 15)
		base = lowest(highScratch &^ use)
	}
	return base, lowest(highScratch &^ (use | 1<<base))
}

func lowest(set uint32) uint8 { return uint8(bits.TrailingZeros32(set)) }

// highByte reports that the instruction names ah, ch, dh or bh, which a REX prefix would turn into others.
func highByte(in *x86.Inst) bool {
	if in.Encoding != x86.Legacy || in.REX != 0 || in.ModRM&0x20 == 0 {
		return false
	}
	op := in.Opcode
	switch in.Map {
	case 0:
		return op < 0x40 && op&5 == 0 || op >= 0x84 && op <= 0x8a && op&1 == 0 // arithmetic; test, xchg, mov
	case 1:
		return op == 0xb0 || op == 0xc0 // cmpxchg, xadd
	}
	return false
}

// ripRelative translates an instruction with a RIP-relative operand.
func (b *Buffer) ripRelative() {
	in := &b.in
	addr := in.RIPTarget(b.pc)
	b.start()
	if in.Encoding == x86.Legacy && in.Map == 0 && in.Opcode == 0x8d {
		b.lea(addr)
		return
	}
	if fitsAbsolute(in, b.pc) {
		b.copyWith(absolute, uint32(addr), false)
		return
	}
	r, _ := scratch(in)
	b.storeGS(r, OffX0)
	b.mark(Recovery{RIP: b.pc})
	b.movImm(r, addr)
	saved := [2]Saved{{OffX0, r}}
	b.mark(Recovery{RIP: b.pc, Saved: saved})
	b.copyWith(r, 0, false)
	b.mark(Recovery{RIP: b.next, Saved: saved})
	b.loadGS(r, OffX0)
}

// lea translates a RIP-relative lea.
func (b *Buffer) lea(addr uint64) {
	in := &b.in
	reg := in.Reg()
	switch {
	case in.REX&8 != 0:
		b.movImm(reg, addr)
	case in.OpSize:
		b.pin()
		b.put1(0x66)
		if reg >= 8 {
			b.put1(0x41)
		}
		b.put1(0xb8 | reg&7) // mov r16,imm16
		b.put1(byte(addr))
		b.put1(byte(addr >> 8))
	default:
		b.movImm(reg, uint64(uint32(addr)))
	}
}

// operand emits a 64-bit instruction of a register and the memory operand of the original instruction, without
// segment and not RIP-relative: lea or mov.
func (b *Buffer) operand(op, reg uint8) {
	in := &b.in
	if in.AddrSize {
		b.put1(0x67)
	}
	b.put1(0x48 | reg>>3<<2 | in.Ext&3)
	b.put1(op)
	b.put1(in.ModRM&0xc7 | reg&7<<3)
	b.n += copy(b.code[b.n:], b.raw[in.ModRMOff+1:operandEnd(in)])
}

// address loads a register with the offset of the memory operand in its segment.
func (b *Buffer) address(reg uint8) {
	if b.in.RIPRel {
		b.movImm(reg, b.in.RIPTarget(b.pc))
		return
	}
	b.operand(0x8d, reg) // lea
}

// gsOperand translates an instruction with an operand in the guest's GS segment.
func (b *Buffer) gsOperand() {
	r, q := scratch(&b.in)
	s := Recovery{RIP: b.pc}
	b.start()
	b.storeGS(r, OffX0)
	b.mark(s)
	b.storeGS(q, OffX1)
	b.mark(s)
	b.address(r)
	s.Saved[0] = Saved{OffX0, r}
	b.mark(s)
	b.loadGS(q, OffGuestGS)
	s.Saved[1] = Saved{OffX1, q}
	b.mark(s)
	b.addAddress(r, q)
	b.mark(s)
	b.loadGS(q, OffX1)
	s.Saved[1] = Saved{}
	b.mark(s)
	b.copyWith(r, 0, true)
	s.RIP = b.next
	b.mark(s)
	b.loadGS(r, OffX0)
}

// addAddress emits lea r,[r+q].
func (b *Buffer) addAddress(r, q uint8) {
	b.put1(0x48 | r>>3<<2 | q>>3<<1 | r>>3)
	b.put1(0x8d)
	b.put1(0x04 | r&7<<3)
	b.put1(q&7<<3 | r&7)
}

// loadTarget returns the register that holds the operand of an indirect branch: its own, or rcx, which has been
// spilled. r is the state at the branch.
func (b *Buffer) loadTarget(r Recovery) uint8 {
	in := &b.in
	if in.ModRM >= 0xc0 {
		reg := in.RM()
		if reg&7 != rsp {
			return reg
		}
		// As a base it needs a SIB byte.
		b.moveTarget(reg, r)
		return rcx
	}
	b.loadMemory(r)
	return rcx
}

// moveTarget emits mov rcx,reg.
func (b *Buffer) moveTarget(reg uint8, r Recovery) {
	b.mark(r)
	b.put1(0x48 | reg>>3)
	b.put1(0x8b)
	b.put1(0xc0 | rcx<<3 | reg&7)
}

// loadMemory is loadTarget of a memory operand.
func (b *Buffer) loadMemory(r Recovery) {
	in := &b.in
	b.mark(r)
	if in.Seg == segGS {
		b.address(rcx)
		b.mark(r)
		b.storeGS(r8, OffX0)
		b.mark(r)
		b.loadGS(r8, OffGuestGS)
		r.Saved[0] = Saved{OffX0, r8}
		b.mark(r)
		b.lit("\x4a\x8b\x0c\x01") // mov rcx,[rcx+r8]
		b.mark(r)
		b.loadGS(r8, OffX0)
		return
	}
	if !in.RIPRel {
		if in.Seg == segFS {
			b.put1(segFS)
		}
		b.operand(0x8b, rcx) // mov
		return
	}
	addr := in.RIPTarget(b.pc)
	if addr >= 1<<31 {
		b.movImm(rcx, addr)
		b.mark(r)
	}
	if in.Seg == segFS {
		b.put1(segFS)
	}
	if addr >= 1<<31 {
		b.lit("\x48\x8b\x09") // mov rcx,[rcx]
		return
	}
	b.lit("\x48\x8b\x0c\x25") // mov rcx,[disp32]
	b.putOrig(addr)
}

// readGS translates rdgsbase.
func (b *Buffer) readGS() {
	b.start()
	r := b.in.RM()
	if b.in.Ext&8 != 0 {
		b.loadGS(r, OffGuestGS)
		return
	}
	b.gsSlot32(0x8b, r, OffGuestGS) // mov r32,gs:[GuestGS]
}

// writeGS translates wrgsbase.
func (b *Buffer) writeGS() {
	b.start()
	r := b.in.RM()
	if b.in.Ext&8 != 0 {
		b.storeGS(r, OffGuestGS)
		return
	}
	b.gsSlot32(0x89, r, OffGuestGS) // mov gs:[GuestGS],r32
	b.mark(Recovery{RIP: b.pc})
	b.lit("\x65\xc7\x04\x25\x2c\x00\x00\x00\x00\x00\x00\x00") // mov dword gs:[GuestGS+4],0
}

// gsSlot32 is gsSlot with a 32-bit register.
func (b *Buffer) gsSlot32(op, reg, slot uint8) {
	b.gsSlot(op, reg, slot)
	b.code[b.n-8] &^= 0x08 // REX.W
}
