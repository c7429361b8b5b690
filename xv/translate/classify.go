package translate

import "xvrun/xv/x86"

// kind is how an instruction is translated.
type kind uint8

const (
	kindCopy     kind = iota // byte for byte
	kindRIP                  // RIP-relative operand: absolute, or through a scratch register
	kindGS                   // operand in the guest's GS segment
	kindRdGS                 // rdgsbase
	kindWrGS                 // wrgsbase
	kindJcc                  // jcc
	kindLoop                 // loop, jrcxz
	kindXbegin               // xbegin
	kindCall                 // call rel32
	kindCallNext             // call of the next instruction, which only pushes its address
	kindCallInd              // call r/m64
	kindSyscall              // syscall
	kindJmp                  // jmp rel; this and the following kinds do not fall through
	kindJmpInd               // jmp r/m64
	kindRet                  // ret, ret n
	kindTrap                 // ud2, hlt: byte for byte
	kindSpecial              // exit to the supervisor
)

// ends reports that control does not go on to the next instruction.
func (k kind) ends() bool { return k >= kindJmp }

// follows reports a direct branch that Discover follows.
func (k kind) follows() bool {
	return k == kindJmp || k == kindJcc || k == kindLoop || k == kindXbegin
}

var kindOfClass = [16]kind{
	x86.Other:   kindCopy,
	x86.Jmp:     kindJmp,
	x86.Jcc:     kindJcc,
	x86.Loop:    kindLoop,
	x86.Call:    kindCall,
	x86.JmpInd:  kindJmpInd,
	x86.CallInd: kindCallInd,
	x86.Ret:     kindRet,
	x86.Xbegin:  kindXbegin,
	x86.Syscall: kindSyscall,
	x86.Int3:    kindCopy,
	x86.Special: kindSpecial,
	x86.Trap:    kindTrap,
}

// classify tells how an instruction is translated.
func classify(in *x86.Inst) kind {
	if in.Class == x86.Other && in.Seg != segGS && !in.RIPRel {
		return kindCopy
	}
	return classifyRest(in)
}

func classifyRest(in *x86.Inst) kind {
	k := kindOfClass[in.Class&15]
	switch k {
	case kindCopy:
		if in.Seg == segGS {
			return classifyGS(in)
		}
		if in.RIPRel {
			return kindRIP
		}
	case kindCall:
		if in.Imm == 0 {
			return kindCallNext
		}
	case kindSpecial:
		// rdgsbase is f3 0f ae /1, wrgsbase f3 0f ae /3, both of registers only.
		if in.Encoding == x86.Legacy && in.Map == 1 && in.Opcode == 0xae && in.PP == 2 && in.ModRM >= 0xc0 {
			switch in.ModRM >> 3 & 7 {
			case 1:
				return kindRdGS
			case 3:
				return kindWrGS
			}
		}
		if onlyFaults(in) {
			return kindCopy
		}
	}
	return k
}

// onlyFaults reports whether an instruction of class Special does nothing in user mode but raise a fault
// or trap, so that the copy does the same: swapgs, sysret, sysexit, int1, and int n but for the 32-bit
// system calls of int 0x80.
func onlyFaults(in *x86.Inst) bool {
	if in.Encoding != x86.Legacy {
		return false
	}
	switch {
	case in.Map == 0 && in.Opcode == 0xcd:
		return byte(in.Imm) != 0x80
	case in.Map == 0 && in.Opcode == 0xf1:
		return true
	case in.Map == 1 && (in.Opcode == 0x07 || in.Opcode == 0x35):
		return true
	case in.Map == 1 && in.Opcode == 0x01 && in.ModRM == 0xf8:
		return true
	}
	return false
}

const (
	segFS = 0x64
	segGS = 0x65
)

// classifyGS classifies an instruction of class Other with an effective GS prefix.
func classifyGS(in *x86.Inst) kind {
	op, plain := in.Opcode, kindCopy
	if in.RIPRel {
		plain = kindRIP
	}
	switch in.Encoding {
	case x86.Legacy:
		switch in.Map {
		case 0:
			switch {
			case op >= 0xa4 && op <= 0xa7, op == 0xac, op == 0xad, op == 0x6e, op == 0x6f: // movs, cmps, lods, outs
				return kindSpecial
			case op == 0xd7, op >= 0xa0 && op <= 0xa3: // xlat, mov with absolute address
				return kindSpecial
			case op == 0x8d: // lea: the segment does not matter
				return plain
			case op == 0x8f && in.HasSIB && in.SIB&7 == 4 && in.Ext&1 == 0: // pop relative to rsp after the pop
				return kindSpecial
			}
		case 1:
			switch {
			case op == 0xf7 && in.ModRM >= 0xc0: // maskmovq, maskmovdqu: implicit operand
				return kindSpecial
			case op == 0x01 && in.ModRM >= 0xc0: // monitorx, clzero and others: implicit operand
				return kindSpecial
			case op == 0x0d, op >= 0x18 && op <= 0x1f: // prefetch, nop
				return plain
			}
		case 2:
			if op == 0xf8 && in.AddrSize { // movdir64b, enqcmd: prefix 67 is for the other operand too
				return kindSpecial
			}
		}
	case x86.VEX2:
		if op == 0xf7 && in.ModRM >= 0xc0 { // vmaskmovdqu
			return kindSpecial
		}
	case x86.VEX3:
		switch {
		case in.Map == 1 && op == 0xf7 && in.ModRM >= 0xc0: // vmaskmovdqu
			return kindSpecial
		case in.Map == 2 && op >= 0x90 && op <= 0x93: // gathers
			return kindSpecial
		case in.HasSIB && isTileMove(in): // the index register is a stride
			return kindSpecial
		}
	case x86.EVEX:
		switch {
		case in.DispSize == 1: // scaled by the instruction's operand size
			return kindSpecial
		case in.Map == 2 && (op >= 0x90 && op <= 0x93 || op >= 0xa0 && op <= 0xa3 || op == 0xc6 || op == 0xc7): // gathers, scatters
			return kindSpecial
		case in.HasSIB && isTileMove(in):
			return kindSpecial
		}
	}
	if !in.MemOperand() {
		return kindCopy
	}
	return kindGS
}

