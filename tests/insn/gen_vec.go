package insn

import (
	"fmt"
	"strings"
)

// Vector instructions. The lists hold mnemonics by the shape of their operands.

var (
	// op xmm/m128, xmm; in SSE the memory must be aligned.
	sseInt = strings.Fields(`paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw paddusb paddusw psubsb
		psubsw psubusb psubusw pmullw pmulhw pmulhuw pmuludq pmaddwd pavgb pavgw pminub pminsw pmaxub pmaxsw pand
		pandn por pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd packsswb packssdw packuswb punpcklbw
		punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd punpckhdq punpckhqdq psadbw psllw pslld psllq psrlw
		psrld psrlq psraw psrad`)
	ssse3   = strings.Fields(`pshufb phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw psignb psignw psignd pmulhrsw`)
	sse41   = strings.Fields(`pmuldq pmulld pminsb pminsd pminuw pminud pmaxsb pmaxsd pmaxuw pmaxud pcmpeqq packusdw`)
	sse42   = strings.Fields(`pcmpgtq`)
	ssePS   = strings.Fields(`addps subps mulps divps minps maxps andps andnps orps xorps unpcklps unpckhps`)
	ssePD   = strings.Fields(`addpd subpd mulpd divpd minpd maxpd andpd andnpd orpd xorpd unpcklpd unpckhpd`)
	sse3    = strings.Fields(`haddps hsubps addsubps haddpd hsubpd addsubpd`)
	sseSS   = strings.Fields(`addss subss mulss divss minss maxss`)
	sseSD   = strings.Fields(`addsd subsd mulsd divsd minsd maxsd`)
	aes     = strings.Fields(`aesenc aesenclast aesdec aesdeclast`)
	unary   = strings.Fields(`sqrtps sqrtpd movdqa movaps movapd cvtdq2ps cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq cvtpd2ps`)
	unarySS = strings.Fields(`pabsb pabsw pabsd ptest movshdup movsldup`)
	imm8    = strings.Fields(`shufps shufpd cmpps cmppd`)
)

// undefinedVec: ptest and comis define all flags; nothing here is undefined.
const undefinedVec = 0

