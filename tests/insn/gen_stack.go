package insn

import "fmt"

// The stack, and string instructions.

func genStack(g *gen) {
	for r := range 16 {
		if r != 4 {
			g.add(0, "push "+gpr(r, 8), "pop "+gpr(g.reg(), 8))
			g.add(0, "push "+gpr(r, 2), "push "+gpr(g.reg(), 2), "pop "+gpr(g.reg(), 2), "pop "+gpr(r, 2))
		}
	}
	// rsp as operand.
	g.add(0, "push %rsp", "pop %rax")
	g.add(0, "push %rsp", "push %rsp", "pop %rcx", "pop %rdx")
	g.add(0, "lea scratch+2048(%rip), %rax", "mov %rsp, %rcx", "push %rax", "pop %rsp", "push %rbx", "mov %rsp, %rdx", "mov %rcx, %rsp")
	g.add(0, "push %rsp", "pop %rsp")
	g.add(0, "pushw %sp", "pop %ax", "push %ax", "pop %sp")
	g.add(0, "push (%rsp)", "pop %rax")
	g.add(0, "push 8(%rsp)", "pop 8(%rsp)")
	g.add(0, "pop (%rsp)")
	g.add(0, "pop 16(%rsp)", "pop -8(%rsp)", "mov -8(%rsp), %rax")
	g.add(0, "xor %ecx, %ecx", "push 24(%rsp,%rcx,4)", "pop (%rsp,%rcx,8)")
	g.add(0, "mov %rsp, %rax", "xchg %rsp, %rax", "sub %rsp, %rax")
	g.add(0, "mov %rsp, %rdx", "lea -64(%rsp), %rsp", "and $-32, %rsp", "add $8, %rsp", "sub $-128, %rsp", "mov %rdx, %rsp")
	g.add(0, "mov %rsp, %rbx", "lea scratch+2048(%rip), %rsp", "push %rax", "push $-5", "pushw $3", "mov %rsp, %rcx", "mov %rbx, %rsp")
	g.add(0, "mov %rsp, scratch+2000(%rip)", "lea scratch+1990(%rip), %rsp", "push %rdx", "pop %r8", "mov scratch+2000(%rip), %rsp")
	g.add(0, "cmp %rsp, %rax", "cmp %rcx, %rsp", "test %rsp, %rsp")
	g.add(0, "mov %rsp, %rax", "imul $3, %rsp, %rcx", "mov %rsp, %rdx", "adc %rsp, %rdx")
	g.add(0, "add %rsp, %rsp", "mov %rsp, %rax", "lea stack+2048(%rip), %rsp")
	g.add(0, "bswap %rsp", "mov %rsp, %rax", "bswap %rsp")
	g.add(0, "movq %rsp, %xmm3", "cvtsi2sd %rsp, %xmm4", "pinsrd $1, %esp, %xmm5", "cmovne %rsp, %rax")
	g.add(0, "mov %rsp, %r12", "mov (%rsp), %rax", "mov (%r12), %rdx", "lea (%rsp,%rax,2), %rsi")
	for _, imm := range []string{"0", "1", "-1", "127", "-128", "128", "0x12345678", "-0x12345678"} {
		g.add(0, "push $"+imm, "pop "+gpr(g.reg(), 8))
		g.add(0, "pushw $"+pick(g, "1", "-1", "300"), "pop %ax")
	}
	for range 40 {
		setup, m := g.mem(8)
		g.add(0, setup, "pushq "+m)
		setup, m = g.mem(8)
		g.add(0, setup, "popq "+m)
		setup, m = g.mem(8)
		g.add(0, setup, "pushw "+m, "popw "+g.rip(2))
	}
	// enter and leave.
	for _, n := range []int{0, 8, 16, 200} {
		for _, level := range []int{0, 1, 2, 5} {
			g.add(0, "lea stack+2300(%rip), %rbp", fmt.Sprintf("enter $%d, $%d", n, level), "mov %rbp, %rax", "push %rcx", "leave")
		}
		g.add(0, "push %rbp", "mov %rsp, %rbp", fmt.Sprintf("sub $%d, %%rsp", n), "mov %rax, -8(%rbp)", "leave")
	}
	// Flags.
	for _, f := range flagCombos() {
		g.add(0, "pushq $"+f, "popfq", "pushfq", "pop %rax", "lahf", "mov %eax, %ecx", "not %eax", "sahf")
	}
	for _, f := range []string{"0x602", "0x200202", "0xcd7", "0x2", "0xffffffffffdbfeff"} {
		// Direction, identification and all of the others but trap and alignment check.
		g.add(0, "mov $"+f+", %rax", "push %rax", "popfq", "pushfq", "pop %rcx", "cld")
		g.add(0, "mov $"+f+", %rax", "push %ax", "popfw", "pushfw", "pop %cx", "cld")
	}
	for _, op := range []string{"clc", "stc", "cmc", "cld", "std", "std\npushfq\npop %rax\ncld", "lahf", "sahf", "cmc\ncmc", "stc\nadc %rax, %rcx", "clc\nsbb %rax, %rax"} {
		for range 3 {
			g.add(0, op)
		}
	}
	// The red zone survives what isn't a call.
	g.add(0, "mov %rax, -8(%rsp)", "mov %rcx, -128(%rsp)", "jmp 1f", "1: mov -8(%rsp), %rdx", "mov -128(%rsp), %rbx")
	g.add(0, "mov %rax, -8(%rsp)", "mov %rcx, -16(%rsp)", "lea @to(%rip), %rsi", "jmp *%rsi", "ud2", "@to: mov -8(%rsp), %rdx", "mov -16(%rsp), %rbx")
	g.add(0, "mov %rax, -16(%rsp)", "mov $39, %eax", "syscall", "mov -16(%rsp), %rdx", "xor %eax, %eax")
	g.add(0, "mov %rax, -16(%rsp)", "call 1f", "1: pop %rax", "mov -16(%rsp), %rdx")
	// What lies above the red zone of a callee is the caller's.
	g.add(0, "mov %rax, -64(%rsp)", "call @f", "mov -64(%rsp), %rdx", "jmp @end", "@f: mov $1, %ecx", "ret", "@end:")
	// Many pushes and pops around calls.
	g.add(0, "push %rax", "push %rcx", "push %rdx", "call @f", "pop %rbx", "pop %rcx", "pop %rax", "jmp @end", "@f: push %rbx", "mov 16(%rsp), %rsi", "pop %rdi", "ret", "@end:")
}

