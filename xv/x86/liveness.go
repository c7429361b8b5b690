package x86

// use says how an opcode uses general-purpose registers, apart from the address of a memory operand.
type use uint16

const (
	known  use = 1 << iota // the row is complete
	regR                   // ModRM.reg is read
	regW                   // ModRM.reg is written
	rmR                    // ModRM.rm, when a register, is read
	rmW                    // ModRM.rm, when a register, is written
	opR                    // the register in the low 3 bits of the opcode is read
	opW                    // the register in the low 3 bits of the opcode is written
	vR                     // vvvv is read
	vW                     // vvvv is written
	regB                   // ModRM.reg, or the register of the opcode, is a byte register
	rmB                    // ModRM.rm is a byte register
	cxR                    // rcx is read
	maybe                  // ModRM.reg, ModRM.rm and vvvv may be general registers, and read
	zeroer                 // the result does not depend on the operands when they are the same register

	regRW = regR | regW
	rmRW  = rmR | rmW
	both8 = regB | rmB
)

type useRow struct {
	first, last byte
	use
}

func useTable(rows []useRow) (t [256]use) {
	for _, r := range rows {
		for b := int(r.first); b <= int(r.last); b++ {
			t[b] = r.use | known
		}
	}
	return t
}

// arithmetic is the rows of one of the eight operations of 00 to 3f.
func arithmetic(first byte, dst, flags use) []useRow {
	rm, reg := rmR, regR
	if dst != 0 {
		rm, reg = rmRW, regRW
	}
	return []useRow{
		{first, first, rm | regR | both8}, {first + 1, first + 1, rm | regR | flags},
		{first + 2, first + 2, reg | rmR | both8}, {first + 3, first + 3, reg | rmR | flags},
		{first + 4, first + 5, 0},
	}
}

// useOneByte leaves out opcodes whose use depends on ModRM.reg, see the method, and control flow.
var useOneByte = useTable(append(joinRows(
	arithmetic(0x00, rmW, 0), arithmetic(0x08, rmW, 0), arithmetic(0x10, rmW, 0), arithmetic(0x18, rmW, zeroer),
	arithmetic(0x20, rmW, 0), arithmetic(0x28, rmW, zeroer), arithmetic(0x30, rmW, zeroer), arithmetic(0x38, 0, 0)),
	[]useRow{
		{0x50, 0x57, opR}, {0x58, 0x5f, opW}, // push, pop
		{0x63, 0x63, regW | rmR},         // movsxd
		{0x68, 0x68, 0}, {0x6a, 0x6a, 0}, // push
		{0x69, 0x69, regW | rmR}, {0x6b, 0x6b, regW | rmR}, // imul
		{0x6c, 0x6f, 0},                                            // ins, outs
		{0x70, 0x7f, 0},                                            // jcc
		{0x84, 0x84, regR | rmR | both8}, {0x85, 0x85, regR | rmR}, // test
		{0x86, 0x86, regRW | rmRW | both8}, {0x87, 0x87, regRW | rmRW}, // xchg
		{0x88, 0x88, regR | rmW | both8}, {0x89, 0x89, regR | rmW}, // mov
		{0x8a, 0x8a, regW | rmR | both8}, {0x8b, 0x8b, regW | rmR}, // mov
		{0x8c, 0x8c, rmW}, {0x8e, 0x8e, rmR}, // mov, segment registers
		{0x8d, 0x8d, regW},               // lea
		{0x8f, 0x8f, rmW},                // pop
		{0x90, 0x97, opR | opW},          // xchg
		{0x98, 0x99, 0}, {0x9b, 0x9f, 0}, // cbw, cwd, fwait, pushf, popf, sahf, lahf
		{0xa0, 0xaf, 0},                             // mov, string instructions, test
		{0xb0, 0xb7, opW | regB}, {0xb8, 0xbf, opW}, // mov
		{0xc0, 0xc0, rmRW | rmB}, {0xc1, 0xc1, rmRW}, {0xd0, 0xd0, rmRW | rmB}, {0xd1, 0xd1, rmRW}, // shifts
		{0xd2, 0xd2, rmRW | rmB | cxR}, {0xd3, 0xd3, rmRW | cxR}, // shifts by cl
		{0xc6, 0xc6, rmW | rmB}, {0xc7, 0xc7, rmW}, // mov
		{0xc8, 0xc9, 0},                                                    // enter, leave
		{0xd7, 0xdf, 0},                                                    // xlat, x87
		{0xe4, 0xe7, 0}, {0xeb, 0xeb, 0}, {0xe9, 0xe9, 0}, {0xec, 0xef, 0}, // in, out, jmp
		{0xf5, 0xf5, 0}, {0xf8, 0xfd, 0}, // cmc to std
		{0xfe, 0xfe, rmRW | rmB}, // inc, dec
	}...))