func genSSE(g *gen) {
	binary := [][]string{sseInt, ssePS, ssePD, sse3}
	if g.features["ssse3"] {
		binary = append(binary, ssse3)
	}
	if g.features["sse4_1"] {
		binary = append(binary, sse41)
	}
	if g.features["sse4_2"] {
		binary = append(binary, sse42)
	}
	if g.features["aes"] {
		binary = append(binary, aes)
	}
	for _, list := range binary {
		for _, op := range list {
			setup, m := g.mem(16)
			g.add(0, fmt.Sprintf("%s %%xmm%d, %%xmm%d", op, g.IntN(16), g.IntN(16)), setup,
				fmt.Sprintf("%s %s, %%xmm%d", op, m, g.IntN(16)), fmt.Sprintf("%s %s, %%xmm%d", op, g.rip(16), g.IntN(16)))
		}
	}
	for _, op := range append(append([]string{}, sseSS...), sseSD...) {
		setup, m := g.mem(1)
		g.add(0, fmt.Sprintf("%s %%xmm%d, %%xmm%d", op, g.IntN(16), g.IntN(16)), setup,
			fmt.Sprintf("%s %s, %%xmm%d", op, m, g.IntN(16)), fmt.Sprintf("%s %s, %%xmm%d", op, g.rip(1), g.IntN(16)))
	}
	for _, op := range append(unary, unarySS...) {
		setup, m := g.mem(16)
		g.add(0, fmt.Sprintf("%s %%xmm%d, %%xmm%d", op, g.IntN(16), g.IntN(16)), setup, fmt.Sprintf("%s %s, %%xmm%d", op, m, g.IntN(16)))
		g.add(0, fmt.Sprintf("%s %s, %%xmm%d", op, g.rip(16), g.IntN(16)))
	}
	for _, op := range append(strings.Fields(`pshufd pshuflw pshufhw roundps roundpd roundss roundsd blendps blendpd
		pblendw palignr mpsadbw insertps dpps dppd`), imm8...) {
		for range 3 {
			max := 256
			if strings.HasPrefix(op, "cmp") {
				max = 8
			}
			setup, m := g.mem(16)
			// The immediate lies between the displacement and the end of the instruction.
			g.add(0, setup, fmt.Sprintf("%s $%d, %s, %%xmm%d", op, g.IntN(max), m, g.IntN(16)),
				fmt.Sprintf("%s $%d, %s, %%xmm%d", op, g.IntN(max), g.rip(16), g.IntN(16)),
				fmt.Sprintf("%s $%d, %%xmm%d, %%xmm%d", op, g.IntN(max), g.IntN(16), g.IntN(16)))
		}
	}
	for range 4 {
		x, y, r := g.IntN(16), g.IntN(16), g.reg()
		for _, size := range []int{4, 8} {
			s := suffix(size)
			setup, m := g.mem(1)
			g.add(0, setup, fmt.Sprintf("cvtsi2ss%s %s, %%xmm%d", s, m, x), fmt.Sprintf("cvtsi2sd%s %s, %%xmm%d", s, gpr(r, size), y))
			g.add(0, fmt.Sprintf("cvtss2si %%xmm%d, %s", x, gpr(r, size)), fmt.Sprintf("cvttsd2si %s, %s", g.rip(1), gpr(g.reg(), size)),
				fmt.Sprintf("cvttss2si %s, %s", g.rip(1), gpr(g.reg(), size)), fmt.Sprintf("cvtsd2si %%xmm%d, %s", y, gpr(g.reg(), size)))
		}
		for _, op := range []string{"ucomiss", "comiss", "ucomisd", "comisd"} {
			setup, m := g.mem(1)
			g.add(0, setup, fmt.Sprintf("%s %s, %%xmm%d", op, m, x))
			g.add(0, fmt.Sprintf("%s %%xmm%d, %%xmm%d", op, y, x), "setp %al")
		}
		setup, m := g.mem(16)
		g.add(0, setup, fmt.Sprintf("movups %%xmm%d, %s", x, m), fmt.Sprintf("movntdq %%xmm%d, %s", y, g.rip(16)), "sfence")
		g.add(0, fmt.Sprintf("movd %s, %%xmm%d", gpr(r, 4), x), fmt.Sprintf("movq %%xmm%d, %s", y, gpr(g.reg(), 8)),
			fmt.Sprintf("movq %s, %%xmm%d", g.rip(1), x), fmt.Sprintf("movd %%xmm%d, %s", x, g.rip(1)))
		g.add(0, fmt.Sprintf("movhps %s, %%xmm%d", g.rip(1), x), fmt.Sprintf("movlps %%xmm%d, %s", y, g.rip(1)),
			fmt.Sprintf("movhlps %%xmm%d, %%xmm%d", x, y), fmt.Sprintf("movss %s, %%xmm%d", g.rip(1), x), fmt.Sprintf("movsd %%xmm%d, %%xmm%d", x, y))
		g.add(0, fmt.Sprintf("pmovmskb %%xmm%d, %s", x, gpr(r, 4)), fmt.Sprintf("movmskps %%xmm%d, %s", y, gpr(g.reg(), 4)), fmt.Sprintf("movmskpd %%xmm%d, %s", y, gpr(g.reg(), 4)))
		g.add(0, fmt.Sprintf("pinsrw $%d, %s, %%xmm%d", g.IntN(8), g.rip(1), x), fmt.Sprintf("pinsrq $1, %s, %%xmm%d", gpr(r, 8), y),
			fmt.Sprintf("pextrb $%d, %%xmm%d, %s", g.IntN(16), x, g.rip(1)), fmt.Sprintf("pextrq $1, %%xmm%d, %s", y, g.rip(1)), fmt.Sprintf("extractps $2, %%xmm%d, %s", y, gpr(g.reg(), 4)))
		g.add(0, fmt.Sprintf("lddqu %s, %%xmm%d", g.rip(1), x), fmt.Sprintf("movddup %s, %%xmm%d", g.rip(1), y), fmt.Sprintf("pmovzxbw %s, %%xmm%d", g.rip(1), x), fmt.Sprintf("pmovsxdq %s, %%xmm%d", g.rip(1), y))
		g.add(0, fmt.Sprintf("pslldq $%d, %%xmm%d", g.IntN(17), x), fmt.Sprintf("psrlq $%d, %%xmm%d", g.IntN(70), y), fmt.Sprintf("psrad $3, %%xmm%d", x))
		g.add(0, fmt.Sprintf("pblendvb %%xmm0, %s, %%xmm%d", g.rip(16), x), fmt.Sprintf("blendvps %%xmm0, %%xmm%d, %%xmm%d", y, x))
		g.add(0, "lea "+g.rip(1)+", %rdi", fmt.Sprintf("maskmovdqu %%xmm%d, %%xmm%d", x, y))
		for _, op := range []string{"pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm"} {
			g.add(0, fmt.Sprintf("%s $%d, %s, %%xmm%d", op, g.IntN(128), g.rip(1), x))
		}
		g.add(0, "ldmxcsr 1f(%rip)", "jmp 2f", "1: .long "+pick(g, "0x1f80", "0x3f80", "0x5f80", "0x7f80", "0x9fc0"), "2: "+fmt.Sprintf("addps %%xmm%d, %%xmm%d", x, y),
			fmt.Sprintf("cvtss2si %%xmm%d, %%eax", x), "stmxcsr "+g.rip(1))
		if g.features["pclmulqdq"] {
			g.add(0, fmt.Sprintf("pclmulqdq $%d, %s, %%xmm%d", pick(g, 0, 1, 16, 17), g.rip(16), x))
		}
		if g.features["sha_ni"] {
			g.add(0, fmt.Sprintf("sha256rnds2 %%xmm0, %s, %%xmm%d", g.rip(16), x), fmt.Sprintf("sha1rnds4 $%d, %%xmm%d, %%xmm%d", g.IntN(4), x, y), fmt.Sprintf("sha256msg1 %s, %%xmm%d", g.rip(16), y))
		}
	}
	// MMX, which shares the x87 registers.
	for _, op := range []string{"paddb", "paddw", "pmullw", "pxor", "psubd", "punpcklbw", "pcmpeqw", "pmaddwd", "psllq"} {
		g.add(0, fmt.Sprintf("movq %s, %%mm%d", g.rip(1), g.IntN(8)), fmt.Sprintf("%s %s, %%mm%d", op, g.rip(8), g.IntN(8)),
			fmt.Sprintf("%s %%mm%d, %%mm%d", op, g.IntN(8), g.IntN(8)), fmt.Sprintf("movd %%mm%d, %%eax", g.IntN(8)))
		g.add(0, fmt.Sprintf("movq %%mm%d, %s", g.IntN(8), g.rip(1)), "movq2dq %mm1, %xmm2", "emms")
	}
}

