package x86

// The opcode maps of EVEX (SDM vol. 2 sec. 2.7, tables ). The pp field is not checked: newer processors give a meaning
// to most values, and the length does not depend on it. The same holds for vvvv, W, L'L, z, b and aaa.
// Map 4 belongs to APX, whose REX2 prefix and extended EVEX forms are not decoded.

// evex0F is EVEX map 1.
var evex0F = table([]row{
	{0x10, 0x12, form},                            // vmovups, vmovupd, vmovss, vmovsd, vmovlps, vmovhlps, vmovlpd, vmovsldup, vmovddup
	{0x13, 0x13, op | memAny},                     // vmovlps, vmovlpd
	{0x14, 0x16, form},                            // vunpcklps, vunpcklpd, vunpckhps, vunpckhpd, vmovhps, vmovlhps, vmovhpd, vmovshdup
	{0x17, 0x17, op | memAny},                     // vmovhps, vmovhpd
	{0x28, 0x29, form},                            // vmovaps, vmovapd
	{0x2a, 0x2a, form},                            // vcvtsi2ssl, vcvtsi2ssq, vcvtsi2ss, vcvtsi2sdl, vcvtsi2sdq, vcvtsi2sd
	{0x2b, 0x2b, op | memAny},                     // vmovntps, vmovntpd
	{0x2c, 0x2f, form},                            // vcvttss2si, vcvttsd2si, vcvtss2si, vcvtsd2si, vucomiss, vucomisd, vcomiss, vcomisd
	{0x51, 0x51, form},                            // vsqrtps, vsqrtpd, vsqrtss, vsqrtsd
	{0x54, 0x57, form},                            // vandps, vandpd, vandnps, vandnpd, vorps, vorpd, vxorps, vxorpd
	{0x58, 0x59, form},                            // vaddps, vaddpd, vaddss, vaddsd, vmulps, vmulpd, vmulss, vmulsd
	{0x5a, 0x5a, form},                            // vcvtps2pd, vcvtpd2ps, vcvtss2sd, vcvtsd2ss
	{0x5b, 0x5b, form},                            // vcvtdq2ps, vcvtqq2ps, vcvtps2dq, vcvttps2dq
	{0x5c, 0x5d, form},                            // vsubps, vsubpd, vsubss, vsubsd, vminps, vminpd, vminss, vminsd
	{0x5e, 0x60, form},                            // vdivps, vdivpd, vdivss, vdivsd, vmaxps, vmaxpd, vmaxss, vmaxsd, vpunpcklbw
	{0x61, 0x67, form},                            // vpunpcklwd, vpunpckldq, vpacksswb, vpcmpgtb, vpcmpgtw, vpcmpgtd, vpackuswb
	{0x68, 0x6d, form},                            // vpunpckhbw, vpunpckhwd, vpunpckhdq, vpackssdw, vpunpcklqdq, vpunpckhqdq
	{0x6e, 0x6f, form},                            // vmovd, vmovq, vmovdqa32, vmovdqa64, vmovdqu32, vmovdqu64, vmovdqu16, vmovdqu8
	{0x70, 0x70, form | ib},                       // vpshufd, vpshufhw, vpshuflw
	{0x71, 0x71, form | ib | regs(2, 4, 6)},       // vpsrlw, vpsraw, vpsllw
	{0x72, 0x72, form | ib | regs(0, 1, 2, 4, 6)}, // vprord, vprorq, vprold, vprolq, vpsrld, vpsrad, vpsraq, vpslld
	{0x73, 0x73, form | ib | regs(2, 3, 6, 7)},    // vpsrlq, vpsrldq, vpsllq, vpslldq
	{0x74, 0x76, form},                            // vpcmpeqb, vpcmpeqw, vpcmpeqd
	{0x78, 0x78, form},                            // vcvttpd2udq, vcvttps2udq, vcvttpd2uqq, vcvttps2uqq, vcvttss2usi, vcvttsd2usi
	{0x79, 0x79, form},                            // vcvtpd2udq, vcvtps2udq, vcvtpd2uqq, vcvtps2uqq, vcvtss2usi, vcvtsd2usi
	{0x7a, 0x7a, form},                            // vcvttpd2qq, vcvttps2qq, vcvtudq2pd, vcvtuqq2pd, vcvtudq2ps, vcvtuqq2ps
	{0x7b, 0x7b, form},                            // vcvtpd2qq, vcvtps2qq, vcvtusi2ssl, vcvtusi2ssq, vcvtusi2ss, vcvtusi2sdl and others
	{0x7e, 0x7f, form},                            // vmovd, vmovq, vmovdqa32, vmovdqa64, vmovdqu32, vmovdqu64, vmovdqu16, vmovdqu8
	{0xc2, 0xc2, form | ib},                       // vcmpps, vcmppd, vcmpss, vcmpsd
	{0xc4, 0xc4, form | ib},                       // vpinsrw
	{0xc5, 0xc5, op | rNP | r66 | rF3 | rF2 | ib}, // vpextrw
	{0xc6, 0xc6, form | ib},                       // vshufps, vshufpd
	{0xd1, 0xd6, form},                            // vpsrlw, vpsrld, vpsrlq, vpaddq, vpmullw, vmovq
	{0xd8, 0xde, form},                            // vpsubusb, vpsubusw, vpminub, vpandd, vpandq, vpaddusb, vpaddusw, vpmaxub
	{0xdf, 0xe5, form},                            // vpandnd, vpandnq, vpavgb, vpsraw, vpsrad, vpsraq, vpavgw, vpmulhuw, vpmulhw
	{0xe6, 0xe6, form},                            // vcvttpd2dq, vcvtdq2pd, vcvtqq2pd, vcvtpd2dq
	{0xe7, 0xee, form},                            // vmovntdq, vpsubsb, vpsubsw, vpminsw, vpord, vporq, vpaddsb, vpaddsw, vpmaxsw
	{0xef, 0xef, form},                            // vpxord, vpxorq
	{0xf1, 0xf6, form},                            // vpsllw, vpslld, vpsllq, vpmuludq, vpmaddwd, vpsadbw
	{0xf8, 0xfe, form},                            // vpsubb, vpsubw, vpsubd, vpsubq, vpaddb, vpaddw, vpaddd
})

