package x86

// map0F is the opcode map 0F (SDM vol. 2 tables; APM vol. 3 app. A). In the SSE part an opcode
// exists only with the prefixes given. 0f 38 and 0f 3a lead to other maps.
var map0F = table([]row{
	{0x00, 0x00, form | grp6 | regs(0, 1, 2, 3, 4, 5, 6)}, // sldt, str, lldt, ltr, verr, verw, lkgs
	{0x01, 0x01, form | grp7},                             // group 7
	{0x02, 0x03, form},                                    // lar, lsl
	{0x05, 0x05, plain | syscall},                         // syscall
	{0x06, 0x06, plain},                                   // clts
	{0x07, 0x07, plain | special},                         // sysret
	{0x08, 0x09, plain},                                   // invd, wbinvd, wbnoinvd
	{0x0b, 0x0b, plain | trap},                            // ud2
	{0x0d, 0x0d, form},                                    // prefetch, prefetchw; a reserved nop with a register
	{0x0e, 0x0e, plain},                                   // femms
	{0x0f, 0x0f, form | ib | now3d},                       // 3DNow!

	{0x10, 0x11, form},                                   // movups, movss, movupd, movsd
	{0x12, 0x12, op | pNP | m66 | pF3 | pF2},             // movlps, movhlps, movlpd, movsldup, movddup
	{0x13, 0x13, op | mNP | m66},                         // movlps, movlpd
	{0x14, 0x15, op | pNP | p66},                         // unpcklps, unpckhps
	{0x16, 0x16, op | pNP | m66 | pF3},                   // movhps, movlhps, movhpd, movshdup
	{0x17, 0x17, op | mNP | m66},                         // movhps, movhpd
	{0x18, 0x1f, form},                                   // prefetch hints, bnd instructions, cldemote, endbr64, nop
	{0x20, 0x23, form | movCR | regAlways},               // mov to and from control and debug registers
	{0x28, 0x29, op | pNP | p66},                         // movaps, movapd
	{0x2a, 0x2a, form},                                   // cvtpi2ps, cvtsi2ss, cvtpi2pd, cvtsi2sd
	{0x2b, 0x2b, op | memAny},                            // movntps, movntpd, movntss, movntsd
	{0x2c, 0x2d, form},                                   // cvttps2pi, cvttss2si, cvtps2pi, cvtss2si
	{0x2e, 0x2f, op | pNP | p66},                         // ucomiss, comiss
	{0x30, 0x33, plain},                                  // wrmsr, rdtsc, rdmsr, rdpmc
	{0x34, 0x35, plain | special},                        // sysenter, sysexit
	{0x37, 0x37, plain},                                  // getsec
	{0x40, 0x4f, form},                                   // cmovcc
	{0x50, 0x50, op | rNP | r66},                         // movmskps, movmskpd
	{0x51, 0x51, form},                                   // sqrtps
	{0x52, 0x53, op | pNP | pF3},                         // rsqrtps, rcpps
	{0x54, 0x57, op | pNP | p66},                         // andps, andnps, orps, xorps
	{0x58, 0x5a, form},                                   // addps, mulps, cvtps2pd
	{0x5b, 0x5b, op | pNP | p66 | pF3},                   // cvtdq2ps, cvtps2dq, cvttps2dq
	{0x5c, 0x5f, form},                                   // subps, minps, divps, maxps
	{0x60, 0x6b, op | pNP | p66},                         // punpck, pack, pcmpgt
	{0x6c, 0x6d, op | p66},                               // punpcklqdq, punpckhqdq
	{0x6e, 0x6e, op | pNP | p66},                         // movd
	{0x6f, 0x6f, op | pNP | p66 | pF3},                   // movq, movdqa, movdqu
	{0x70, 0x70, form | ib},                              // pshufw, pshufd, pshufhw, pshuflw
	{0x71, 0x72, op | rNP | r66 | ib | regs(2, 4, 6)},    // group 12, 13: psrl, psra, psll
	{0x73, 0x73, op | rNP | r66 | ib | regs(2, 3, 6, 7)}, // group 14
	{0x74, 0x76, op | pNP | p66},                         // pcmpeq
	{0x77, 0x77, valid | pNP},                            // emms
	{0x78, 0x78, op | pNP | r66 | rF2 | extrq},           // vmread, extrq, insertq
	{0x79, 0x79, op | pNP | r66 | rF2},                   // vmwrite, extrq, insertq
	{0x7c, 0x7d, op | p66 | pF2},                         // haddpd, hsubpd
	{0x7e, 0x7f, op | pNP | p66 | pF3},                   // movd, movq, movdqa, movdqu

	{0x80, 0x8f, plain | relZ | jcc}, // jcc
	{0x90, 0x9f, form},               // setcc
	{0xa0, 0xa2, plain},              // push fs, pop fs, cpuid
	{0xa3, 0xa3, form},               // bt
	{0xa4, 0xa4, form | ib},          // shld
	{0xa5, 0xa5, form},               // shld
	{0xa6, 0xa6, op | rNP | r66 | rF3 | rF2 | regs(0, 1, 2)},          // PadLock: montmul, xsha1, xsha256
	{0xa7, 0xa7, op | rNP | r66 | rF3 | rF2 | regs(0, 1, 2, 3, 4, 5)}, // PadLock: xstore, xcrypt
	{0xa8, 0xa8, plain},                                  // push gs
	{0xa9, 0xa9, plain | special},                        // pop gs
	{0xaa, 0xaa, plain | trap},                           // rsm
	{0xab, 0xab, form | lockable},                        // bts
	{0xac, 0xac, form | ib},                              // shrd
	{0xad, 0xad, form},                                   // shrd
	{0xae, 0xae, form | grp15},                           // group 15
	{0xaf, 0xaf, form},                                   // imul
	{0xb0, 0xb1, form | lockable},                        // cmpxchg
	{0xb2, 0xb2, op | memAny},                            // lss
	{0xb3, 0xb3, form | lockable},                        // btr
	{0xb4, 0xb4, op | memAny},                            // lfs
	{0xb5, 0xb5, op | memAny | special},                  // lgs
	{0xb6, 0xb7, form},                                   // movzx
	{0xb8, 0xb8, op | pF3},                               // popcnt
	{0xb9, 0xb9, form | trap},                            // ud1
	{0xba, 0xba, form | ib | lockGrp | regs(4, 5, 6, 7)}, // group 8
	{0xbb, 0xbb, form | lockable},                        // btc
	{0xbc, 0xbf, form},                                   // bsf, tzcnt, bsr, lzcnt, movsx
	{0xc0, 0xc1, form | lockable},                        // xadd
	{0xc2, 0xc2, form | ib},                              // cmpps
	{0xc3, 0xc3, op | mNP},                               // movnti
	{0xc4, 0xc4, op | pNP | p66 | ib},                    // pinsrw
	{0xc5, 0xc5, op | rNP | r66 | ib},                    // pextrw
	{0xc6, 0xc6, op | pNP | p66 | ib},                    // shufps
	{0xc7, 0xc7, form | grp9 | regs(1, 3, 4, 5, 6, 7)},   // group 9
	{0xc8, 0xcf, plain},                                  // bswap

	{0xd0, 0xd0, op | p66 | pF2},             // addsubpd
	{0xd1, 0xd5, op | pNP | p66},             // psrlw, psrld, psrlq, paddq, pmullw
	{0xd6, 0xd6, op | p66 | rF3 | rF2},       // movq, movq2dq, movdq2q
	{0xd7, 0xd7, op | rNP | r66 | rF3 | rF2}, // pmovmskb
	{0xd8, 0xe5, op | pNP | p66},             // psubus, pminub, pand, paddus, pmaxub, pandn, pavg, psra, pmulh
	{0xe6, 0xe6, op | p66 | pF3 | pF2},       // cvttpd2dq, cvtdq2pd, cvtpd2dq
	{0xe7, 0xe7, op | mNP | m66},             // movntq, movntdq
	{0xe8, 0xef, op | pNP | p66},             // psubs, pminsw, por, padds, pmaxsw, pxor
	{0xf0, 0xf0, op | mF2},                   // lddqu
	{0xf1, 0xf6, op | pNP | p66},             // psll, pmuludq, pmaddwd, psadbw
	{0xf7, 0xf7, op | rNP | r66},             // maskmovq, maskmovdqu
	{0xf8, 0xfe, op | pNP | p66},             // psub, padd
	{0xff, 0xff, form | trap},                // ud0; AMD processors read no ModRM, but fault all the same
})
