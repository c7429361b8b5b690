package insn

import (
	"fmt"
	"strings"
)

// x87. The driver loads four integers.

func genX87(g *gen) {
	for _, op := range strings.Fields(`fld1 fldz fldpi fldl2e fldln2 fchs fabs fsqrt frndint fscale fxtract fprem fprem1
		ftst fxam fsin fcos f2xm1 fpatan fyl2x fincstp fdecstp fnop fnclex fninit fcompp fucompp fpu:fsincos fptan`) {
		op = strings.TrimPrefix(op, "fpu:")
		for range 2 {
			pre := ""
			if op == "f2xm1" {
				// Its operand lies between -1 and 1.
				pre = lines("fld1", "fld1", "fadd %st, %st(1)", "fdivp")
			}
			g.add(0, pre, op, "fnstsw %ax")
		}
	}
	for i := range 4 {
		for _, op := range []string{"fadd", "fsub", "fmul", "fdiv", "fsubr", "fdivr"} {
			g.add(0, fmt.Sprintf("%s %%st(%d), %%st", op, i), fmt.Sprintf("%s %%st, %%st(%d)", op, i))
			g.add(0, fmt.Sprintf("%sp %%st, %%st(%d)", op, 1+i%3), "fnstsw "+g.rip(1))
		}
		for _, op := range []string{"fcomi", "fucomi", "fcomip", "fucomip"} {
			g.add(0, fmt.Sprintf("%s %%st(%d), %%st", op, i), "setb %al", "setp %cl")
		}
		for _, c := range []string{"b", "e", "be", "u", "nb", "ne", "nbe", "nu"} {
			g.add(0, fmt.Sprintf("fcmov%s %%st(%d), %%st", c, i))
		}
		g.add(0, fmt.Sprintf("fxch %%st(%d)", i), fmt.Sprintf("fld %%st(%d)", i), fmt.Sprintf("fst %%st(%d)", 4+i%3), fmt.Sprintf("ffree %%st(%d)", i))
	}
	for _, op := range []string{"fadds", "faddl", "fsubs", "fsubl", "fsubrs", "fmuls", "fmull", "fdivs", "fdivl", "fdivrl", "fcoms", "fcompl",
		"fiadds", "fiaddl", "fimuls", "fisubl", "fisubrl", "fidivl", "fidivrs", "ficoml", "ficompl", "flds", "fldl", "fldt", "filds", "fildl", "fildll",
		"fbld", "fsts", "fstl", "fstps", "fstpl", "fstpt", "fists", "fistl", "fistps", "fistpl", "fistpll", "fisttps", "fisttpl", "fisttpll", "fbstp"} {
		setup, m := g.mem(1)
		g.add(0, setup, op+" "+m)
		g.add(0, op+" "+g.rip(1), "fnstsw %ax")
	}
	for _, cw := range []string{"0x37f", "0x7f", "0x27f", "0xf7f", "0x77f", "0xb7f"} {
		g.add(0, "fldcw 1f(%rip)", "jmp 2f", "1: .word "+cw, "2: fdiv %st(1), %st", "frndint", "fnstcw "+g.rip(1), "fistpl "+g.rip(1))
	}
	// The whole state; the instruction pointers in it are left out of the comparison.
	g.add(0, "fnstenv area(%rip)", "fldenv area(%rip)")
	g.add(0, "fnsave area(%rip)", "fld1", "frstor area(%rip)")
	g.add(0, "fxsave64 area(%rip)", "fninit", "pxor %xmm3, %xmm3", "fxrstor64 area(%rip)")
	g.add(0, "lea area(%rip), %rdx", "fxsave (%rdx)", "fld1", "fxrstor (%rdx)")
	g.add(0, "fwait", "fstsw %ax", "finit")
}