// evex0F38 is EVEX map 2.
var evex0F38 = table([]row{
	{0x00, 0x00, form},                       // vpshufb
	{0x04, 0x04, form},                       // vpmaddubsw
	{0x0b, 0x0d, form},                       // vpmulhrsw, vpermilps, vpermilpd
	{0x10, 0x13, form},                       // vpsrlvw, vpmovuswb, vpsravw, vpmovusdb, vpsllvw, vpmovusqb, vcvtph2ps, vpmovusdw
	{0x14, 0x16, form},                       // vprorvd, vprorvq, vpmovusqw, vprolvd, vprolvq, vpmovusqd, vpermpd, vpermps
	{0x18, 0x19, form},                       // vbroadcastss, vbroadcastf32x2, vbroadcastsd
	{0x1a, 0x1b, op | memAny},                // vbroadcastf32x4, vbroadcastf64x2, vbroadcastf32x8, vbroadcastf64x4
	{0x1c, 0x21, form},                       // vpabsb, vpabsw, vpabsd, vpabsq, vpmovsxbw, vpmovswb, vpmovsxbd, vpmovsdb
	{0x22, 0x25, form},                       // vpmovsxbq, vpmovsqb, vpmovsxwd, vpmovsdw, vpmovsxwq, vpmovsqw, vpmovsxdq, vpmovsqd
	{0x26, 0x27, form},                       // vptestmb, vptestmw, vptestnmb, vptestnmw, vptestmd, vptestmq, vptestnmd, vptestnmq
	{0x28, 0x29, form},                       // vpmuldq, vpmovm2b, vpmovm2w, vpcmpeqq, vpmovb2m, vpmovw2m
	{0x2a, 0x2d, form},                       // vmovntdqa, vpbroadcastmb2q, vpackusdw, vscalefpd, vscalefps, vscalefsd, vscalefss
	{0x30, 0x33, form},                       // vpmovzxbw, vpmovwb, vpmovzxbd, vpmovdb, vpmovzxbq, vpmovqb, vpmovzxwd, vpmovdw
	{0x34, 0x37, form},                       // vpmovzxwq, vpmovqw, vpmovzxdq, vpmovqd, vpermd, vpermq, vpcmpgtq
	{0x38, 0x39, form},                       // vpminsb, vpmovm2d, vpmovm2q, vpminsd, vpminsq, vpmovd2m, vpmovq2m
	{0x3a, 0x3e, form},                       // vpminuw, vpbroadcastmw2d, vpminud, vpminuq, vpmaxsb, vpmaxsd, vpmaxsq, vpmaxuw
	{0x3f, 0x40, form},                       // vpmaxud, vpmaxuq, vpmulld, vpmullq
	{0x42, 0x45, form},                       // vgetexppd, vgetexpps, vgetexpsd, vgetexpss, vplzcntd, vplzcntq, vpsrlvd, vpsrlvq
	{0x46, 0x47, form},                       // vpsravd, vpsravq, vpsllvd, vpsllvq
	{0x49, 0x4a, form},                       // tcvtrowd2ps, tilemovrow
	{0x4c, 0x4e, form},                       // vrcp14pd, vrcp14ps, vrcp14sd, vrcp14ss, vrsqrt14pd, vrsqrt14ps
	{0x4f, 0x50, form},                       // vrsqrt14sd, vrsqrt14ss, vpdpbuud, vpdpbusd, vpdpbsud, vpdpbssd
	{0x51, 0x52, form},                       // vpdpbuuds, vpdpbusds, vpdpbsuds, vpdpbssds, vpdpwssd, vdpbf16ps, vp4dpwssd
	{0x53, 0x55, form},                       // vpdpwssds, vp4dpwssds, vpopcntb, vpopcntw, vpopcntd, vpopcntq
	{0x58, 0x59, form},                       // vpbroadcastd, vbroadcasti32x2, vpbroadcastq
	{0x5a, 0x5b, op | memAny},                // vbroadcasti32x4, vbroadcasti64x2, vbroadcasti32x8, vbroadcasti64x4
	{0x62, 0x64, form},                       // vpexpandb, vpexpandw, vpcompressb, vpcompressw, vpblendmd, vpblendmq
	{0x65, 0x67, form},                       // vblendmpd, vblendmps, vpblendmb, vpblendmw, vcvt2ps2phx
	{0x68, 0x68, form},                       // vp2intersectd, vp2intersectq
	{0x6d, 0x6d, form},                       // tcvtrowps2phh
	{0x70, 0x71, form},                       // vpshldvw, vpshldvd, vpshldvq
	{0x72, 0x72, form},                       // vpshrdvw, vcvtneps2bf16, vcvtne2ps2bf16
	{0x73, 0x75, form},                       // vpshrdvd, vpshrdvq, vcvtbiasph2bf8, vcvtne2ph2bf8, vpermi2b, vpermi2w
	{0x76, 0x79, form},                       // vpermi2d, vpermi2q, vpermi2pd, vpermi2ps, vpbroadcastb, vpbroadcastw
	{0x7a, 0x7c, op | rNP | r66 | rF3 | rF2}, // vpbroadcastb, vpbroadcastw, vpbroadcastd, vpbroadcastq
	{0x7d, 0x7f, form},                       // vpermt2b, vpermt2w, vpermt2d, vpermt2q, vpermt2pd, vpermt2ps
	{0x83, 0x83, form},                       // vpmultishiftqb
	{0x88, 0x8a, form},                       // vexpandpd, vexpandps, vpexpandd, vpexpandq, vcompresspd, vcompressps
	{0x8b, 0x8b, form},                       // vpcompressd, vpcompressq
	{0x8d, 0x8d, form},                       // vpermb, vpermw
	{0x8f, 0x8f, form},                       // vpshufbitqmb
	{0x90, 0x92, op | memAny | sib},          // vpgatherdd, vpgatherdq, vpgatherqd, vpgatherqq, vgatherdpd, vgatherdps
	{0x93, 0x93, op | memAny | sib},          // vgatherqpd, vgatherqps
	{0x96, 0x97, form},                       // vfmaddsub132pd, vfmaddsub132ps, vfmsubadd132pd, vfmsubadd132ps
	{0x98, 0x99, form},                       // vfmadd132pd, vfmadd132ps, vfmadd132sd, vfmadd132ss
	{0x9a, 0x9b, form},                       // vfmsub132pd, vfmsub132ps, v4fmaddps, vfmsub132sd, vfmsub132ss, v4fmaddss
	{0x9c, 0x9e, form},                       // vfnmadd132pd, vfnmadd132ps, vfnmadd132sd, vfnmadd132ss, vfnmsub132pd, vfnmsub132ps
	{0x9f, 0x9f, form},                       // vfnmsub132sd, vfnmsub132ss
	{0xa0, 0xa2, op | memAny | sib},          // vpscatterdd, vpscatterdq, vpscatterqd, vpscatterqq, vscatterdpd, vscatterdps
	{0xa3, 0xa3, op | memAny | sib},          // vscatterqpd, vscatterqps
	{0xa6, 0xa7, form},                       // vfmaddsub213pd, vfmaddsub213ps, vfmsubadd213pd, vfmsubadd213ps
	{0xa8, 0xa9, form},                       // vfmadd213pd, vfmadd213ps, vfmadd213sd, vfmadd213ss
	{0xaa, 0xab, form},                       // vfmsub213pd, vfmsub213ps, v4fnmaddps, vfmsub213sd, vfmsub213ss, v4fnmaddss
	{0xac, 0xae, form},                       // vfnmadd213pd, vfnmadd213ps, vfnmadd213sd, vfnmadd213ss, vfnmsub213pd, vfnmsub213ps
	{0xaf, 0xaf, form},                       // vfnmsub213sd, vfnmsub213ss
	{0xb4, 0xb6, form},                       // vpmadd52luq, vpmadd52huq, vfmaddsub231pd, vfmaddsub231ps
	{0xb7, 0xb9, form},                       // vfmsubadd231pd, vfmsubadd231ps, vfmadd231pd, vfmadd231ps, vfmadd231sd, vfmadd231ss
	{0xba, 0xbc, form},                       // vfmsub231pd, vfmsub231ps, vfmsub231sd, vfmsub231ss, vfnmadd231pd, vfnmadd231ps
	{0xbd, 0xbf, form},                       // vfnmadd231sd, vfnmadd231ss, vfnmsub231pd, vfnmsub231ps, vfnmsub231sd, vfnmsub231ss
	{0xc4, 0xc4, form},                       // vpconflictd, vpconflictq
	{0xc6, 0xc6, op | memAny | sib | regs(1, 2, 5, 6)}, // vgatherpf0dpd, vgatherpf0dps, vgatherpf1dpd, vgatherpf1dps, vscatterpf0dpd and others
	{0xc7, 0xc7, op | memAny | sib | regs(1, 2, 5, 6)}, // vgatherpf0qpd, vgatherpf0qps, vgatherpf1qpd, vgatherpf1qps, vscatterpf0qpd and others
	{0xc8, 0xc8, form}, // vexp2pd, vexp2ps
	{0xca, 0xcc, form}, // vrcp28pd, vrcp28ps, vrcp28sd, vrcp28ss, vrsqrt28pd, vrsqrt28ps
	{0xcd, 0xcd, form}, // vrsqrt28sd, vrsqrt28ss
	{0xcf, 0xcf, form}, // vgf2p8mulb
	{0xd2, 0xd3, form}, // vpdpwuud, vpdpwusd, vpdpwsud, vpdpwuuds, vpdpwusds, vpdpwsuds
	{0xda, 0xda, form}, // vsm4key4, vsm4rnds4
	{0xdc, 0xdf, form}, // vaesenc, vaesenclast, vaesdec, vaesdeclast
})

