package x86

// The opcode maps of VEX. Prefixes are the pp field. The vvvv, W and L fields that an instruction reserves are not checked:
// the processor faults by itself, and the length is the same (SDM vol. 2 sec. 2.3.5, 2.3.6).

// vex0F is VEX map 1 (SDM vol. 2 tables ).
var vex0F = table([]row{
	{0x10, 0x11, form},                             // vmovups, vmovupd, vmovss, vmovsd
	{0x12, 0x12, op | pNP | m66 | pF3 | pF2},       // vmovlps, vmovhlps, vmovlpd, vmovsldup, vmovddup
	{0x13, 0x13, op | mNP | m66},                   // vmovlps, vmovlpd
	{0x14, 0x15, op | pNP | p66},                   // vunpcklps, vunpcklpd, vunpckhps, vunpckhpd
	{0x16, 0x16, op | pNP | m66 | pF3},             // vmovhps, vmovlhps, vmovhpd, vmovshdup
	{0x17, 0x17, op | mNP | m66},                   // vmovhps, vmovhpd
	{0x28, 0x29, op | pNP | p66},                   // vmovaps, vmovapd
	{0x2a, 0x2a, op | pF3 | pF2},                   // vcvtsi2ssl, vcvtsi2ssq, vcvtsi2ss, vcvtsi2sdl, vcvtsi2sdq, vcvtsi2sd
	{0x2b, 0x2b, op | mNP | m66},                   // vmovntps, vmovntpd
	{0x2c, 0x2d, op | pF3 | pF2},                   // vcvttss2si, vcvttsd2si, vcvtss2si, vcvtsd2si
	{0x2e, 0x2f, op | pNP | p66},                   // vucomiss, vucomisd, vcomiss, vcomisd
	{0x41, 0x42, op | rNP | r66},                   // kandq, kandw, kandb, kandd, kandnq, kandnw, kandnb, kandnd
	{0x44, 0x46, op | rNP | r66},                   // knotq, knotw, knotb, knotd, korq, korw, korb, kord, kxnorq, kxnorw, kxnorb, kxnord
	{0x47, 0x47, op | rNP | r66},                   // kxorq, kxorw, kxorb, kxord
	{0x4a, 0x4b, op | rNP | r66},                   // kaddq, kaddw, kaddb, kaddd, kunpckdq, kunpckwd, kunpckbw
	{0x50, 0x50, op | rNP | r66},                   // vmovmskps, vmovmskpd
	{0x51, 0x51, form},                             // vsqrtps, vsqrtpd, vsqrtss, vsqrtsd
	{0x52, 0x53, op | pNP | pF3},                   // vrsqrtps, vrsqrtss, vrcpps, vrcpss
	{0x54, 0x57, op | pNP | p66},                   // vandps, vandpd, vandnps, vandnpd, vorps, vorpd, vxorps, vxorpd
	{0x58, 0x59, form},                             // vaddps, vaddpd, vaddss, vaddsd, vmulps, vmulpd, vmulss, vmulsd
	{0x5a, 0x5a, form},                             // vcvtps2pd, vcvtpd2ps, vcvtss2sd, vcvtsd2ss
	{0x5b, 0x5b, op | pNP | p66 | pF3},             // vcvtdq2ps, vcvtps2dq, vcvttps2dq
	{0x5c, 0x5d, form},                             // vsubps, vsubpd, vsubss, vsubsd, vminps, vminpd, vminss, vminsd
	{0x5e, 0x5f, form},                             // vdivps, vdivpd, vdivss, vdivsd, vmaxps, vmaxpd, vmaxss, vmaxsd
	{0x60, 0x66, op | p66},                         // vpunpcklbw, vpunpcklwd, vpunpckldq, vpacksswb, vpcmpgtb, vpcmpgtw, vpcmpgtd
	{0x67, 0x6d, op | p66},                         // vpackuswb, vpunpckhbw, vpunpckhwd, vpunpckhdq, vpackssdw, vpunpcklqdq, vpunpckhqdq
	{0x6e, 0x6e, op | p66},                         // vmovd, vmovq
	{0x6f, 0x6f, op | p66 | pF3},                   // vmovdqa, vmovdqu
	{0x70, 0x70, op | p66 | pF3 | pF2 | ib},        // vpshufd, vpshufhw, vpshuflw
	{0x71, 0x72, op | r66 | ib | regs(2, 4, 6)},    // vpsrlw, vpsraw, vpsllw, vpsrld, vpsrad, vpslld
	{0x73, 0x73, op | r66 | ib | regs(2, 3, 6, 7)}, // vpsrlq, vpsrldq, vpsllq, vpslldq
	{0x74, 0x76, op | p66},                         // vpcmpeqb, vpcmpeqw, vpcmpeqd
	{0x77, 0x77, plain},                            // vzeroupper, vzeroall
	{0x7c, 0x7d, op | p66 | pF2},                   // vhaddpd, vhaddps, vhsubpd, vhsubps
	{0x7e, 0x7f, op | p66 | pF3},                   // vmovd, vmovq, vmovdqa, vmovdqu
	{0x90, 0x90, op | pNP | p66},                   // kmovq, kmovw, kmovb, kmovd
	{0x91, 0x91, op | mNP | m66},                   // kmovq, kmovw, kmovb, kmovd
	{0x92, 0x93, op | rNP | r66 | rF2},             // kmovw, kmovb, kmovd, kmovq
	{0x98, 0x99, op | rNP | r66},                   // kortestq, kortestw, kortestb, kortestd, ktestq, ktestw, ktestb, ktestd
	{0xae, 0xae, op | memAny | regs(2, 3)},         // vldmxcsr, vstmxcsr
	{0xc2, 0xc2, form | ib},                        // vcmpps, vcmppd, vcmpss, vcmpsd
	{0xc4, 0xc4, op | p66 | ib},                    // vpinsrw
	{0xc5, 0xc5, op | r66 | ib},                    // vpextrw
	{0xc6, 0xc6, op | pNP | p66 | ib},              // vshufps, vshufpd
	{0xd0, 0xd0, op | p66 | pF2},                   // vaddsubpd, vaddsubps
	{0xd1, 0xd6, op | p66},                         // vpsrlw, vpsrld, vpsrlq, vpaddq, vpmullw, vmovq
	{0xd7, 0xd7, op | r66},                         // vpmovmskb
	{0xd8, 0xe0, op | p66},                         // vpsubusb, vpsubusw, vpminub, vpand, vpaddusb, vpaddusw, vpmaxub, vpandn, vpavgb
	{0xe1, 0xe5, op | p66},                         // vpsraw, vpsrad, vpavgw, vpmulhuw, vpmulhw
	{0xe6, 0xe6, op | p66 | pF3 | pF2},             // vcvttpd2dq, vcvtdq2pd, vcvtpd2dq
	{0xe7, 0xe7, op | m66},                         // vmovntdq
	{0xe8, 0xef, op | p66},                         // vpsubsb, vpsubsw, vpminsw, vpor, vpaddsb, vpaddsw, vpmaxsw, vpxor
	{0xf0, 0xf0, op | mF2},                         // vlddqu
	{0xf1, 0xf6, op | p66},                         // vpsllw, vpslld, vpsllq, vpmuludq, vpmaddwd, vpsadbw
	{0xf7, 0xf7, op | r66},                         // vmaskmovdqu
	{0xf8, 0xfe, op | p66},                         // vpsubb, vpsubw, vpsubd, vpsubq, vpaddb, vpaddw, vpaddd
})

