package x86

// oneByte is the one-byte opcode map (SDM vol. 2 tables; APM vol. 3 app. A). Opcodes that are
// left out do not exist in 64-bit mode, or lead to another map: 0f, 62, c4, c5, and 8f as XOP.
var oneByte = table([]row{
	{0x00, 0x01, form | lockable}, {0x02, 0x03, form}, {0x04, 0x04, plain | ib}, {0x05, 0x05, plain | iz}, // add
	{0x08, 0x09, form | lockable}, {0x0a, 0x0b, form}, {0x0c, 0x0c, plain | ib}, {0x0d, 0x0d, plain | iz}, // or
	{0x10, 0x11, form | lockable}, {0x12, 0x13, form}, {0x14, 0x14, plain | ib}, {0x15, 0x15, plain | iz}, // adc
	{0x18, 0x19, form | lockable}, {0x1a, 0x1b, form}, {0x1c, 0x1c, plain | ib}, {0x1d, 0x1d, plain | iz}, // sbb
	{0x20, 0x21, form | lockable}, {0x22, 0x23, form}, {0x24, 0x24, plain | ib}, {0x25, 0x25, plain | iz}, // and
	{0x28, 0x29, form | lockable}, {0x2a, 0x2b, form}, {0x2c, 0x2c, plain | ib}, {0x2d, 0x2d, plain | iz}, // sub
	{0x30, 0x31, form | lockable}, {0x32, 0x33, form}, {0x34, 0x34, plain | ib}, {0x35, 0x35, plain | iz}, // xor
	{0x38, 0x3b, form}, {0x3c, 0x3c, plain | ib}, {0x3d, 0x3d, plain | iz}, // cmp
	{0x26, 0x26, prefix}, {0x2e, 0x2e, prefix}, {0x36, 0x36, prefix}, {0x3e, 0x3e, prefix}, // es, cs, ss, ds
	{0x40, 0x4f, prefix},     // REX
	{0x50, 0x5f, plain},      // push, pop
	{0x63, 0x63, form},       // movsxd
	{0x64, 0x67, prefix},     // fs, gs, operand size, address size
	{0x68, 0x68, plain | iz}, // push
	{0x69, 0x69, form | iz},  // imul
	{0x6a, 0x6a, plain | ib}, // push
	{0x6b, 0x6b, form | ib},  // imul
	{0x6c, 0x6f, plain},      // ins, outs
	{0x70, 0x7f, plain | relB | jcc},
	{0x80, 0x80, form | ib | lockGrp}, // group 1
	{0x81, 0x81, form | iz | lockGrp},
	{0x83, 0x83, form | ib | lockGrp},
	{0x84, 0x85, form},                                // test
	{0x86, 0x87, form | lockable},                     // xchg
	{0x88, 0x8b, form},                                // mov
	{0x8c, 0x8c, form | regs(0, 1, 2, 3, 4, 5)},       // mov from segment register
	{0x8d, 0x8d, op | memAny},                         // lea
	{0x8e, 0x8e, form | movSeg | regs(0, 2, 3, 4, 5)}, // mov to segment register
	{0x8f, 0x8f, form | regs(0)},                      // pop
	{0x90, 0x99, plain},                               // xchg, nop, pause, cbw, cwd
	{0x9b, 0x9f, plain},                               // fwait, pushf, popf, sahf, lahf
	{0xa0, 0xa3, plain | moffs},                       // mov
	{0xa4, 0xa7, plain},                               // movs, cmps
	{0xa8, 0xa8, plain | ib},                          // test
	{0xa9, 0xa9, plain | iz},
	{0xaa, 0xaf, plain},            // stos, lods, scas
	{0xb0, 0xb7, plain | ib},       // mov
	{0xb8, 0xbf, plain | iv},       // mov
	{0xc0, 0xc1, form | ib},        // group 2
	{0xc2, 0xc2, plain | iw | ret}, // ret
	{0xc3, 0xc3, plain | ret},      // ret
	{0xc6, 0xc6, form | ib | grp11 | regs(0, 7)},
	{0xc7, 0xc7, form | iz | grp11 | regs(0, 7)},
	{0xc8, 0xc8, plain | iwb},          // enter
	{0xc9, 0xc9, plain},                // leave
	{0xca, 0xca, plain | iw | special}, // retf
	{0xcb, 0xcb, plain | special},      // retf
	{0xcc, 0xcc, plain | int3},         // int3
	{0xcd, 0xcd, plain | ib | special}, // int
	{0xcf, 0xcf, plain | special},      // iret
	{0xd0, 0xd3, form},                 // group 2
	{0xd7, 0xd7, plain},                // xlat
	{0xd8, 0xdf, form | x87},           // x87
	{0xe0, 0xe3, plain | relB | loop},  // loopne, loope, loop, jrcxz
	{0xe4, 0xe7, plain | ib},           // in, out
	{0xe8, 0xe8, plain | relZ | call},  // call
	{0xe9, 0xe9, plain | relZ | jmp},   // jmp
	{0xeb, 0xeb, plain | relB | jmp},   // jmp
	{0xec, 0xef, plain},                // in, out
	{0xf0, 0xf0, prefix},               // lock
	{0xf1, 0xf1, plain | special},      // int1
	{0xf2, 0xf3, prefix},               // repne, rep
	{0xf4, 0xf4, plain | trap},         // hlt
	{0xf5, 0xf5, plain},                // cmc
	{0xf6, 0xf7, form | grp3},          // group 3
	{0xf8, 0xfd, plain},                // clc, stc, cli, sti, cld, std
	{0xfe, 0xfe, form | lockGrp | regs(0, 1)},
	{0xff, 0xff, form | grp5 | regs(0, 1, 2, 3, 4, 5, 6)},
})