// evex0F3A is EVEX map 3.
var evex0F3A = table([]row{
	{0x00, 0x01, form | ib}, // vpermq, vpermpd
	{0x03, 0x05, form | ib}, // valignd, valignq, vpermilps, vpermilpd
	{0x07, 0x0a, form | ib}, // tilemovrow, tcvtrow, vrndscaleph, vrndscaleps, vrndscalepd, vrndscalesh, vrndscaless
	{0x0b, 0x0b, form | ib}, // vrndscalesd
	{0x0f, 0x0f, form | ib}, // vpalignr
	{0x14, 0x18, form | ib}, // vpextrb, vpextrw, vpextrd, vpextrq, vextractps, vinsertf32x4, vinsertf64x2
	{0x19, 0x1a, form | ib}, // vextractf32x4, vextractf64x2, vinsertf32x8, vinsertf64x4
	{0x1b, 0x1b, form | ib}, // vextractf32x8, vextractf64x4
	{0x1d, 0x22, form | ib}, // vcvtps2ph, vpcmpud, vpcmpuq, vpcmpd, vpcmpq, vpinsrb, vinsertps, vpinsrd, vpinsrq
	{0x23, 0x23, form | ib}, // vshuff32x4, vshuff64x2
	{0x25, 0x26, form | ib}, // vpternlogd, vpternlogq, vgetmantph, vgetmantpd, vgetmantps
	{0x27, 0x27, form | ib}, // vgetmantsh, vgetmantsd, vgetmantss
	{0x38, 0x3a, form | ib}, // vinserti32x4, vinserti64x2, vextracti32x4, vextracti64x2, vinserti32x8, vinserti64x4
	{0x3b, 0x3b, form | ib}, // vextracti32x8, vextracti64x4
	{0x3e, 0x3f, form | ib}, // vpcmpub, vpcmpuw, vpcmpb, vpcmpw
	{0x42, 0x44, form | ib}, // vdbpsadbw, vshufi32x4, vshufi64x2, vpclmulqdq
	{0x50, 0x52, form | ib}, // vrangepd, vrangeps, vrangesd, vrangess, vminmaxph, vminmaxps, vminmaxpd
	{0x53, 0x55, form | ib}, // vminmaxsh, vminmaxss, vminmaxsd, vfixupimmpd, vfixupimmps, vfixupimmsd, vfixupimmss
	{0x56, 0x57, form | ib}, // vreduceph, vreducepd, vreduceps, vreducesh, vreducesd, vreducess
	{0x66, 0x66, form | ib}, // vfpclassph, vfpclasspd, vfpclassps
	{0x67, 0x67, form | ib}, // vfpclasssh, vfpclasssd, vfpclassss
	{0x70, 0x73, form | ib}, // vpshldw, vpshldd, vpshldq, vpshrdw, vpshrdd, vpshrdq
	{0x77, 0x77, form | ib}, // tcvtrow
	{0xc2, 0xc2, form | ib}, // vcmpph, vcmpsh
	{0xce, 0xcf, form | ib}, // vgf2p8affineqb, vgf2p8affineinvqb
})