// isTileMove reports tileloadd, tileloaddt1, tilestored and their kin.
func isTileMove(in *x86.Inst) bool {
	return in.Map == 2 && (in.Opcode == 0x4a || in.Opcode == 0x4b) || in.Map == 5
}

// Sizes of emitted instructions and the upper bounds of padding.
const (
	sizeGS     = 9  // mov r,gs:[slot] or mov gs:[slot],r
	sizeMovabs = 10 // movabs r,imm64
	sizeTable  = 7  // call, jmp or push qword [rcx*8+TBL]
	roomHash   = 36 // what more throughHash takes
	sizePush   = 5  // push imm32
	sizePushHi = 8  // mov dword [rsp+4],imm32
	sizeAdjust = 5  // lea rsp,[rsp+8]
	sizeJmp    = 5  // jmp rel32
	sizePad    = 3  // before a rel32 that can be patched
	sizeStub   = 17 // mov dword gs:[Stub],imm32 ; jmp rel32

	sizeOver     = 3 // overAdjust
	sizePrologue = sizeAdjust + sizeGS + sizeOver + sizeAdjust
	roomJmp      = sizePad + sizeJmp
)

var prologueSizes = [...]uint32{ByLink: 0, ByJump: sizeGS, ByCall: sizePrologue}

// room bounds the size of the translation of an instruction at pc.
func room(k kind, in *x86.Inst, pc uint64) uint32 {
	if k == kindCopy {
		return uint32(in.Len)
	}
	return roomRest(k, in, pc)
}

func roomRest(k kind, in *x86.Inst, pc uint64) uint32 {
	n := uint32(in.Len)
	switch k {
	case kindTrap:
		return n
	case kindRIP:
		if fitsAbsolute(in, pc) {
			return max(n+1, sizeMovabs)
		}
		return sizeGS + sizeMovabs + n + 1 + sizeGS
	case kindGS:
		return 5*sizeGS + x86.MaxLen + 5 + n + 1
	case kindRdGS:
		return sizeGS
	case kindWrGS:
		return sizeGS + 12
	case kindJcc, kindXbegin:
		return sizePad + 6
	case kindLoop:
		return 3 + 2 + sizeGS + roomJmp
	case kindCallNext:
		return roomPush(pc + uint64(n))
	case kindCall:
		return roomPush(pc+uint64(n)) + roomJmp + sizeGS
	case kindSyscall:
		return sizeMovabs + sizeJmp + sizeGS
	case kindJmp:
		return roomJmp
	case kindRet:
		return sizeGS + 1 + sizeTable + 3
	case kindJmpInd:
		return sizeGS + roomLoad(in) + sizeTable
	case kindCallInd:
		return 2*sizeGS + roomLoad(in) + roomPush(pc+uint64(n)) + 7 + sizeTable
	}
	return sizeStub
}

// roomSpill bounds the size of the spill before an instruction of a kind where gs:[OffS] need not hold rcx. A conditional
// jump spills elsewhere.
func roomSpill(k kind) uint32 {
	switch k {
	case kindRet, kindJmpInd, kindCallInd, kindCall, kindXbegin, kindJmp:
		return sizeGS
	}
	return 0
}

// rcxUse tells what the translation of an instruction does with rcx, as stepUses and stepChanges. What control comes to
// after calls, returns and indirect branches finds rcx in gs:[OffS].
func rcxUse(k kind, in *x86.Inst, pc uint64) (use uint8) {
	switch k {
	case kindJmp, kindJcc, kindCall, kindCallNext, kindRet, kindSyscall, kindTrap:
		return 0
	case kindCallInd, kindJmpInd:
		if in.OperandRCX() {
			return stepUses
		}
		return 0
	case kindSpecial:
		return stepUses | stepChanges
	}
	needs, changes := in.UseRCX()
	if needs || k == kindGS || k == kindRIP && !fitsAbsolute(in, pc) { // the scratch register may be rcx
		use |= stepUses
	}
	if changes {
		use |= stepChanges
	}
	return use
}

// roomPush bounds the size of pushing a return address.
func roomPush(ra uint64) uint32 {
	if near(ra) {
		return sizePush
	}
	return sizePush + sizePushHi
}

// roomLoad bounds the size of loading rcx with the operand of an indirect branch.
func roomLoad(in *x86.Inst) uint32 {
	switch {
	case in.ModRM >= 0xc0:
		return 3
	case in.Seg == segGS:
		return sizeMovabs + 3*sizeGS + 4
	case in.RIPRel:
		return sizeMovabs + 5
	}
	return x86.MaxLen
}

// near reports that an original address fits a sign-extended imm32 or disp32.
func near(addr uint64) bool { return addr < 1<<31 }

// fitsAbsolute reports that the RIP-relative operand of an instruction at pc can become a disp32: the address
// fits, which one that is truncated to 32 bits always does, and so does the SIB byte.
func fitsAbsolute(in *x86.Inst, pc uint64) bool {
	return (in.AddrSize || near(in.RIPTarget(pc))) && in.Len < x86.MaxLen
}
