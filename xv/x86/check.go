package x86

// check applies the rules of e to a whole instruction: it gives the class that depends on ModRM or prefixes and reports
// encodings that do not exist.
func (in *Inst) check(e entry) error {
	reg := in.ModRM >> 3 & 7
	mem := in.ModRM < 0xc0
	if e>>(ppShift+entry(in.PP))&1 == 0 || e>>(regShift+entry(reg))&1 != 0 ||
		e&modrm != 0 && (mem && e&regOnly != 0 || !mem && e&memOnly != 0) {
		return ErrInvalid
	}
	if in.Encoding != Legacy && in.Encoding != Now3D && (in.OpSize || in.Rep || in.Repne || in.Lock || in.REX != 0) {
		// SDM vol. 2 sec. 2.3.2, 2.3.3, 2.7.2; APM vol. 3 sec. 1.2.7.
		return ErrInvalid
	}
	lockable := false
	switch e & (ruleMask << ruleShift) {
	case lock:
		lockable = mem
	case lockGrp:
		lockable = mem && lockableGroup(in.Map, in.Opcode, reg)
	case grp3:
		lockable = mem && (reg == 2 || reg == 3)
	case grp5:
		lockable = mem && reg < 2
		switch reg {
		case 2:
			in.Class = CallInd
		case 4:
			in.Class = JmpInd
		case 3, 5:
			if !mem {
				return ErrInvalid
			}
			in.Class = Special
		}
	case grp11:
		if reg == 7 && in.ModRM != 0xf8 {
			return ErrInvalid
		}
		if in.ModRM == 0xf8 && in.Opcode == 0xc7 {
			in.Class = Xbegin
		}
	case movSeg:
		if reg == 5 {
			in.Class = Special
		}
	case grp6:
		// lkgs (SDM vol. 2 "LKGS").
		if reg == 6 {
			if in.PP != 3 {
				return ErrInvalid
			}
			in.Class = Special
		}
	case grp7:
		if !mem {
			in.Class = grp7Class(in.ModRM, in.PP)
		}
	case grp9:
		lockable = mem && reg == 1
	case grp15:
		// rdgsbase, wrgsbase.
		if !mem && in.PP == 2 && (reg == 1 || reg == 3) {
			in.Class = Special
		}
	case now3d:
		if !now3dOpcode(in.Opcode) {
			return ErrInvalid
		}
	case movCR:
		// AMD: LOCK selects CR8 (APM vol. 3 "MOV CRn").
		lockable = true
	case vsib:
		if !in.HasSIB {
			return ErrInvalid
		}
	}
	if in.Lock && !lockable {
		// SDM vol. 2 "LOCK": only some instructions, and only with a memory destination.
		return ErrInvalid
	}
	if in.OpSize && in.Ext&8 == 0 && in.nearBranch() {
		in.Class = Special
	}
	return nil
}

// nearBranch reports a branch whose operand-size prefix processors treat in different ways, or truncate RIP with.
func (in *Inst) nearBranch() bool {
	switch in.Class {
	case Jmp, Jcc, Loop, Call, JmpInd, CallInd, Ret:
		return true
	}
	return false
}

// lockableGroup reports whether an instruction of a group writes its operand: group 1 but cmp (80 to 83), bts, btr and btc
// of group 8 (0f ba), inc and dec of group 4 (fe) (SDM vol. 2 table A-6).
func lockableGroup(m uint8, op, reg byte) bool {
	if m == 1 {
		return reg >= 5
	}
	return op == 0xfe || reg != 7
}

// grp7Class returns the class of the register form of 0f 01.
func grp7Class(b byte, pp uint8) Class {
	switch {
	case b == 0xf8, // swapgs
		b == 0xca && pp >= 2, // erets, eretu
		b == 0xec && pp == 2, // uiret
		b == 0xd7 && pp == 0: // enclu
		return Special
	}
	return Other
}

// now3dOpcode reports the opcodes of 3DNow! and its extensions, with those of the Geode (APM vol. 3 table A-13).
func now3dOpcode(b byte) bool {
	switch b {
	case 0x0c, 0x0d, 0x1c, 0x1d, 0x86, 0x87, 0x8a, 0x8e, 0x90, 0x94, 0x96, 0x97, 0x9a, 0x9e, 0xa0, 0xa4, 0xa6, 0xa7, 0xaa,
		0xae, 0xb0, 0xb4, 0xb6, 0xb7, 0xbb, 0xbf:
		return true
	}
	return false
}