// evex5 is EVEX map 5: FP16 and AVX10.2.
var evex5 = table([]row{
	{0x10, 0x11, form},        // vmovsh
	{0x18, 0x18, form},        // vcvtne2ph2hf8, vcvtbiasph2hf8
	{0x1b, 0x1b, form},        // vcvt2ph2hf8s
	{0x1d, 0x1e, form},        // vcvtss2sh, vcvtps2phx, vcvthf82ph
	{0x2a, 0x2a, form},        // vcvtsi2shl, vcvtsi2shq, vcvtsi2sh
	{0x2c, 0x2f, form},        // vcvttsh2si, vcvtsh2si, vucomish, vcomish
	{0x51, 0x51, form},        // vsqrtph, vsqrtsh
	{0x58, 0x59, form},        // vaddph, vaddsh, vmulph, vmulsh
	{0x5a, 0x5a, form},        // vcvtph2pd, vcvtpd2ph, vcvtsh2sd, vcvtsd2sh
	{0x5b, 0x5b, form},        // vcvtdq2ph, vcvtqq2ph, vcvtph2dq, vcvttph2dq
	{0x5c, 0x5f, form},        // vsubph, vsubsh, vminph, vminsh, vdivph, vdivsh, vmaxph, vmaxsh
	{0x68, 0x6e, form},        // vcvttps2iubs, vcvtps2ibs, vcvtps2iubs, vcvttps2udqs, vcvttps2dqs, vmovw
	{0x6f, 0x6f, op | memAny}, // vmovrs
	{0x74, 0x74, form},        // vcvtph2bf8s
	{0x78, 0x79, form},        // vcvttph2udq, vcvttph2uqq, vcvttsh2usi, vcvtph2udq, vcvtph2uqq, vcvtsh2usi
	{0x7a, 0x7a, form},        // vcvttph2qq, vcvtudq2ph, vcvtuqq2ph
	{0x7b, 0x7c, form},        // vcvtph2qq, vcvtusi2shl, vcvtusi2shq, vcvtusi2sh, vcvttph2uw, vcvttph2w
	{0x7d, 0x7e, form},        // vcvtph2uw, vcvtph2w, vcvtw2ph, vcvtuw2ph, vmovw
})