func joinRows(lists ...[]useRow) (all []useRow) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var use0F = useTable([]useRow{
	{0x0d, 0x0d, 0}, {0x0f, 0x17, 0}, {0x18, 0x1d, 0}, {0x1e, 0x1e, maybe}, {0x1f, 0x1f, 0}, // prefetch, 3DNow!, SSE moves, nop
	{0x28, 0x29, 0}, {0x2b, 0x2b, 0}, {0x2e, 0x2f, 0}, // movaps, movntps, comiss
	{0x2a, 0x2a, rmR},                                                  // cvtsi2ss
	{0x2c, 0x2d, maybe},                                                // cvttss2si, cvttps2pi
	{0x31, 0x31, 0},                                                    // rdtsc
	{0x40, 0x4f, regR | rmR},                                           // cmovcc keeps its destination where the condition is false
	{0x50, 0x50, regW},                                                 // movmskps
	{0x51, 0x6d, 0}, {0x6f, 0x77, 0}, {0x7c, 0x7d, 0}, {0x7f, 0x7f, 0}, // SSE
	{0x6e, 0x6e, rmR}, {0x7e, 0x7e, maybe}, // movd
	{0x80, 0x8f, 0},                  // jcc
	{0x90, 0x9f, rmW | rmB},          // setcc
	{0xa0, 0xa1, 0}, {0xa8, 0xa8, 0}, // push, pop
	{0xa2, 0xa2, cxR},                                                                                         // cpuid
	{0xa3, 0xa3, regR | rmR}, {0xab, 0xab, regR | rmRW}, {0xb3, 0xb3, regR | rmRW}, {0xbb, 0xbb, regR | rmRW}, // bt, bts, btr, btc
	{0xba, 0xba, rmRW},                                   // bt, bts, btr, btc
	{0xa4, 0xa4, regR | rmRW}, {0xac, 0xac, regR | rmRW}, // shld, shrd
	{0xa5, 0xa5, regR | rmRW | cxR}, {0xad, 0xad, regR | rmRW | cxR},
	{0xae, 0xae, maybe},                                          // group 15
	{0xaf, 0xaf, regRW | rmR},                                    // imul
	{0xb0, 0xb0, regR | rmRW | both8}, {0xb1, 0xb1, regR | rmRW}, // cmpxchg
	{0xb6, 0xb6, regW | rmR | rmB}, {0xbe, 0xbe, regW | rmR | rmB}, // movzx, movsx
	{0xb7, 0xb7, regW | rmR}, {0xbf, 0xbf, regW | rmR},
	{0xb8, 0xb8, regW | rmR},                                       // popcnt
	{0xbc, 0xbd, regRW | rmR},                                      // bsf and bsr keep their destination when the source is zero (APM vol. 3 "BSF")
	{0xc0, 0xc0, regRW | rmRW | both8}, {0xc1, 0xc1, regRW | rmRW}, // xadd
	{0xc2, 0xc2, 0}, {0xc6, 0xc6, 0}, // cmpps, shufps
	{0xc3, 0xc3, regR},                                        // movnti
	{0xc4, 0xc4, rmR}, {0xc5, 0xc5, regW}, {0xd7, 0xd7, regW}, // pinsrw, pextrw, pmovmskb
	{0xc8, 0xcf, opR | opW},          // bswap
	{0xd0, 0xd6, 0}, {0xd8, 0xfe, 0}, // SSE
})