// vex0F38 is VEX map 2 (SDM vol. 2 table A-4).
var vex0F38 = table([]row{
	{0x00, 0x08, op | p66},                   // vpshufb, vphaddw, vphaddd, vphaddsw, vpmaddubsw, vphsubw, vphsubd, vphsubsw, vpsignb
	{0x09, 0x0f, op | p66},                   // vpsignw, vpsignd, vpmulhrsw, vpermilps, vpermilpd, vtestps, vtestpd
	{0x13, 0x13, op | p66},                   // vcvtph2ps
	{0x16, 0x19, op | p66},                   // vpermps, vptest, vbroadcastss, vbroadcastsd
	{0x1a, 0x1a, op | m66},                   // vbroadcastf128
	{0x1c, 0x1e, op | p66},                   // vpabsb, vpabsw, vpabsd
	{0x20, 0x25, op | p66},                   // vpmovsxbw, vpmovsxbd, vpmovsxbq, vpmovsxwd, vpmovsxwq, vpmovsxdq
	{0x28, 0x29, op | p66},                   // vpmuldq, vpcmpeqq
	{0x2a, 0x2a, op | m66},                   // vmovntdqa
	{0x2b, 0x2b, op | p66},                   // vpackusdw
	{0x2c, 0x2f, op | m66},                   // vmaskmovps, vmaskmovpd
	{0x30, 0x37, op | p66},                   // vpmovzxbw, vpmovzxbd, vpmovzxbq, vpmovzxwd, vpmovzxwq, vpmovzxdq, vpermd, vpcmpgtq
	{0x38, 0x40, op | p66},                   // vpminsb, vpminsd, vpminuw, vpminud, vpmaxsb, vpmaxsd, vpmaxuw, vpmaxud, vpmulld
	{0x41, 0x41, op | p66},                   // vphminposuw
	{0x45, 0x47, op | p66},                   // vpsrlvd, vpsrlvq, vpsravd, vpsllvd, vpsllvq
	{0x48, 0x48, op | r66},                   // tmmultf32ps
	{0x49, 0x49, op | mNP | m66 | rF2},       // ldtilecfg, sttilecfg, tilezero
	{0x4a, 0x4a, op | m66 | mF2},             // tileloaddrs, tileloaddrst1
	{0x4b, 0x4b, op | m66 | mF3 | mF2 | sib}, // tileloaddt1, tilestored, tileloadd
	{0x50, 0x51, form},                       // vpdpbuud, vpdpbusd, vpdpbsud, vpdpbssd, vpdpbuuds, vpdpbusds, vpdpbsuds, vpdpbssds
	{0x52, 0x53, op | p66},                   // vpdpwssd, vpdpwssds
	{0x58, 0x59, op | p66},                   // vpbroadcastd, vpbroadcastq
	{0x5a, 0x5a, op | m66},                   // vbroadcasti128
	{0x5c, 0x5c, op | rF3 | rF2},             // tdpbf16ps, tdpfp16ps
	{0x5e, 0x5f, op | rNP | r66 | rF3 | rF2}, // tdpbuud, tdpbusd, tdpbsud, tdpbssd, ttransposed
	{0x6b, 0x6b, op | rNP | r66 | rF3 | rF2}, // tconjtcmmimfp16ps, tconjtfp16
	{0x6c, 0x6c, op | rNP | r66 | rF3 | rF2}, // tcmmrlfp16ps, tcmmimfp16ps, ttcmmrlfp16ps, ttcmmimfp16ps
	{0x6d, 0x6d, op | rF3 | rF2},             // ttdpbf16ps, ttdpfp16ps
	{0x6e, 0x6f, op | mNP | m66},             // t2rpntlvwz0, t2rpntlvwz1, t2rpntlvwz0t1, t2rpntlvwz1t1
	{0x72, 0x72, op | pF3},                   // vcvtneps2bf16
	{0x78, 0x79, op | p66},                   // vpbroadcastb, vpbroadcastw
	{0x8c, 0x8c, op | m66},                   // vpmaskmovd, vpmaskmovq
	{0x8e, 0x8e, op | m66},                   // vpmaskmovd, vpmaskmovq
	{0x90, 0x92, op | m66 | sib},             // vpgatherdd, vpgatherdq, vpgatherqd, vpgatherqq, vgatherdpd, vgatherdps
	{0x93, 0x93, op | m66 | sib},             // vgatherqpd, vgatherqps
	{0x96, 0x97, op | p66},                   // vfmaddsub132pd, vfmaddsub132ps, vfmsubadd132pd, vfmsubadd132ps
	{0x98, 0x9a, op | p66},                   // vfmadd132pd, vfmadd132ps, vfmadd132sd, vfmadd132ss, vfmsub132pd, vfmsub132ps
	{0x9b, 0x9d, op | p66},                   // vfmsub132sd, vfmsub132ss, vfnmadd132pd, vfnmadd132ps, vfnmadd132sd, vfnmadd132ss
	{0x9e, 0x9f, op | p66},                   // vfnmsub132pd, vfnmsub132ps, vfnmsub132sd, vfnmsub132ss
	{0xa6, 0xa7, op | p66},                   // vfmaddsub213pd, vfmaddsub213ps, vfmsubadd213pd, vfmsubadd213ps
	{0xa8, 0xaa, op | p66},                   // vfmadd213pd, vfmadd213ps, vfmadd213sd, vfmadd213ss, vfmsub213pd, vfmsub213ps
	{0xab, 0xad, op | p66},                   // vfmsub213sd, vfmsub213ss, vfnmadd213pd, vfnmadd213ps, vfnmadd213sd, vfnmadd213ss
	{0xae, 0xaf, op | p66},                   // vfnmsub213pd, vfnmsub213ps, vfnmsub213sd, vfnmsub213ss
	{0xb0, 0xb0, op | memAny},                // vcvtneoph2ps, vcvtneeph2ps, vcvtneebf162ps, vcvtneobf162ps
	{0xb1, 0xb1, op | m66 | mF3},             // vbcstnesh2ps, vbcstnebf162ps
	{0xb4, 0xb6, op | p66},                   // vpmadd52luq, vpmadd52huq, vfmaddsub231pd, vfmaddsub231ps
	{0xb7, 0xb9, op | p66},                   // vfmsubadd231pd, vfmsubadd231ps, vfmadd231pd, vfmadd231ps, vfmadd231sd, vfmadd231ss
	{0xba, 0xbc, op | p66},                   // vfmsub231pd, vfmsub231ps, vfmsub231sd, vfmsub231ss, vfnmadd231pd, vfnmadd231ps
	{0xbd, 0xbf, op | p66},                   // vfnmadd231sd, vfnmadd231ss, vfnmsub231pd, vfnmsub231ps, vfnmsub231sd, vfnmsub231ss
	{0xcb, 0xcd, op | rF2},                   // vsha512rnds2, vsha512msg1, vsha512msg2
	{0xcf, 0xcf, op | p66},                   // vgf2p8mulb
	{0xd2, 0xd3, op | pNP | p66 | pF3},       // vpdpwuud, vpdpwusd, vpdpwsud, vpdpwuuds, vpdpwusds, vpdpwsuds
	{0xda, 0xda, form},                       // vsm3msg1, vsm3msg2, vsm4key4, vsm4rnds4
	{0xdb, 0xdf, op | p66},                   // vaesimc, vaesenc, vaesenclast, vaesdec, vaesdeclast
	{0xe0, 0xe7, op | m66},                   // cmpoxadd, cmpnoxadd, cmpbxadd, cmpnbxadd, cmpzxadd, cmpnzxadd, cmpbexadd, cmpnbexadd
	{0xe8, 0xef, op | m66},                   // cmpsxadd, cmpnsxadd, cmppxadd, cmpnpxadd, cmplxadd, cmpnlxadd, cmplexadd, cmpnlexadd
	{0xf2, 0xf2, op | pNP},                   // andn
	{0xf3, 0xf3, op | pNP | regs(1, 2, 3)},   // blsr, blsmsk, blsi
	{0xf5, 0xf5, op | pNP | pF3 | pF2},       // bzhi, pext, pdep
	{0xf6, 0xf6, op | pF2},                   // mulx
	{0xf7, 0xf7, form},                       // bextr, shlx, sarx, shrx
})