// evex6 is EVEX map 6: FP16 and AVX10.2.
var evex6 = table([]row{
	{0x13, 0x13, form}, // vcvtsh2ss, vcvtph2psx
	{0x2c, 0x2d, form}, // vscalefph, vscalefsh
	{0x42, 0x43, form}, // vgetexpph, vgetexpsh
	{0x4c, 0x4f, form}, // vrcpph, vrcpsh, vrsqrtph, vrsqrtsh
	{0x56, 0x57, form}, // vfmaddcph, vfcmaddcph, vfmaddcsh, vfcmaddcsh
	{0x96, 0x9b, form}, // vfmaddsub132ph, vfmsubadd132ph, vfmadd132ph, vfmadd132sh, vfmsub132ph, vfmsub132sh
	{0x9c, 0x9f, form}, // vfnmadd132ph, vfnmadd132sh, vfnmsub132ph, vfnmsub132sh
	{0xa6, 0xab, form}, // vfmaddsub213ph, vfmsubadd213ph, vfmadd213ph, vfmadd213sh, vfmsub213ph, vfmsub213sh
	{0xac, 0xaf, form}, // vfnmadd213ph, vfnmadd213sh, vfnmsub213ph, vfnmsub213sh
	{0xb6, 0xbb, form}, // vfmaddsub231ph, vfmsubadd231ph, vfmadd231ph, vfmadd231sh, vfmsub231ph, vfmsub231sh
	{0xbc, 0xbf, form}, // vfnmadd231ph, vfnmadd231sh, vfnmsub231ph, vfnmsub231sh
	{0xd6, 0xd7, form}, // vfmulcph, vfcmulcph, vfmulcsh, vfcmulcsh
})

// evexMaps are the opcode maps by the mmm field.
var evexMaps = [8]*[256]entry{1: &evex0F, 2: &evex0F38, 3: &evex0F3A, 5: &evex5, 6: &evex6}