var use0F38 = useTable([]useRow{
	{0x00, 0x41, 0}, {0xc8, 0xcf, 0}, {0xdb, 0xdf, 0}, // SSSE3, SSE4, SHA, AES
	{0xf0, 0xf1, maybe}, {0xf5, 0xf6, maybe}, {0xf9, 0xf9, regR}, // movbe, crc32, wruss, wrss, adcx, adox, movdiri
})

var use0F3A = useTable([]useRow{
	{0x08, 0x0f, 0}, {0x21, 0x21, 0}, {0x40, 0x44, 0}, {0xcc, 0xcf, 0}, {0xdf, 0xdf, 0},
	{0x14, 0x17, rmW}, {0x20, 0x20, rmR}, {0x22, 0x22, rmR}, // pextr, extractps, pinsr
})

// useVector are the opcodes of VEX, EVEX and XOP that have general registers or an implicit rcx, by map; all others have none.
var useVector = [32]*[256]use{1: &useVector1, 2: &useVector2, 3: &useVector3, 5: &useVector5, 7: &useVector7, 9: &useXOP9, 10: &useXOP10}

var (
	useVector1 = useTable([]useRow{
		{0x2a, 0x2a, maybe}, {0x2c, 0x2d, maybe}, // vcvtsi2ss, vcvttss2si, vcvtss2si
		{0x50, 0x50, regW}, {0x6e, 0x6e, rmR}, {0x7e, 0x7e, maybe}, // vmovmskps, vmovd
		{0x78, 0x79, maybe}, {0x7b, 0x7b, maybe}, // vcvttss2usi, vcvtss2usi, vcvtusi2ss
		{0x92, 0x93, maybe},                                         // kmov
		{0xc4, 0xc4, maybe}, {0xc5, 0xc5, regW}, {0xd7, 0xd7, regW}, // vpinsrw, vpextrw, vpmovmskb
	})
	useVector2 = useTable([]useRow{
		{0x49, 0x4a, maybe}, {0x6d, 0x6d, maybe}, // AMX
		{0x7a, 0x7c, rmR},             // vpbroadcast
		{0xe0, 0xef, maybe},           // cmpccxadd
		{0xf2, 0xf2, regW | rmR | vR}, // andn
		{0xf3, 0xf3, vW | rmR},        // blsr, blsmsk, blsi
		{0xf5, 0xf5, regW | rmR | vR}, // bzhi, pext, pdep
		{0xf6, 0xf6, regW | vW | rmR}, // mulx
		{0xf7, 0xf7, regW | rmR | vR}, // bextr, shlx, sarx, shrx
	})
	useVector3 = useTable([]useRow{
		{0x07, 0x07, maybe}, {0x77, 0x77, maybe}, // AMX
		{0x14, 0x17, rmW}, {0x20, 0x20, rmR}, {0x22, 0x22, rmR}, // vpextr, vextractps, vpinsr
		{0x60, 0x63, cxR},        // vpcmpestri and vpcmpistri write rcx
		{0xf0, 0xf0, regW | rmR}, // rorx
	})
	useVector5 = useTable([]useRow{
		{0x2a, 0x2a, maybe}, {0x2c, 0x2d, maybe}, {0x6e, 0x6e, rmR}, {0x78, 0x79, maybe}, {0x7b, 0x7b, maybe}, {0x7e, 0x7e, maybe},
	})
	useVector7 = useTable([]useRow{{0xf6, 0xf8, cxR}})
	useXOP9    = useTable([]useRow{{0x01, 0x02, maybe}, {0x12, 0x12, maybe}})
	useXOP10   = useTable([]useRow{{0x10, 0x12, maybe}})
)

const rcx = 1

