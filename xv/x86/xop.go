package x86

// The opcode maps of XOP (APM vol. 3 app. A).

// xop8 is XOP map 8, with an imm8.
var xop8 = table([]row{
	{0x85, 0x87, op | pNP | ib}, // vpmacssww, vpmacsswd, vpmacssdql
	{0x8e, 0x8f, op | pNP | ib}, // vpmacssdd, vpmacssdqh
	{0x95, 0x97, op | pNP | ib}, // vpmacsww, vpmacswd, vpmacsdql
	{0x9e, 0x9f, op | pNP | ib}, // vpmacsdd, vpmacsdqh
	{0xa2, 0xa3, op | pNP | ib}, // vpcmov, vpperm
	{0xa6, 0xa6, op | pNP | ib}, // vpmadcsswd
	{0xb6, 0xb6, op | pNP | ib}, // vpmadcswd
	{0xc0, 0xc3, op | pNP | ib}, // vprotb, vprotw, vprotd, vprotq
	{0xcc, 0xcf, op | pNP | ib}, // vpcomb, vpcomw, vpcomd, vpcomq
	{0xec, 0xef, op | pNP | ib}, // vpcomub, vpcomuw, vpcomud, vpcomuq
})

// xop9 is XOP map 9.
var xop9 = table([]row{
	{0x01, 0x01, op | pNP | regs(1, 2, 3, 4, 5, 6, 7)}, // blcfill, blsfill, blcs, tzmsk, blcic, blsic, t1mskc
	{0x02, 0x02, op | pNP | regs(1, 6)},                // blcmsk, blci
	{0x12, 0x12, op | rNP | regs(0, 1)},                // llwpcb, slwpcb
	{0x80, 0x83, op | pNP},                             // vfrczps, vfrczpd, vfrczss, vfrczsd
	{0x90, 0x99, op | pNP},                             // vprotb, vprotw, vprotd, vprotq, vpshlb, vpshlw, vpshld, vpshlq, vpshab, vpshaw
	{0x9a, 0x9b, op | pNP},                             // vpshad, vpshaq
	{0xc1, 0xc3, op | pNP},                             // vphaddbw, vphaddbd, vphaddbq
	{0xc6, 0xc7, op | pNP},                             // vphaddwd, vphaddwq
	{0xcb, 0xcb, op | pNP},                             // vphadddq
	{0xd1, 0xd3, op | pNP},                             // vphaddubw, vphaddubd, vphaddubq
	{0xd6, 0xd7, op | pNP},                             // vphadduwd, vphadduwq
	{0xdb, 0xdb, op | pNP},                             // vphaddudq
	{0xe1, 0xe3, op | pNP},                             // vphsubbw, vphsubwd, vphsubdq
})

// xop10 is XOP map 10, with an imm32.
var xop10 = table([]row{
	{0x10, 0x10, op | pNP | id},              // bextr
	{0x12, 0x12, op | pNP | id | regs(0, 1)}, // lwpins, lwpval
})

// xopMaps are the opcode maps from 8.
var xopMaps = [3]*[256]entry{&xop8, &xop9, &xop10}

// now3dOpcode reports the opcodes of 3DNow! and its extensions, with those of the Geode (APM vol. 3 app. A).
func now3dOpcode(b byte) bool {
	switch b {
	case 0x0c, 0x0d, 0x1c, 0x1d, 0x86, 0x87, 0x8a, 0x8e, 0x90, 0x94, 0x96, 0x97, 0x9a, 0x9e, 0xa0, 0xa4, 0xa6, 0xa7, 0xaa,
		0xae, 0xb0, 0xb4, 0xb6, 0xb7, 0xbb, 0xbf:
		return true
	}
	return false
}
