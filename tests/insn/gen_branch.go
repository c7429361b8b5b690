package insn

import (
	"fmt"
	"strings"
)

// Branches, calls and returns.

func genJcc(g *gen) {
	combos := strings.Join(flagCombos(), ", ")
	for _, c := range cc {
		// One bit of rax for each combination of flags: was the branch taken?
		for _, pad := range []string{"", ".fill 140, 1, 0x90"} {
			g.add(0, "xor %eax, %eax",
				".irp f, "+combos,
				"pushq $\\f", "popfq",
				"j"+c+" 1f",
				"lea 1(%rax), %rax",
				pad,
				"1: lea (%rax,%rax), %rax",
				".endr")
			// The same with backward branches.
			g.add(0, "xor %eax, %eax",
				".irp f, "+combos,
				"jmp 2f",
				"1: lea 1(%rax,%rax), %rax", "jmp 3f",
				pad,
				"2: pushq $\\f", "popfq",
				"j"+c+" 1b",
				"lea (%rax,%rax), %rax",
				"3:",
				".endr")
		}
		// Flags of the processor's own making, and registers that must live on.
		for range 6 {
			a, b, d := g.reg(), g.reg(), g.reg()
			op := pick(g, "cmp", "test", "sub", "add", "and")
			size := pick(g, sizes...)
			g.add(flagAF, fmt.Sprintf("%s%s %s, %s", op, suffix(size), gpr(a, size), gpr(b, size)),
				"j"+c+" 1f", fmt.Sprintf("mov $%d, %s", g.IntN(1000), gpr(d, 4)), "1:")
		}
		g.add(0, "xor %eax, %eax",
			".irp f, "+combos,
			"pushq $\\f", "popfq",
			"set"+c+" %cl",
			"lea (%rcx,%rax,2), %rax",
			"and $1, %ecx",
			".endr")
		for range 4 {
			size := pick(g, 2, 4, 8)
			setup, m := g.mem(1, 0, 2)
			g.add(0, setup, fmt.Sprintf("cmov%s %s, %s", c, m, gpr(2, size)), fmt.Sprintf("cmov%s %s, %s", c, gpr(2, size), gpr(g.reg(), size)),
				"set"+c+" "+g.rip(1))
		}
		// Branches to the next instruction and with a hint prefix.
		g.add(0, "j"+c+" 1f", "1: j"+c+",pt 2f", "inc %eax", "2: j"+c+",pn 3f", "inc %ecx", "3:")
	}
	// Chains that compilers make: one comparison, two branches.
	for range 40 {
		g.add(0, "cmp %eax, %ecx", "j"+pick(g, cc...)+" 1f", "j"+pick(g, cc...)+" 2f",
			"mov $1, %edx", "jmp 3f", "1: mov $2, %edx", "jmp 3f", "2: mov $3, %edx", "3:")
	}
	// Unconditional ones.
	g.add(0, "jmp 1f", "ud2", "1: jmp 2f", ".fill 200, 1, 0x0b", "2:")
	g.add(0, "jmp 2f", "1: jmp 3f", ".fill 200, 1, 0x0b", "2: jmp 1b", "3:")
}

func genLoop(g *gen) {
	for _, op := range []string{"loop", "loope", "loopne", "addr32 loop", "addr32 loope", "addr32 loopne"} {
		for _, n := range []string{"$1", "$2", "$7", "$300"} {
			g.add(flagAF, "mov "+n+", %ecx", "xor %eax, %eax",
				"1: add $1, %eax", "cmp $"+pick(g, "1", "2", "5", "299")+", %eax", op+" 1b", "mov $9, %edx")
		}
		// The upper half of rcx counts for the 64-bit form only.
		g.add(0, "movabs $0x100000002, %rcx", "mov $5, %eax", "1: dec %eax", "jz 2f", op+" 1b", "2:")
		// Forward, with random flags.
		g.add(0, op+" 1f", "mov $1, %eax", "1:")
		g.add(0, "mov $1, %ecx", op+" 1f", "mov $1, %eax", "1:")
	}
	for _, op := range []string{"jrcxz", "jecxz"} {
		for _, n := range []string{"$0", "$1", "$-1", "$0x100000000", "$0xffffffff"} {
			g.add(0, "movabs "+n+", %rcx", op+" 1f", "mov $1, %eax", "1: mov $2, %edx")
			g.add(0, "movabs "+n+", %rcx", "jmp 2f", "1: mov $3, %eax", "jmp 3f", "2: "+op+" 1b", "3:")
		}
		g.add(0, op+" 1f", "inc %rcx", op+" 1f", "mov %ecx, %eax", "1:")
	}
	// Nested and long loops.
	g.add(0, "xor %eax, %eax", "mov $20, %edx", "1: mov $30, %ecx", "2: add %edx, %eax", "add %ecx, %eax", "loop 2b", "dec %edx", "jnz 1b")
	g.add(0, "xor %eax, %eax", "mov $5000, %ecx", "1: lea 3(%rax,%rcx), %rax", "rol $3, %rax", "dec %ecx", "jnz 1b")
}