// RCX reports whether the instruction may read any part of rcx, and whether it overwrites all of it, in every case and
// without reading it. It is conservative: reads is true and writes false where the instruction is not known. It speaks of
// the instruction alone; but reads is true of calls, indirect branches, returns, Special and Trap, whose continuation
// is not known. A write of 32 bits clears the upper half (SDM vol. 1 sec. 3.4.1.1) and so overwrites all; one of 8 or 16
// bits does not.
func (in *Inst) RCX() (reads, writes bool) {
	switch in.Class {
	case Syscall:
		return false, true // rcx becomes the address of the next instruction (SDM vol. 2 "SYSCALL")
	case Other, Jmp, Jcc:
	default:
		return true, false
	}
	u := in.uses()
	if u&known == 0 {
		return true, false
	}
	if in.MemOperand() && in.addressRCX() || u&cxR != 0 {
		return true, false
	}
	mem := in.HasModRM && in.ModRM < 0xc0
	size := !(in.OpSize && in.Ext&8 == 0)
	if u&zeroer != 0 && !mem && in.Reg() == rcx && in.RM() == rcx {
		return false, size
	}
	operand := func(n uint8, isByte bool, r, w use) {
		if !in.isRCX(n, isByte) {
			return
		}
		reads = reads || u&(r|maybe) != 0
		writes = writes || u&w != 0 && !isByte && size
	}
	if in.HasModRM {
		operand(in.Reg(), u&regB != 0, regR, regW)
		if !mem {
			operand(in.RM(), u&rmB != 0, rmR, rmW)
		}
	}
	if u&(opR|opW) != 0 {
		operand(in.Opcode&7|in.Ext&1<<3, u&regB != 0, opR, opW)
	}
	if u&(vR|vW|maybe) != 0 && in.Encoding != Legacy {
		operand(in.VVVV, false, vR, vW)
	}
	return reads, writes && !reads
}

// ChangesRCX reports whether the instruction may change any part of rcx before the next one, or the target of its branch,
// runs. It is conservative: true where the instruction is not known.
func (in *Inst) ChangesRCX() bool {
	switch in.Class {
	case Jmp, Jcc, Int3, Trap:
		return false
	case Other:
	case Loop:
		return in.Opcode != 0xe3 // jrcxz, jecxz
	default:
		return true
	}
	u := in.uses()
	if u&known == 0 {
		return true
	}
	if u&cxR != 0 {
		// Shifts by cl, shld and shrd only read it; repeated string instructions, cpuid, cmpxchg8b and others may not.
		shift := in.Encoding == Legacy && (in.Map == 0 && in.Opcode&0xfe == 0xd2 || in.Map == 1 && in.Opcode&0xf7 == 0xa5)
		if !shift {
			return true
		}
	}
	if in.Encoding == Legacy && in.Map == 1 && in.Opcode&0xf0 == 0x40 { // cmovcc
		u |= regW
	}
	if in.HasModRM {
		if u&(regW|maybe) != 0 && in.isRCX(in.Reg(), u&regB != 0) {
			return true
		}
		if u&(rmW|maybe) != 0 && in.ModRM >= 0xc0 && in.isRCX(in.RM(), u&rmB != 0) {
			return true
		}
	}
	if u&opW != 0 && in.isRCX(in.Opcode&7|in.Ext&1<<3, u&regB != 0) {
		return true
	}
	return u&(vW|maybe) != 0 && in.Encoding != Legacy && in.VVVV == rcx
}

// UseRCX reports whether the instruction needs the value of rcx, or leaves a part of it as it is, and whether it may change
// rcx: RCX and ChangesRCX together, for less than the price of one where the instruction does not mention rcx.
func (in *Inst) UseRCX() (needs, changes bool) {
	if in.Class == Other && !in.mayMentionRCX() {
		return false, false
	}
	reads, writes := in.RCX()
	changes = in.ChangesRCX()
	return reads || changes && !writes, changes
}

// OperandRCX reports whether rcx is the register operand in ModRM.rm, or part of the address of the memory operand.
func (in *Inst) OperandRCX() bool {
	if in.HasModRM && in.ModRM >= 0xc0 {
		return in.RM() == rcx
	}
	return in.addressRCX()
}

