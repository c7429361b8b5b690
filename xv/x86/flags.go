package x86

// Flags reports whether the instruction may read a status flag (OF, SF, ZF, AF, PF, CF), and whether it writes all six in every
// case. A flag that the manual calls undefined counts as written only where processors do not keep its old value: AF of
// the logic instructions and of shifts by one. It is conservative and speaks of the instruction alone, like RCX.
func (in *Inst) Flags() (reads, writesAll bool) {
	switch in.Class {
	case Other:
	case Jmp:
		return false, false
	default:
		return true, false
	}
	switch in.Encoding {
	case Now3D:
		return false, false
	case Legacy:
		switch in.Map {
		case 0:
			return in.flagsOneByte()
		case 1:
			return in.flags0F()
		case 2:
			// ptest (SDM vol. 2 "PTEST"); adcx, adox and the instructions from 80 are left as unknown.
			return in.Opcode >= 0xf0 || in.Opcode&0xf0 == 0x80, in.Opcode == 0x17
		}
		// pcmpestrm, pcmpestri, pcmpistrm, pcmpistri.
		return false, in.Opcode&0xfc == 0x60
	}
	switch {
	case in.Map == 1 && in.Encoding != XOP:
		return false, in.Opcode == 0x2e || in.Opcode == 0x2f // vucomiss, vcomiss
	case in.Map == 2 && in.Encoding != EVEX:
		return false, in.Opcode == 0x0e || in.Opcode == 0x0f || in.Opcode == 0x17 || // vtestps, vtestpd, vptest
			in.Opcode&0xf0 == 0xe0 // cmpccxadd
	case in.Map == 3 && in.Encoding != EVEX:
		return false, in.Opcode&0xfc == 0x60
	}
	return false, false
}

func (in *Inst) flagsOneByte() (reads, writesAll bool) {
	reg := in.ModRM >> 3 & 7
	switch b := in.Opcode; {
	case b < 0x40:
		// add, or, adc, sbb, and, sub, xor, cmp.
		return b&0x38 == 0x10 || b&0x38 == 0x18, true
	case b >= 0x80 && b <= 0x83:
		return reg == 2 || reg == 3, true
	case b == 0x84, b == 0x85, b == 0xa8, b == 0xa9: // test
		return false, true
	case b == 0x9c, b == 0x9f: // pushf, lahf
		return true, false
	case b == 0x9d: // popf
		return false, true
	case b == 0xa6, b == 0xa7, b == 0xae, b == 0xaf:
		// cmps, scas: none of the flags changes when rcx is 0 at the start of a repetition.
		return false, !in.Rep && !in.Repne
	case b == 0xc0, b == 0xc1, b == 0xd2, b == 0xd3:
		return reg == 2 || reg == 3, false // rcl, rcr read CF; a count of 0 changes no flag
	case b == 0xd0, b == 0xd1:
		return reg == 2 || reg == 3, reg >= 4 // rotates keep SF, ZF, AF, PF
	case b == 0xda, b == 0xdb:
		// fcmovcc.
		return in.ModRM >= 0xc0 && in.ModRM < 0xe0, false
	case b == 0xf5: // cmc
		return true, false
	case b == 0xf6, b == 0xf7:
		return false, reg < 2 || reg == 3 // test, neg
	case b == 0xc6 && in.ModRM == 0xf8: // xabort
		return true, false
	}
	return false, false
}

func (in *Inst) flags0F() (reads, writesAll bool) {
	switch b := in.Opcode; {
	case b == 0x00, b == 0x01, b < 0x0d && b > 0x03: // system instructions
		return true, false
	case b == 0x2e, b == 0x2f: // ucomiss, comiss clear OF, SF and AF
		return false, true
	case b >= 0x30 && b < 0x40: // system instructions
		return b != 0x31, false
	case b >= 0x40 && b < 0x50, b >= 0x90 && b < 0xa0: // cmovcc, setcc
		return true, false
	case b == 0x78, b == 0x79: // vmread, vmwrite
		return true, false
	case b == 0xb0, b == 0xb1, b == 0xc0, b == 0xc1: // cmpxchg, xadd
		return false, true
	case b == 0xb8: // popcnt
		return false, true
	case b == 0xc7: // rdrand and rdseed write all, others some
		return false, in.ModRM >= 0xf0 && in.PP < 2
	}
	return false, false
}
