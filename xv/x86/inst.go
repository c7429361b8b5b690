// Package x86 decodes x86-64 instructions (64-bit mode) for a binary translator: length, control-flow class, the place of
// every part of the encoding, and the target of a direct branch or RIP-relative operand. It does not name instructions or
// list operands.
//
// Manuals: "SDM" is the Intel 64 and IA-32 Architectures Software Developer's Manual, "APM" the AMD64 Architecture
// Programmer's Manual.
package x86

import "errors"

// Class is the control-flow class of an instruction.
type Class uint8

const (
	// Other falls through to the next instruction and can be copied as it is.
	Other Class = iota
	// Jmp is jmp rel8 or rel32.
	Jmp
	// Jcc is a conditional jump rel8 or rel32; the condition is in the low 4 bits of Opcode.
	Jcc
	// Loop is loopne, loope, loop, jrcxz or jecxz (e0 to e3), rel8.
	Loop
	// Call is call rel32.
	Call
	// JmpInd is jmp r/m64 (ff /4).
	JmpInd
	// CallInd is call r/m64 (ff /2).
	CallInd
	// Ret is a near return, c3 or c2 iw.
	Ret
	// Xbegin is c7 f8 with rel32, or rel16 when OpSize is set without REX.W.
	Xbegin
	// Syscall is 0f 05.
	Syscall
	// Int3 is cc.
	Int3
	// Special must never be copied by a translator: int n, int1, sysenter, sysexit, sysret, iret, uiret, far returns, calls
	// and jumps, enclu, everything that reads or changes the GS base (mov to gs, pop gs, lgs, lkgs, swapgs, rdgsbase,
	// wrgsbase), and near branches with an operand-size prefix that REX.W does not override: an Intel processor ignores the
	// prefix, an AMD one truncates RIP to 16 bits (APM vol. 3 sec. 1.2.2; SDM vol. 2 "JMP"). Their displacement is decoded as
	// AMD processors and objdump do, rel16; an Intel processor takes rel32, so that the length differs too.
	Special
	// Trap is ud0, ud1, ud2, rsm or hlt: it ends a block but may be copied, since it faults in user mode.
	Trap
)

// Encoding is the form of an instruction's opcode.
type Encoding uint8

const (
	// Legacy has optional escape bytes 0F, 0F 38 or 0F 3A.
	Legacy Encoding = iota
	// VEX2 starts with c5.
	VEX2
	// VEX3 starts with c4.
	VEX3
	// EVEX starts with 62.
	EVEX
	// XOP starts with 8f.
	XOP
	// Now3D is 0f 0f with the opcode as the last byte.
	Now3D
)

// Errors of Decode.
var (
	// ErrTruncated reports that the instruction goes on after the last byte given.
	ErrTruncated = errors.New("x86: instruction is truncated")
	// ErrInvalid reports an encoding for which the processor raises #UD.
	ErrInvalid = errors.New("x86: invalid instruction")
	// ErrTooLong reports an instruction of more than MaxLen bytes; the processor raises #GP.
	ErrTooLong = errors.New("x86: instruction of more than 15 bytes")
)

// MaxLen is the greatest length of an instruction (SDM vol. 2 sec. 2.3.11).
const MaxLen = 15

// Inst is a decoded instruction. Offsets count from the first byte of the instruction.
type Inst struct {
	Disp int64 // displacement of the memory operand, sign-extended; the 8-bit one of EVEX is not scaled
	Imm  int64 // immediate, or relative displacement of a direct branch, sign-extended; enter has its imm16 in bits 0-15 and its imm8 in bits 16-23

	Len      uint8
	Class    Class
	Encoding Encoding
	Map      uint8 // opcode map: 0 one-byte, 1 0F, 2 0F 38, 3 0F 3A; the map field of VEX, EVEX and XOP
	Opcode   byte  // of Now3D the suffix byte
	ModRM    byte
	SIB      byte
	Seg      byte  // last FS or GS override: 0x64 or 0x65, else 0
	REX      byte  // REX prefix in effect or 0; one that does not stand directly before the opcode is ignored
	Ext      byte  // bits W R X B (8 4 2 1) of REX, VEX, EVEX or XOP, not inverted
	VVVV     byte  // register of VEX, EVEX (5 bits) or XOP, not inverted, else 0
	PP       uint8 // mandatory prefix: 0 none, 1 66, 2 F3, 3 F2
	VL       uint8 // vector length field of VEX, EVEX or XOP

	HasModRM bool
	HasSIB   bool
	RIPRel   bool // the memory operand is relative to the next instruction
	OpSize   bool // prefix 66
	AddrSize bool // prefix 67
	Lock     bool // prefix F0
	Rep      bool // prefix F3
	Repne    bool // prefix F2

	PrefixLen uint8 // legacy prefixes and REX; the escape, VEX, EVEX or XOP bytes or the opcode follow
	OpOff     uint8 // of Opcode
	ModRMOff  uint8 // 0 without ModRM
	DispOff   uint8 // 0 without displacement
	ImmOff    uint8 // 0 without immediate
	DispSize  uint8 // 0, 1, 4, or 8 (absolute address of mov al/rax, a0 to a3)
	ImmSize   uint8 // 0, 1, 2, 3 (enter), 4, 8
}

// Target returns the target of a direct branch (Jmp, Jcc, Loop, Call, Xbegin) at addr.
func (in *Inst) Target(addr uint64) uint64 {
	return addr + uint64(in.Len) + uint64(in.Imm)
}

// RIPTarget returns the address of the RIP-relative operand of an instruction at addr.
func (in *Inst) RIPTarget(addr uint64) uint64 {
	t := addr + uint64(in.Len) + uint64(in.Disp)
	if in.AddrSize {
		// SDM vol. 2 sec. 2.2.1.6: the effective address is truncated to 32 bits.
		t = uint64(uint32(t))
	}
	return t
}

// MemOperand reports whether the instruction has an explicit memory operand: by ModRM or an absolute address. Of lea, nop
// and prefetches it is only an address.
func (in *Inst) MemOperand() bool {
	return in.HasModRM && in.ModRM < 0xc0 && !in.modRegister() || !in.HasModRM && in.DispSize != 0
}

// modRegister reports an instruction that takes its ModRM as a register form whatever the mod field (SDM vol. 2 "MOV—Move
// to/from Control Registers", "MOV—Move to/from Debug Registers").
func (in *Inst) modRegister() bool {
	return in.Encoding == Legacy && in.Map == 1 && in.Opcode&0xfc == 0x20
}

// Reg returns the register number in ModRM.reg with its R bit.
func (in *Inst) Reg() uint8 { return in.ModRM>>3&7 | in.Ext&4<<1 }

// RM returns the register number in ModRM.rm with its B bit; of a memory operand without SIB the base register.
func (in *Inst) RM() uint8 { return in.ModRM&7 | in.Ext&1<<3 }