// mayMentionRCX reports whether the instruction may use rcx at all. It takes registers 5, 9 and 13 for rcx too, and ch so
// with it.
func (in *Inst) mayMentionRCX() bool {
	if in.Encoding != Legacy {
		return true
	}
	u := in.uses()
	if u&(known|cxR|maybe) != known {
		return true
	}
	if !in.HasModRM {
		return u&(opR|opW) != 0 && in.Opcode&3 == rcx
	}
	if in.ModRM>>3&3 == rcx {
		return true
	}
	if in.HasSIB {
		return in.SIB&3 == rcx || in.SIB>>3&3 == rcx
	}
	return in.ModRM&3 == rcx
}

// isRCX reports whether register n is rcx or a part of it: without REX byte register 5 is ch (SDM vol. 1 table 3-2).
func (in *Inst) isRCX(n uint8, isByte bool) bool {
	return n == rcx || isByte && n == 5 && in.REX == 0 && in.Encoding == Legacy
}

// addressRCX reports whether rcx is base or index of the memory operand.
func (in *Inst) addressRCX() bool {
	if !in.HasModRM || in.RIPRel {
		return false
	}
	if !in.HasSIB {
		return in.RM() == rcx
	}
	if in.SIB&7|in.Ext&1<<3 == rcx {
		return true
	}
	return in.SIB>>3&7|in.Ext&2<<2 == rcx && !in.vectorIndex()
}

// vectorIndex reports gathers and scatters, whose index is a vector register.
func (in *Inst) vectorIndex() bool {
	if in.Map != 2 || in.Encoding == Legacy {
		return false
	}
	switch in.Opcode {
	case 0x90, 0x91, 0x92, 0x93:
		return true
	case 0xa0, 0xa1, 0xa2, 0xa3, 0xc6, 0xc7:
		return in.Encoding == EVEX
	}
	return false
}

// uses finds how the instruction uses registers.
func (in *Inst) uses() use {
	if in.Encoding != Legacy && in.Encoding != Now3D {
		if t := useVector[in.Map&31]; t != nil {
			return t[in.Opcode] | known
		}
		return known
	}
	switch in.Map {
	case 0:
		return in.useOneByte()
	case 1:
		reg := in.ModRM >> 3 & 7
		switch {
		case in.Encoding == Now3D:
			return known
		case in.Opcode == 0x78 || in.Opcode == 0x79, in.Opcode == 0xc7 && reg == 1:
			return known | cxR // vmread; cmpxchg8b reads ecx
		case in.Opcode == 0x0e, in.Opcode == 0x77:
			return known // femms, emms
		}
		return use0F[in.Opcode]
	case 2:
		return use0F38[in.Opcode]
	}
	return use0F3A[in.Opcode]
}

func (in *Inst) useOneByte() use {
	u := useOneByte[in.Opcode]
	reg := in.ModRM >> 3 & 7
	var size use
	if in.Opcode&1 == 0 {
		size = rmB
	}
	switch in.Opcode {
	case 0x80, 0x81, 0x83: // group 1: /7 is cmp
		if reg == 7 {
			return known | rmR | size
		}
		return known | rmRW | size
	case 0xf6, 0xf7: // group 3: test, not, neg, mul, imul, div, idiv
		if reg == 2 || reg == 3 {
			return known | rmRW | size
		}
		return known | rmR | size
	case 0xff: // group 5: inc, dec, push
		if reg < 2 {
			return known | rmRW
		}
		return known | rmR
	case 0xc6, 0xc7: // group 11: mov; xabort is f8
		if in.ModRM == 0xf8 {
			return 0
		}
	case 0x90:
		if in.Ext&1 == 0 {
			return known // nop, pause
		}
	case 0x6c, 0x6d, 0x6e, 0x6f, 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf:
		if in.Rep || in.Repne {
			return known | cxR
		}
	}
	return u
}
