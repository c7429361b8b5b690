package x86

// Stores reports whether the instruction may write memory. It is conservative: true where the instruction is not known.
func (in *Inst) Stores() bool {
	switch in.Class {
	case Jmp, Jcc, Loop, JmpInd, Ret, Int3, Trap:
		return false
	case Other:
	default:
		return true
	}
	if in.Encoding == Legacy && in.Map == 0 && storesImplicitly[in.Opcode] {
		return true
	}
	if in.Encoding == Legacy && in.Map == 1 {
		switch b := in.Opcode; {
		case b == 0xa0, b == 0xa8: // push fs, push gs
			return true
		case b == 0xf7, b == 0xa6, b == 0xa7: // maskmovq, maskmovdqu, PadLock
			return true
		case b == 0x01 && in.ModRM >= 0xc0: // clzero and others that take their address from rax
			return true
		}
	}
	if !in.MemOperand() {
		return in.Encoding != Legacy && in.Map == 1 && in.Opcode == 0xf7 // vmaskmovdqu
	}
	switch in.Encoding {
	case Legacy:
		switch in.Map {
		case 0:
			return in.storesOneByte()
		case 1:
			return !loads0F[in.Opcode] && !(in.Opcode == 0x7e && in.Rep) // movq xmm, m64
		case 2:
			return in.Opcode >= 0xf0 && !(in.Opcode == 0xf0 || in.Opcode == 0xf1 && in.PP == 3) // movbe, crc32
		}
		return in.Opcode >= 0x14 && in.Opcode <= 0x17 // pextrb to extractps
	case Now3D:
		return false
	}
	return in.Map != 1 || !loads0F[in.Opcode] && !(in.Opcode == 0x7e && in.PP == 2)
}

// storesImplicitly are the one-byte opcodes that write memory which ModRM does not name: push, ins, pushf, movs, stos, enter.
var storesImplicitly = [256]bool{
	0x50: true, 0x51: true, 0x52: true, 0x53: true, 0x54: true, 0x55: true, 0x56: true, 0x57: true,
	0x68: true, 0x6a: true, 0x6c: true, 0x6d: true, 0x9c: true,
	0xa4: true, 0xa5: true, 0xaa: true, 0xab: true, 0xc8: true,
}

// storesOneByte is Stores of an instruction with a memory operand.
func (in *Inst) storesOneByte() bool {
	reg := in.ModRM >> 3 & 7
	switch b := in.Opcode; {
	case b < 0x40:
		return b&7 < 2 && b < 0x38 // the destination is memory, but of cmp
	case b >= 0x80 && b <= 0x83:
		return reg != 7 // all but cmp
	case b == 0xf6, b == 0xf7:
		return reg == 2 || reg == 3 // not, neg
	case b == 0xd9:
		return reg > 1 && reg != 4 && reg != 5 // but fld, fldenv, fldcw
	}
	switch in.Opcode {
	case 0x63, 0x69, 0x6b, 0x84, 0x85, 0x8a, 0x8b, 0x8d, 0x8e, 0xa0, 0xa1, 0xd8, 0xda, 0xdc, 0xde:
		return false
	}
	return true
}

// loads0F are opcodes of map 0F, with and without VEX or EVEX, whose memory operand is never written, or only an address.
var loads0F = func() (t [256]bool) {
	for _, r := range [][2]int{
		{0x0d, 0x0d}, {0x10, 0x10}, {0x12, 0x12}, {0x14, 0x16}, {0x18, 0x1a}, {0x1c, 0x1f}, {0x28, 0x28}, {0x2a, 0x2a}, {0x2c, 0x2f},
		{0x40, 0x4f}, {0x51, 0x6f}, {0x70, 0x70}, {0x74, 0x76}, {0x7c, 0x7d}, {0xa3, 0xa3}, {0xaf, 0xaf}, {0xb6, 0xb8},
		{0xbc, 0xbf}, {0xc2, 0xc2}, {0xc4, 0xc4}, {0xc6, 0xc6}, {0xd0, 0xd5}, {0xd8, 0xe6}, {0xe8, 0xef}, {0xf0, 0xf6}, {0xf8, 0xfe},
	} {
		for b := r[0]; b <= r[1]; b++ {
			t[b] = true
		}
	}
	return t
}()

// Serializes reports whether the instruction may be one that makes a processor fetch what follows it anew, or orders
// loads: cpuid, serialize and others of its group, and fences (SDM vol. 3 sec. 9.3).
func (in *Inst) Serializes() bool {
	if in.Encoding != Legacy || in.Map != 1 || in.Class != Other {
		return false
	}
	switch in.Opcode {
	case 0xa2:
		return true
	case 0x00, 0x01, 0xae:
		return in.ModRM >= 0xc0
	}
	return false
}
