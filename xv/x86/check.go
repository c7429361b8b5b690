package x86

// check applies the rules of e to a whole instruction: it gives the class that depends on ModRM or prefixes and reports
// encodings that do not exist.
func (in *Inst) check(e entry) error {
	reg := in.ModRM >> 3 & 7
	mem := in.ModRM < 0xc0
	pp := ppShift + entry(in.PP)
	if !mem {
		pp += 4
	}
	if e>>pp&1 == 0 || e>>(regShift+entry(reg))&1 != 0 {
		return ErrInvalid
	}
	if in.Encoding != Legacy && in.Encoding != Now3D && (in.OpSize || in.Rep || in.Repne || in.Lock || in.REX != 0) {
		// SDM vol. 2 sec. 2.3.2 to 2.3.4, 2.7.11; APM vol. 3 sec. 1.9.
		return ErrInvalid
	}
	locks := false
	switch e.rule() {
	case lockable:
		locks = mem
	case lockGrp:
		locks = mem && lockableGroup(in.Map, in.Opcode, reg)
	case grp3:
		locks = mem && (reg == 2 || reg == 3)
	case grp5:
		locks = mem && reg < 2
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
		locks = mem && reg == 1
	case grp15:
		forms := &grp15Reg
		if mem {
			forms = &grp15Mem
		}
		if forms[in.PP]>>reg&1 == 0 {
			return ErrInvalid
		}
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
		locks = true
	case sib:
		if mem && !in.HasSIB {
			return ErrInvalid
		}
	case x87:
		if x87Reserved(in.Opcode&7, in.ModRM) {
			return ErrInvalid
		}
	}
	if in.Lock && !locks {
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

// Values of ModRM.reg with which group 15 exists, by mandatory prefix: its memory and register forms (SDM vol. 2 table A-6).
// fxsave, fxrstor, ldmxcsr and stmxcsr ignore the prefix.
var (
	grp15Mem = [4]byte{
		0xff,               // fxsave, fxrstor, ldmxcsr, stmxcsr, xsave, xrstor, xsaveopt, clflush
		0x0f | 1<<6 | 1<<7, // clwb, clflushopt
		0x0f | 1<<4 | 1<<6, // ptwrite, clrssbsy
		0x0f,
	}
	grp15Reg = [4]byte{
		1<<5 | 1<<6 | 1<<7, // lfence, mfence, sfence
		1<<6 | 1<<7,        // tpause, pcommit
		0xff,               // rdfsbase, rdgsbase, wrfsbase, wrgsbase, ptwrite, incssp, umonitor
		1<<6 | 1<<7,        // umwait
	}
)

// Reserved x87 encodings, by the low 3 bits of the opcode: values of ModRM.reg of the memory forms, and of ModRM-0xc0 of
// the register forms. Reserved encodings that processors execute as an alias of another instruction, such as dc d0 for
// fcom, are not among them (SDM vol. 2 sec. A.5.2).
var (
	x87Mem = [8]byte{1: 1 << 1, 3: 1<<4 | 1<<6, 5: 1 << 5}
	x87Reg = [8]uint64{
		1: 0x0000_80cc_00fe_0000,
		2: 0xffff_fdff_0000_0000,
		3: 0xff00_00c0_0000_0000,
		5: 0xffff_0000_0000_0000,
		6: 0x0000_0000_fd00_0000,
		7: 0xff00_00fe_0000_0000,
	}
)

func x87Reserved(op, b byte) bool {
	if b < 0xc0 {
		return x87Mem[op]>>(b>>3&7)&1 != 0
	}
	return x87Reg[op]>>(b&63)&1 != 0
}