func genCall(g *gen) {
	// Direct calls; the callee reports where it was called from and what it saw.
	for i := range 60 {
		a, b := g.reg(), g.reg()
		g.addReader(fmt.Sprintf("mov %s, scratch+%d(%%rip)", gpr(a, 8), window+i%16*8),
			"call @f", "jmp @end",
			fmt.Sprintf("@f: lea %d(%s), %s", g.IntN(1000), gpr(a, 8), gpr(b, 8)),
			fmt.Sprintf("mov (%%rsp), %%r%d", 8+g.IntN(8)), "ret", "@end:")
	}
	// Flags pass through calls and returns in both directions.
	for _, f := range flagCombos() {
		g.add(0, "call @f", "pushfq", "pop %rax", "jmp @end", "@f: pushfq", "pop %rcx", "pushq $"+f, "popfq", pick(g, "ret", "rep ret", "ret $0"), "@end:")
	}
	// ret imm16
	for _, n := range []int{0, 2, 8, 16, 24, 64, 128, 1000} {
		g.add(0, fmt.Sprintf("sub $%d, %%rsp", n), "call @f", "jmp @end", fmt.Sprintf("@f: ret $%d", n), "@end:")
		g.add(0, "call @f", "@back: jmp @end", fmt.Sprintf("@f: ret $%d", n), "@end:")
		g.add(0, fmt.Sprintf("sub $%d, %%rsp", n+8), "call @f", "jmp @end",
			fmt.Sprintf("@f: push %%rbx\npop %%rcx\nstc\nret $%d", n), "@end:")
	}
	// Calls that only learn an address.
	for _, r := range []int{0, 1, 2, 5, 8, 12, 15} {
		g.add(0, "call 1f", "1: pop "+gpr(r, 8))
		g.add(0, "call 1f", "1: mov (%rsp), "+gpr(r, 8), "add $8, %rsp")
		g.addReader("call 1f", ".quad 1, 2", "1: pop "+gpr(r, 8), "mov 8("+gpr(r, 8)+"), %rdx")
	}
	// Returns to somewhere else.
	g.addReader("call @f", "mov $1, %eax", "jmp @end", "@f: addq $5, (%rsp)", "ret", "@end:")
	g.addReader("call @f", "ud2", "ud2", "jmp @end", "@f: addq $4, (%rsp)", "ret", "@end:")
	g.add(0, "lea @to(%rip), %rax", "push %rax", "ret", "ud2", "@to:")
	g.add(0, "lea @to(%rip), %rcx", "push %rcx", "ret", "ud2", "@to:")
	g.add(0, "lea @to(%rip), %rax", "push %rcx", "push %rax", "ret $8", "ud2", "@to:")
	g.add(0, "lea @b(%rip), %rax", "push %rax", "lea @a(%rip), %rax", "push %rax", "ret", "@a: inc %ecx", "ret", "@b: inc %edx")
	g.add(0, "call @f", "jmp @end", "@f: lea @to(%rip), %rax", "mov %rax, (%rsp)", "ret", "@to: mov $7, %edx", "@end:")
	// Retpolines.
	for _, r := range []int{0, 1, 2, 11} {
		g.add(0, "lea @to(%rip), "+gpr(r, 8), "call @thunk", "jmp @end",
			"@thunk: call 1f", "2: pause", "lfence", "jmp 2b", "1: mov "+gpr(r, 8)+", (%rsp)", "ret",
			"@to: mov $5, %r9d", "ret", "@end:")
		g.add(0, "lea @to(%rip), "+gpr(r, 8), "call 1f", "2: pause", "jmp 2b", "1: mov "+gpr(r, 8)+", (%rsp)", "ret", "@to:")
	}
	// Recursion, and a longjmp over its frames.
	g.add(0, "mov $50, %ecx", "xor %eax, %eax", "call @f", "jmp @end",
		"@f: dec %ecx", "jz 1f", "push %rcx", "call @f", "pop %rcx", "1: lea (%rax,%rcx), %rax", "ret", "@end:")
	g.add(0, "mov %rsp, %rbx", "lea @land(%rip), %rbp", "mov $30, %ecx", "call @f", "ud2",
		"@f: dec %ecx", "jz 1f", "call @f", "ret", "1: mov %rbx, %rsp", "jmp *%rbp", "@land: mov $1, %eax")
	// A stack switch between call and return.
	g.addReader("mov %rsp, %rbx", "call @f", "jmp @end", "@f: pop %rdx", "lea scratch+2048(%rip), %rsp", "push %rdx", "ret",
		// What a return leaves below the stack is dead.
		"@end: mov %rsp, %rcx", "mov %rbx, %rsp", "movq $0, -8(%rcx)", "movq $0, -16(%rcx)")
	// Calls whose return address is looked at as data.
	g.addReader("call @f", ".byte 0x48, 0x8d, 0x05", ".long 0x12345678", "jmp @end", "@f: mov (%rsp), %rdx", "mov 3(%rdx), %ecx", "ret", "@end:", "xor %eax, %eax")
	// A tail call and a call into the middle of a function.
	g.add(0, "call @f", "jmp @end", "@f: mov $1, %eax", "jmp @g", "@g: add $2, %eax", "ret", "@end:")
	g.add(0, "call @f", "call @mid", "jmp @end", "@f: mov $1, %ecx", "@mid: add $2, %ecx", "ret", "@end:")
	// Overlapping code: glibc jumps over a lock prefix.
	g.add(0, "xor %eax, %eax", "je 1f+1", "1: lock cmpxchg %ecx, "+g.rip(8))
	g.add(0, "or $1, %eax", "je 1f+1", "1: lock cmpxchg %ecx, "+g.rip(8))
	g.add(0, "jmp 1f+2", "1: .byte 0x48, 0xb8", "mov $7, %ecx", "jmp 2f", ".byte 0, 0", "2:")
}