// vexOps returns the three-operand forms of the SSE instructions.
func genAVX(g *gen) {
	for _, width := range []string{"xmm", "ymm"} {
		v := func() string { return fmt.Sprintf("%%%s%d", width, g.IntN(16)) }
		lists := [][]string{ssePS, ssePD, sse3}
		if width == "xmm" || g.features["avx2"] {
			lists = append(lists, sseInt[:len(sseInt)-8], ssse3, sse41, sse42)
		}
		for _, list := range lists {
			for _, op := range list {
				// Unaligned memory is allowed here.
				setup, m := g.mem(1)
				g.add(0, fmt.Sprintf("v%s %s, %s, %s", op, v(), v(), v()), setup, fmt.Sprintf("v%s %s, %s, %s", op, m, v(), v()),
					fmt.Sprintf("v%s %s, %s, %s", op, g.rip(1), v(), v()))
			}
		}
		for _, op := range []string{"sqrtps", "sqrtpd", "movdqu", "movups", "movupd", "cvtdq2ps", "cvtps2dq", "cvttps2dq", "movshdup", "movsldup", "ptest", "movddup"} {
			setup, m := g.mem(1)
			g.add(0, fmt.Sprintf("v%s %s, %s", op, v(), v()), setup, fmt.Sprintf("v%s %s, %s", op, m, v()))
			g.add(0, fmt.Sprintf("v%s %s, %s", op, g.rip(1), v()))
		}
		for _, op := range []string{"movdqu", "movups"} {
			setup, m := g.mem(1)
			g.add(0, setup, fmt.Sprintf("v%s %s, %s", op, v(), m), fmt.Sprintf("v%s %s, %s", op, v(), g.rip(1)))
		}
		for _, op := range []string{"shufps", "shufpd", "blendps", "blendpd", "cmpps", "cmppd", "dpps"} {
			setup, m := g.mem(1)
			n := 256
			if op[:3] == "cmp" {
				n = 32
			}
			g.add(0, setup, fmt.Sprintf("v%s $%d, %s, %s, %s", op, g.IntN(n), m, v(), v()), fmt.Sprintf("v%s $%d, %s, %s, %s", op, g.IntN(n), g.rip(1), v(), v()))
		}
		for _, op := range []string{"permilps", "permilpd", "roundps", "roundpd"} {
			g.add(0, fmt.Sprintf("v%s $%d, %s, %s", op, g.IntN(16), g.rip(1), v()), fmt.Sprintf("v%s $%d, %s, %s", op, g.IntN(16), v(), v()))
		}
		for _, op := range []string{"vblendvps", "vblendvpd"} {
			g.add(0, fmt.Sprintf("%s %s, %s, %s, %s", op, v(), g.rip(1), v(), v()))
		}
		g.add(0, fmt.Sprintf("vmaskmovps %s, %s, %s", g.rip(1), v(), v()), fmt.Sprintf("vmaskmovpd %s, %s, %s", v(), v(), g.rip(1)))
		g.add(0, fmt.Sprintf("vtestps %s, %s", g.rip(1), v()), fmt.Sprintf("vmovmskps %s, %%eax", v()))
	}
	y := func() string { return fmt.Sprintf("%%ymm%d", g.IntN(16)) }
	x := func() string { return fmt.Sprintf("%%xmm%d", g.IntN(16)) }
	for range 4 {
		g.add(0, fmt.Sprintf("vbroadcastss %s, %s", g.rip(1), y()), fmt.Sprintf("vbroadcastf128 %s, %s", g.rip(1), y()),
			fmt.Sprintf("vperm2f128 $%d, %s, %s, %s", g.IntN(256), g.rip(1), y(), y()), fmt.Sprintf("vinsertf128 $1, %s, %s, %s", g.rip(1), y(), y()),
			fmt.Sprintf("vextractf128 $%d, %s, %s", g.IntN(2), y(), g.rip(1)))
		for _, op := range append(append([]string{}, sseSS...), sseSD...) {
			g.add(0, fmt.Sprintf("v%s %s, %s, %s", op, g.rip(1), x(), x()))
		}
		g.add(0, "vzeroupper", fmt.Sprintf("vaddps %s, %s, %s", x(), x(), x()))
		g.add(0, "vzeroall", fmt.Sprintf("vmovdqu %s, %s", g.rip(1), y()))
		g.add(0, fmt.Sprintf("vpinsrd $1, %s, %s, %s", g.rip(1), x(), x()), fmt.Sprintf("vcvtsi2sdq %s, %s, %s", g.rip(1), x(), x()), fmt.Sprintf("vpextrw $2, %s, %s", x(), g.rip(1)))
		if g.features["avx2"] {
			g.add(0, fmt.Sprintf("vpermq $%d, %s, %s", g.IntN(256), g.rip(1), y()), fmt.Sprintf("vpermd %s, %s, %s", g.rip(1), y(), y()),
				fmt.Sprintf("vpbroadcastb %s, %s", g.rip(1), y()), fmt.Sprintf("vinserti128 $0, %s, %s, %s", g.rip(1), y(), y()), fmt.Sprintf("vpmovzxbw %s, %s", g.rip(1), y()))
			g.add(0, fmt.Sprintf("vpsllvd %s, %s, %s", g.rip(1), y(), y()), fmt.Sprintf("vpsrlvq %s, %s, %s", g.rip(1), y(), y()), fmt.Sprintf("vpsravd %s, %s, %s", g.rip(1), y(), y()),
				fmt.Sprintf("vpslldq $%d, %s, %s", g.IntN(16), y(), y()), fmt.Sprintf("vpblendd $%d, %s, %s, %s", g.IntN(256), g.rip(1), y(), y()), fmt.Sprintf("vpalignr $%d, %s, %s, %s", g.IntN(40), g.rip(1), y(), y()))
			g.add(0, fmt.Sprintf("vpmovmskb %s, %%ecx", y()), "bsf %ecx, %eax", "cmovz %edx, %eax")
			// Gathers: 8 indices that stay in the window.
			base := g.reg()
			g.add(0, "lea scratch+1920(%rip), "+gpr(base, 8), "vpcmpeqd %ymm1, %ymm1, %ymm1", "vpsrld $27, %ymm2, %ymm2",
				fmt.Sprintf("vpgatherdd %%ymm1, 8(%s,%%ymm2,4), %%ymm3", gpr(base, 8)))
			g.add(0, "lea scratch+1920(%rip), "+gpr(base, 8), "vpsrlq $60, %ymm4, %ymm4", fmt.Sprintf("vgatherqpd %%ymm5, (%s,%%ymm4,8), %%ymm6", gpr(base, 8)))
		}
		if g.features["f16c"] {
			g.add(0, fmt.Sprintf("vcvtph2ps %s, %s", g.rip(1), y()), fmt.Sprintf("vcvtps2ph $%d, %s, %s", g.IntN(4), y(), g.rip(1)))
		}
		if g.features["vaes"] {
			g.add(0, fmt.Sprintf("vaesenc %s, %s, %s", g.rip(1), y(), y()))
		}
		if g.features["vpclmulqdq"] {
			g.add(0, fmt.Sprintf("vpclmulqdq $17, %s, %s, %s", g.rip(1), y(), y()))
		}
	}
	if g.features["fma"] {
		for _, op := range []string{"vfmadd", "vfmsub", "vfnmadd", "vfnmsub"} {
			for _, order := range []string{"132", "213", "231"} {
				g.add(0, fmt.Sprintf("%s%sps %s, %s, %s", op, order, g.rip(1), y(), y()), fmt.Sprintf("%s%spd %s, %s, %s", op, order, y(), y(), y()),
					fmt.Sprintf("%s%ssd %s, %s, %s", op, order, g.rip(1), x(), x()))
			}
		}
	}
}