func genString(g *gen) {
	type op struct {
		name string
		sets bool // sets flags: repe and repne make sense
	}
	ops := []op{{"movs", false}, {"stos", false}, {"lods", false}, {"cmps", true}, {"scas", true}}
	for _, o := range ops {
		for _, size := range sizes {
			prefixes := []string{"", "rep "}
			if o.sets {
				prefixes = []string{"", "repe ", "repne "}
			}
			for _, prefix := range prefixes {
				for _, dir := range []string{"cld", "std"} {
					for _, n := range []int{0, 1, 2, 7, 16} {
						// Equal and different data for the comparing ones.
						prepare := ""
						if o.sets {
							prepare = lines("lea scratch+2000(%rip), %rbx", fmt.Sprintf("mov $%d, %%edx", g.IntN(20)),
								"1: mov -40(%rbx,%rdx), %al", "mov %al, 24(%rbx,%rdx)", "dec %edx", "jns 1b",
								pick(g, "xor %eax, %eax", "mov (%rbx), %rax", "mov -8(%rbx), %rax"))
						}
						g.add(0, prepare, "lea scratch+1960(%rip), %rsi", "lea scratch+2024(%rip), %rdi",
							fmt.Sprintf("mov $%d, %%ecx", n), dir, prefix+o.name+suffix(size), "cld")
					}
				}
			}
			// Overlapping, odd addresses, and 32-bit address registers.
			g.add(0, "lea scratch+1999(%rip), %rsi", "lea scratch+2001(%rip), %rdi", "mov $11, %ecx", "rep "+o.name+suffix(size))
			g.add(0, "lea scratch+1999(%rip), %rsi", "lea scratch+1998(%rip), %rdi", "mov $11, %ecx", "rep "+o.name+suffix(size), "mov %ecx, %eax")
		}
	}
	// Long ones, which a processor may do in blocks.
	for _, n := range []int{63, 64, 65, 500, 1000} {
		g.add(0, "lea scratch(%rip), %rsi", "lea scratch+2000(%rip), %rdi", fmt.Sprintf("mov $%d, %%ecx", n), "rep movsb")
		g.add(0, "lea scratch+1000(%rip), %rdi", fmt.Sprintf("mov $%d, %%ecx", n/8), "rep stosq")
		g.add(0, "lea scratch+3000(%rip), %rdi", "lea scratch+2990(%rip), %rsi", fmt.Sprintf("mov $%d, %%ecx", n), "std", "rep movsb", "cld")
		g.add(0, "lea scratch+1000(%rip), %rdi", fmt.Sprintf("mov $%d, %%ecx", n), "repne scasb")
	}
	// A prefix that doesn't belong there, and a loop around one.
	g.add(0, "lea scratch+2000(%rip), %rsi", "mov $3, %ecx", "1: lodsb", "add %al, %dl", "loop 1b")
	g.add(0, "lea scratch+2000(%rip), %rbx", "xlat", "mov %al, %cl", "xlat")
	for range 8 {
		g.add(0, "lea scratch+1950(%rip), %rbx", "xlatb")
	}
}