func genIndirect(g *gen) {
	// Every form of the operand, as call and as jump.
	for _, op := range []string{"call", "jmp"} {
		end := []string{"jmp @end", "ud2"}
		target := "@to: mov $77, %r10d"
		if op == "call" {
			target += "\nret"
		}
		form := func(setup []string, operand string) {
			text := append([]string{}, setup...)
			text = append(text, op+" *"+operand)
			text = append(text, end...)
			g.add(0, append(text, target, "@end:", ".pushsection .data", ".balign 8", "@ptr: .quad 0, @to, @to", ".popsection")...)
		}
		for r := range 16 {
			if r == 4 {
				continue
			}
			form([]string{"lea @to(%rip), " + gpr(r, 8)}, gpr(r, 8))
			form([]string{"lea @ptr(%rip), " + gpr(r, 8)}, "8("+gpr(r, 8)+")")
			form([]string{"lea @ptr-1000(%rip), " + gpr(r, 8)}, "1008("+gpr(r, 8)+")")
			for _, scale := range []int{1, 2, 4, 8} {
				base := g.reg(r)
				form([]string{"lea @ptr(%rip), " + gpr(base, 8), fmt.Sprintf("mov $%d, %s", 8/scale, gpr(r, 4))},
					fmt.Sprintf("(%s,%s,%d)", gpr(base, 8), gpr(r, 8), scale))
			}
		}
		form(nil, "@ptr+8(%rip)")
		form([]string{"lea @to(%rip), %rax", "mov %rax, 16(%rsp)"}, "16(%rsp)")
		form([]string{"lea @to(%rip), %rax", "mov %rax, (%rsp)"}, "(%rsp)")
		form([]string{"lea @to(%rip), %rax", "mov %rax, (%rsp)", "xor %eax, %eax"}, "(%rsp,%rax,2)")
		form([]string{"lea @to(%rip), %rax", "mov %rax, -8(%rsp)"}, "-8(%rsp)")
		form([]string{"lea @to(%rip), %rax", "push %rax"}, "(%rsp)")
		form([]string{"lea @to(%rip), %rcx", "push %rcx", "mov %rsp, %rcx"}, "(%rcx)")
		form([]string{"mov %rsp, %rbp", "lea @to(%rip), %rax", "mov %rax, 40(%rbp)"}, "40(%rbp)")
		form([]string{"mov %rbp, %rax", "lea @ptr(%rip), %rbp", "mov $8, %ecx"}, "(%rbp,%rcx)")
		form([]string{"lea @to(%rip), %rax", "movq %rax, scratch+2000(%rip)"}, "scratch+2000(%rip)")
		// The notrack and bnd prefixes are ignored.
		text := []string{"lea @to(%rip), %rdx", "notrack " + op + " *%rdx"}
		g.add(0, append(append(text, end...), target, "@end:")...)
		text = []string{"lea @to(%rip), %rcx", "bnd " + op + " *%rcx"}
		g.add(0, append(append(text, end...), target, "@end:")...)
	}
	// A jump table with 32-bit offsets, as gcc makes them.
	for range 30 {
		r, s := g.reg(0, 1), 0
		g.add(0, "and $3, %ecx", "lea @table(%rip), "+gpr(r, 8), fmt.Sprintf("movslq (%s,%%rcx,4), %s", gpr(r, 8), gpr(s, 8)),
			fmt.Sprintf("add %s, %s", gpr(r, 8), gpr(s, 8)), pick(g, "", "notrack ")+"jmp *"+gpr(s, 8),
			"@table: .long @a-@table, @b-@table, @c-@table, @d-@table",
			"@a: mov $1, %ecx", "jmp @end", "@b: mov $2, %ecx", "jmp @end", "@c: mov $3, %ecx", "jmp @end", "@d: mov $4, %ecx",
			"@end: xor %eax, %eax")
	}
	// Many targets from one site, called and jumped to.
	g.add(0, "xor %ebx, %ebx", "xor %eax, %eax", "1: lea @table(%rip), %rdx", "call *(%rdx,%rbx,8)", "inc %ebx", "cmp $50, %ebx", "jb 1b", "jmp @end",
		".altmacro", ".macro @t n", "@f\\n: lea \\n(%rax,%rax,2), %rax", "ret", ".endm", ".noaltmacro", seq("@t", 50), "@end:",
		".pushsection .data", ".balign 8", "@table:", seq(".quad @f", 50), ".popsection")
	g.add(0, "xor %ebx, %ebx", "xor %eax, %eax", "1: lea @table(%rip), %rcx", "jmp *(%rcx,%rbx,8)",
		".altmacro", ".macro @t n", "@f\\n: lea \\n(%rax,%rax,2), %rax", "jmp @next", ".endm", ".noaltmacro", seq("@t", 50),
		"@next: inc %ebx", "cmp $50, %ebx", "jb 1b",
		".pushsection .data", ".balign 8", "@table:", seq(".quad @f", 50), ".popsection")
	// Flags live across indirect branches; all registers are random otherwise.
	for _, r := range []int{0, 1, 2, 3, 6, 9, 15} {
		g.add(0, "lea @to(%rip), "+gpr(r, 8), "cmp %rsi, %rdi", "jmp *"+gpr(r, 8), "ud2", "@to: pushfq", "pop %rax", "adc $0, %rbx")
		g.add(flagAF, "lea @to(%rip), "+gpr(r, 8), "test %rsi, %rdi", "call *"+gpr(r, 8), "setc %al", "sets %cl", "jmp @end", "@to: seto %dl", "ret", "@end:")
	}
	// The same function called directly and indirectly, jumped to, fallen into.
	g.add(0, "lea @f(%rip), %rax", "call *%rax", "call @f", "push $0", "lea @ret(%rip), %rdx", "mov %rdx, (%rsp)", "jmp *%rax", "@ret: push %rdx", "jmp @f2",
		"@f2: movq $0, (%rsp)", "lea @end(%rip), %rdx", "mov %rdx, (%rsp)", "@f: inc %rcx", "ret", "@end:")
	// A return address taken by a call that then serves as a jump target.
	g.addReader("call @f", "inc %ecx", "cmp $3, %ecx", "jb 1f", "jmp @end", "1: jmp *%rdx", "@f: xor %ecx, %ecx", "mov (%rsp), %rdx", "ret", "@end:", "xor %edx, %edx")
	// ... and as a call target.
	g.addReader("xor %ecx, %ecx", "call @f", "@back: inc %ecx", "cmp $2, %ecx", "je @end", "call *%rdx", "ud2", "@f: mov (%rsp), %rdx", "ret", "@end: add $8, %rsp")
}

// seq is prefix followed by 0 to n-1, line by line.
func seq(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		sep := ""
		if !strings.HasPrefix(prefix, ".") {
			sep = " "
		}
		fmt.Fprintf(&b, "%s%s%d\n", prefix, sep, i)
	}
	return b.String()
}