// genXOP: forms that only some AMD processors have, with encodings of their own.
func genSSE4A(g *gen) {
	for range 4 {
		g.add(0, fmt.Sprintf("extrq $%d, $%d, %%xmm%d", g.IntN(30), g.IntN(30), g.IntN(16)), fmt.Sprintf("insertq $%d, $%d, %%xmm%d, %%xmm%d", g.IntN(30), g.IntN(30), g.IntN(16), g.IntN(16)),
			fmt.Sprintf("movntss %%xmm%d, %s", g.IntN(16), g.rip(4)), fmt.Sprintf("movntsd %%xmm%d, %s", g.IntN(16), g.rip(8)))
	}
}

func genAVX512(g *gen) {
	for _, width := range []string{"xmm", "ymm", "zmm"} {
		v := func() string { return fmt.Sprintf("%%%s%d", width, g.IntN(32)) }
		k := func() string {
			return pick(g, "", fmt.Sprintf("{%%k%d}", 1+g.IntN(7)), fmt.Sprintf("{%%k%d}{z}", 1+g.IntN(7)))
		}
		for _, op := range strings.Fields(`vpaddd vpaddq vpsubd vpmulld vpmullq vpandd vpandnq vporq vpxord vpminsq vpmaxud
			vaddps vsubpd vmulps vdivpd vminps vpermd vpermq vpsllvd vpsravq vprolvd vpunpckhdq vpermt2d vpermi2q vunpcklps`) {
			if width == "xmm" && (op == "vpermd" || op == "vpermq") {
				continue
			}
			setup, m := g.mem(1)
			g.add(0, fmt.Sprintf("%s %s, %s, %s%s", op, v(), v(), v(), k()), setup, fmt.Sprintf("%s %s, %s, %s%s", op, m, v(), v(), k()),
				fmt.Sprintf("%s %s, %s, %s%s", op, g.rip(1), v(), v(), k()))
			// Displacements that the encoding scales by the size of the operand.
			n := map[string]int{"xmm": 16, "ymm": 32, "zmm": 64}[width]
			r := gpr(g.reg(), 8)
			g.add(0, "lea scratch+1920(%rip), "+r, fmt.Sprintf("%s %d(%s), %s, %s%s", op, n, r, v(), v(), k()), fmt.Sprintf("%s %d(%s), %s, %s", op, n+1, r, v(), v()))
		}
		for _, op := range strings.Fields(`vpaddd vaddps vmulps vpandd`) {
			to := map[string]string{"xmm": "4", "ymm": "8", "zmm": "16"}[width]
			g.add(0, fmt.Sprintf("%s %s{1to%s}, %s, %s%s", op, g.rip(4), to, v(), v(), k()))
		}
		for _, op := range strings.Fields(`vmovdqu8 vmovdqu16 vmovdqu32 vmovdqu64 vmovups vmovupd`) {
			m := pick(g, "", "{%k1}", "{%k6}")
			g.add(0, fmt.Sprintf("%s %s, %s%s", op, g.rip(1), v(), k()), fmt.Sprintf("%s %s, %s%s", op, v(), g.rip(1), m))
		}
		for range 3 {
			g.add(0, fmt.Sprintf("vpcmpud $%d, %s, %s, %%k%d{%%k1}", g.IntN(8), g.rip(1), v(), g.IntN(8)), fmt.Sprintf("vpcmpeqb %s, %s, %%k2", v(), v()), fmt.Sprintf("vptestmd %s, %s, %%k3", g.rip(1), v()))
			g.add(0, fmt.Sprintf("vpternlogd $%d, %s, %s, %s%s", g.IntN(256), g.rip(1), v(), v(), k()), fmt.Sprintf("valignd $1, %s, %s, %s", g.rip(1), v(), v()))
			g.add(0, fmt.Sprintf("vpcompressd %s, %s{%%k1}", v(), g.rip(1)), fmt.Sprintf("vpexpandq %s, %s{%%k2}{z}", g.rip(1), v()), fmt.Sprintf("vpbroadcastd %%eax, %s", v()), fmt.Sprintf("vpmovm2b %%k3, %s", v()))
			g.add(0, fmt.Sprintf("vfmadd231ps %s, %s, %s%s", g.rip(1), v(), v(), k()), fmt.Sprintf("vcvttps2udq %s, %s", g.rip(1), v()), fmt.Sprintf("vpabsq %s, %s%s", g.rip(1), v(), k()))
		}
	}
	for range 6 {
		a, b, c := g.IntN(8), g.IntN(8), g.IntN(8)
		g.add(0, fmt.Sprintf("kmovq %s, %%k%d", g.rip(1), a), fmt.Sprintf("kandq %%k%d, %%k%d, %%k%d", a, b, c), fmt.Sprintf("kmovw %%k%d, %s", c, g.rip(1)), fmt.Sprintf("kortestw %%k%d, %%k%d", a, b), fmt.Sprintf("kunpckdq %%k%d, %%k%d, %%k%d", a, b, c), fmt.Sprintf("kmovd %%k%d, %%eax", b))
		g.add(0, "lea scratch+1920(%rip), %rbx", "vpsrld $27, %zmm2, %zmm2", "kxnorw %k1, %k1, %k1", "vpgatherdd 8(%rbx,%zmm2,4), %zmm3{%k1}")
		g.add(0, fmt.Sprintf("vaddps {rn-sae}, %%zmm%d, %%zmm%d, %%zmm%d", g.IntN(32), g.IntN(32), g.IntN(32)), fmt.Sprintf("vcvtsd2si {rz-sae}, %%xmm%d, %%rax", g.IntN(32)))
		g.add(0, fmt.Sprintf("vinserti64x4 $1, %s, %%zmm%d, %%zmm%d", g.rip(1), g.IntN(32), g.IntN(32)), fmt.Sprintf("vextracti32x4 $3, %%zmm%d, %s", g.IntN(32), g.rip(1)), fmt.Sprintf("vshufi64x2 $78, %s, %%zmm%d, %%zmm%d", g.rip(1), g.IntN(32), g.IntN(32)))
	}
}
