package x86

// map0F38 is the opcode map 0F 38 (SDM vol. 2 tables ).
var map0F38 = table([]row{
	{0x00, 0x09, op | pNP | p66},              // pshufb, phaddw, phaddd, phaddsw, pmaddubsw, phsubw, phsubd, phsubsw, psignb, psignw
	{0x0a, 0x0b, op | pNP | p66},              // psignd, pmulhrsw
	{0x10, 0x10, op | p66},                    // pblendvb
	{0x14, 0x15, op | p66},                    // blendvps, blendvpd
	{0x17, 0x17, op | p66},                    // ptest
	{0x1c, 0x1e, op | pNP | p66},              // pabsb, pabsw, pabsd
	{0x20, 0x25, op | p66},                    // pmovsxbw, pmovsxbd, pmovsxbq, pmovsxwd, pmovsxwq, pmovsxdq
	{0x28, 0x29, op | p66},                    // pmuldq, pcmpeqq
	{0x2a, 0x2a, op | m66},                    // movntdqa
	{0x2b, 0x2b, op | p66},                    // packusdw
	{0x30, 0x35, op | p66},                    // pmovzxbw, pmovzxbd, pmovzxbq, pmovzxwd, pmovzxwq, pmovzxdq
	{0x37, 0x40, op | p66},                    // pcmpgtq, pminsb, pminsd, pminuw, pminud, pmaxsb, pmaxsd, pmaxuw, pmaxud, pmulld
	{0x41, 0x41, op | p66},                    // phminposuw
	{0x80, 0x82, op | m66},                    // invept, invvpid, invpcid
	{0x8a, 0x8b, op | memAny},                 // movrs
	{0xc8, 0xcd, op | pNP},                    // sha1nexte, sha1msg1, sha1msg2, sha256rnds2, sha256msg1, sha256msg2
	{0xcf, 0xcf, op | p66},                    // gf2p8mulb
	{0xd8, 0xd8, op | mF3 | regs(0, 1, 2, 3)}, // aesencwide128kl, aesdecwide128kl, aesencwide256kl, aesdecwide256kl
	{0xdb, 0xdb, op | p66},                    // aesimc
	{0xdc, 0xdc, op | p66 | pF3},              // aesenc, aesenc128kl, loadiwkey
	{0xdd, 0xdf, op | p66 | mF3},              // aesenclast, aesdec128kl, aesdec, aesenc256kl, aesdeclast, aesdec256kl
	{0xf0, 0xf1, op | mNP | m66 | pF2},        // movbe, crc32
	{0xf5, 0xf5, op | m66},                    // wrussd
	{0xf6, 0xf6, op | mNP | p66 | pF3},        // wrssd, adcx, adox
	{0xf8, 0xf8, op | m66 | pF3 | pF2},        // movdir64b, enqcmds, uwrmsr, enqcmd, urdmsr
	{0xf9, 0xf9, op | mNP},                    // movdiri
	{0xfa, 0xfb, op | rF3},                    // encodekey128, encodekey256
	{0xfc, 0xfc, op | memAny | lockable},      // aadd, aand, axor, aor
})

// map0F3A is the opcode map 0F 3A (SDM vol. 2 table A-5).
var map0F3A = table([]row{
	{0x08, 0x0e, op | p66 | ib},           // roundps, roundpd, roundss, roundsd, blendps, blendpd, pblendw
	{0x0f, 0x0f, op | pNP | p66 | ib},     // palignr
	{0x14, 0x17, op | p66 | ib},           // pextrb, pextrw, pextrd, extractps
	{0x20, 0x22, op | p66 | ib},           // pinsrb, insertps, pinsrd
	{0x40, 0x42, op | p66 | ib},           // dpps, dppd, mpsadbw
	{0x44, 0x44, op | p66 | ib},           // pclmulqdq
	{0x60, 0x63, op | p66 | ib},           // pcmpestrm, pcmpestri, pcmpistrm, pcmpistri
	{0xcc, 0xcc, op | pNP | ib},           // sha1rnds4
	{0xce, 0xcf, op | p66 | ib},           // gf2p8affineqb, gf2p8affineinvqb
	{0xdf, 0xdf, op | p66 | ib},           // aeskeygenassist
	{0xf0, 0xf0, op | rF3 | ib | regs(0)}, // hreset
})