// vex0F3A is VEX map 3 (SDM vol. 2 table A-5), with the FMA4 instructions of AMD (APM vol. 3 app. A).
var vex0F3A = table([]row{
	{0x00, 0x02, op | p66 | ib}, // vpermq, vpermpd, vpblendd
	{0x04, 0x06, op | p66 | ib}, // vpermilps, vpermilpd, vperm2f128
	{0x08, 0x0f, op | p66 | ib}, // vroundps, vroundpd, vroundss, vroundsd, vblendps, vblendpd, vpblendw, vpalignr
	{0x14, 0x19, op | p66 | ib}, // vpextrb, vpextrw, vpextrd, vpextrq, vextractps, vinsertf128, vextractf128
	{0x1d, 0x1d, op | p66 | ib}, // vcvtps2ph
	{0x20, 0x22, op | p66 | ib}, // vpinsrb, vinsertps, vpinsrd, vpinsrq
	{0x30, 0x33, op | r66 | ib}, // kshiftrb, kshiftrw, kshiftrd, kshiftrq, kshiftlb, kshiftlw, kshiftld, kshiftlq
	{0x38, 0x39, op | p66 | ib}, // vinserti128, vextracti128
	{0x40, 0x42, op | p66 | ib}, // vdpps, vdppd, vmpsadbw
	{0x44, 0x44, op | p66 | ib}, // vpclmulqdq
	{0x46, 0x46, op | p66 | ib}, // vperm2i128
	{0x48, 0x4c, op | p66 | ib}, // vpermil2ps, vpermil2pd, vblendvps, vblendvpd, vpblendvb
	{0x5c, 0x60, op | p66 | ib}, // vfmaddsubps, vfmaddsubpd, vfmsubaddps, vfmsubaddpd, vpcmpestrm, vpcmpestrmq
	{0x61, 0x63, op | p66 | ib}, // vpcmpestri, vpcmpestriq, vpcmpistrm, vpcmpistri
	{0x68, 0x6f, op | p66 | ib}, // vfmaddps, vfmaddpd, vfmaddss, vfmaddsd, vfmsubps, vfmsubpd, vfmsubss, vfmsubsd
	{0x78, 0x7e, op | p66 | ib}, // vfnmaddps, vfnmaddpd, vfnmaddss, vfnmaddsd, vfnmsubps, vfnmsubpd, vfnmsubss
	{0x7f, 0x7f, op | p66 | ib}, // vfnmsubsd
	{0xce, 0xcf, op | p66 | ib}, // vgf2p8affineqb, vgf2p8affineinvqb
	{0xde, 0xdf, op | p66 | ib}, // vsm3rnds2, vaeskeygenassist
	{0xf0, 0xf0, op | pF2 | ib}, // rorx
})

// vex5 has the AMX instructions of VEX map 5.
var vex5 = table([]row{
	{0xf8, 0xf9, op | memAny | sib},          // t2rpntlvwz0rs, t2rpntlvwz1rs
	{0xfd, 0xfd, op | rNP | r66 | rF3 | rF2}, // tdpbf8ps, tdphf8ps, tdpbhf8ps, tdphbf8ps
})

// vex7 has the instructions of VEX map 7: model-specific registers with the number as imm32.
var vex7 = table([]row{
	{0xf6, 0xf6, op | rF3 | rF2 | id}, // wrmsrns, rdmsr
	{0xf8, 0xf8, op | rF3 | rF2 | id}, // uwrmsr, urdmsr
})

// vexMaps are the opcode maps by the mmmmm field.
var vexMaps = [8]*[256]entry{1: &vex0F, 2: &vex0F38, 3: &vex0F3A, 5: &vex5, 7: &vex7}
