package insn

import "fmt"

// Instructions that talk to the system, segments, and faults.

func genSys(g *gen) {
	// Leaves of cpuid that don't depend on which processor runs this. The
	// initial APIC number is in ebx of leaf 1.
	for _, leaf := range []string{"0", "1", "2", "6", "7", "0x80000000", "0x80000001", "0x80000002", "0x80000008", "0x40000000", "0x12345678"} {
		g.add(0, "mov $"+leaf+", %eax", "xor %ecx, %ecx", "cpuid", "and $0xffffff, %ebx")
	}
	g.add(0, "mov $0xd, %eax", "xor %ecx, %ecx", "cpuid")
	g.add(0, "mov $7, %eax", "mov $1, %ecx", "cpuid")
	// Different every time: only that they run, and what they leave alone.
	g.add(0, "rdtsc", "mov %rax, %rcx", "shr $32, %rcx", "xor %eax, %eax", "xor %edx, %edx")
	g.add(0, "rdtsc", "mov %eax, %ebx", "mov %edx, %esi", "rdtsc", "shl $32, %rdx", "or %rdx, %rax", "shl $32, %rsi", "or %rsi, %rbx", "cmp %rbx, %rax", "setae %cl", "mov $0, %eax", "mov $0, %ebx", "mov $0, %edx", "mov $0, %esi", "cmp %eax, %eax")
	for _, o := range []struct{ need, op string }{{"rdtscp", "rdtscp\nxor %eax, %eax\nxor %ecx, %ecx\nxor %edx, %edx"},
		{"rdrand", "rdrand %r8\nmov $0, %r8d\nclc"}, {"rdseed", "rdseed %r9d\nmov $0, %r9d\nclc"}, {"rdpid", "rdpid %r10\nxor %r10d, %r10d"},
		{"xsave", "xor %ecx, %ecx\nxgetbv"}, {"clflushopt", "clflushopt scratch(%rip)"}, {"clwb", "clwb scratch+64(%rip)"}, {"clzero", "lea scratch+1920(%rip), %rax\nclzero"}} {
		if g.features[o.need] {
			g.add(0, o.op)
		}
	}
	for _, op := range []string{"mfence", "lfence", "sfence", "pause", "clflush scratch(%rip)", "prefetcht0 scratch(%rip)", "prefetchw scratch+64(%rip)", "prefetchnta (%rax)",
		"movnti %rax, scratch+1928(%rip)", "movnti %ecx, scratch+1928(%rip)\nsfence", "endbr64", "nop", "verr %ax\nmov $1, %eax\nxor %eax, %eax", "mov %ds, %eax\nmov %es, %ecx\nmov %ss, %edx\nmov %cs, %ebx"} {
		g.add(0, op)
	}
	// A system call changes rcx, r11 and rax, and nothing else.
	for range 6 {
		g.add(0, "mov $39, %eax", "syscall", "xor %eax, %eax")
	}
	g.add(0, "mov $-1, %eax", "syscall")
	g.add(0, "mov $12345, %eax", "syscall", "pushfq", "pop %rdx")
	g.add(0, "mov $39, %eax", "std", "stc", "syscall", "cld", "sbb %eax, %eax")
	for _, f := range flagCombos()[:8] {
		g.add(0, "mov $102, %eax", "pushq $"+f, "popfq", "syscall", "pushfq", "pop %rdx", "mov $0, %eax")
	}
	g.add(0, "mov $1, %eax", "mov $-1, %edi", "syscall")
	g.add(0, "mov $0, %eax", "mov $-1, %edi", "mov $16, %esi", "syscall")
	// One in a loop, and one reached by two ways.
	g.add(0, "mov $10, %ebx", "1: mov $39, %eax", "syscall", "dec %ebx", "jnz 1b", "xor %eax, %eax")
	g.add(0, "mov $39, %eax", "test $1, %bl", "jz 1f", "mov $102, %eax", "1: syscall", "xor %eax, %eax")
	// What comes back may be called and jumped to.
	g.add(0, "xor %ebx, %ebx", "mov $39, %eax", "syscall", "inc %ebx", "cmp $2, %ebx", "ja @end", "mov $0, %eax", "jmp *%rcx", "@end: xor %eax, %eax")
}

func genXSave(g *gen) {
	for _, mask := range []string{"3", "7", "-1", "2", "4"} {
		for _, op := range []string{"xsave64", "xsave"} {
			g.add(0, "mov $"+mask+", %eax", "mov $0, %edx", op+" area(%rip)", "pxor %xmm1, %xmm1", "vxorps %ymm2, %ymm2, %ymm2", "fld1",
				"xrstor"+op[5:]+" area(%rip)")
		}
		if g.features["xsaveopt"] {
			// Into a fresh area, for what is in its initial state isn't written.
			g.add(0, "mov $"+mask+", %eax", "mov $0, %edx", "movq $0, area+512(%rip)", "xsave area(%rip)", "vaddps %ymm1, %ymm2, %ymm3", "xsaveopt64 area(%rip)", "vzeroall", "xrstor64 area(%rip)")
		}
		if g.features["xsavec"] {
			g.add(0, "mov $"+mask+", %eax", "mov $0, %edx", "lea area(%rip), %rbx", "xsavec64 (%rbx)", "vpxor %xmm1, %xmm1, %xmm1", "xrstor64 (%rbx)",
				"movq $0, area+520(%rip)")
		}
	}
	// As the dynamic linker's lazy resolver does it.
	g.add(0, "mov %rsp, %rbx", "sub $1024, %rsp", "and $-64, %rsp", "mov $0xee, %eax", "xor %edx, %edx", "movq $0, 512(%rsp)", "movq $0, 520(%rsp)", "movq $0, 528(%rsp)", "xsave 0(%rsp)",
		"vpxor %ymm0, %ymm0, %ymm0", "mov $0xee, %eax", "xor %edx, %edx", "xrstor 0(%rsp)", "mov %rbx, %rsp")
}

func genSegment(g *gen) {
	// arch_prctl: 0x1001 ARCH_SET_GS, 0x1002 ARCH_SET_FS, 0x1003 ARCH_GET_FS, 0x1004 ARCH_GET_GS.
	const call = "mov $158, %eax\nsyscall"
	for _, s := range []struct{ seg, set, get string }{{"gs", "0x1001", "0x1004"}, {"fs", "0x1002", "0x1003"}} {
		seg := "%" + s.seg + ":"
		with := func(body ...string) {
			g.add(flagAF, "mov $"+s.set+", %edi", "lea scratch+1920(%rip), %rsi", call, lines(body...),
				"pushfq", "mov $"+s.set+", %edi", "xor %esi, %esi", call, "popfq")
		}
		for range 4 {
			r := g.reg()
			with("mov "+seg+"0, "+gpr(r, 8), fmt.Sprintf("mov %s, %s%d", gpr(g.reg(), 4), seg, g.IntN(200)))
			with(fmt.Sprintf("mov $%d, %s", g.IntN(100), gpr(r, 4)), fmt.Sprintf("add %s(%s), %s", seg, gpr(r, 8), gpr(g.reg(), 8)))
			with(fmt.Sprintf("mov $%d, %s", g.IntN(10), gpr(r, 4)), fmt.Sprintf("addl $7, %s8(,%s,8)", seg, gpr(r, 8)))
			with(fmt.Sprintf("mov $%d, %s", g.IntN(10), gpr(r, 4)), fmt.Sprintf("lock addl $7, %s8(%s,%s,8)", seg, gpr(r, 8), gpr(r, 8)))
			with(fmt.Sprintf("movdqu %s16, %%xmm%d", seg, g.IntN(16)), fmt.Sprintf("movaps %%xmm%d, %s32", g.IntN(16), seg))
			if g.features["avx2"] {
				with(fmt.Sprintf("vpaddd %s16, %%ymm1, %%ymm%d", seg, g.IntN(16)))
			}
		}
		with("pushq "+seg+"8", "popq "+seg+"16", "cmpxchg %rcx, "+seg+"24", "incb "+seg+"33", "xchg %eax, "+seg+"40")
		with("cmpq $5, "+seg+"8", "setb %al", "testb $1, "+seg+"0", "setz %cl")
		// Calls and jumps through memory of the segment.
		with("lea @to(%rip), %rax", "mov %rax, "+seg+"64", "call *"+seg+"64", "jmp @end", "@to: mov $3, %edx", "ret", "@end:")
		with("lea @to(%rip), %rax", "mov %rax, "+seg+"64", "mov $64, %ecx", "jmp *"+seg+"(%rcx)", "ud2", "@to:")
		with("lea @to(%rip), %rcx", "mov %rcx, "+seg+"64", "mov $8, %ecx", "call *"+seg+"(,%rcx,8)", "jmp @end", "@to: mov $3, %edx", "ret $0", "@end:")
		// String instructions with an override on their source.
		with("mov $8, %esi", "lea scratch+2048(%rip), %rdi", "mov $5, %ecx", "cld", "rep movsb "+seg+"(%rsi), %es:(%rdi)")
		with("xor %esi, %esi", "cld", "lodsq "+seg+"(%rsi), %rax")
		with("xor %ebx, %ebx", "xlat "+seg+"(%rbx)")
		// lea ignores the segment.
		with("lea " + seg + "8(%rbx), %rdx")
		// A canary, as compilers check it.
		with("mov "+seg+"0x28, %rax", "mov %rax, -8(%rsp)", "call @f", "jmp @end", "@f: mov -8(%rsp), %rdx", "ret", "@end: mov "+seg+"0x28, %rdx", "sub "+seg+"0x28, %rax")
		g.add(0, "mov $"+s.set+", %edi", "lea scratch+1920(%rip), %rsi", call, "mov $"+s.get+", %edi", "lea scratch+1936(%rip), %rsi", call, "mov $"+s.set+", %edi", "xor %esi, %esi", call)
		// A bad base is refused.
		g.add(0, "mov $"+s.set+", %edi", "movabs $0x900000000000000, %rsi", call)
		if g.features["fsgsbase"] {
			for range 4 {
				a, b := g.reg(), g.reg()
				g.add(0, "lea scratch+1920(%rip), "+gpr(a, 8), "wr"+s.seg+"base "+gpr(a, 8), "mov "+seg+"8, %rax", "mov %rax, "+seg+"16",
					"rd"+s.seg+"base "+gpr(b, 8), "rd"+s.seg+"base %r9d", "mov $0, %ecx", "wr"+s.seg+"base %rcx", "rd"+s.seg+"base %rdx")
			}
			// The 32-bit form clears the upper half.
			g.add(0, "movabs $0x123456789abc, %rax", "wr"+s.seg+"base %eax", "rd"+s.seg+"base %rdx", "xor %ecx, %ecx", "wr"+s.seg+"base %rcx")
		}
		// Loading a null selector.
		g.add(0, "xor %eax, %eax", "mov %eax, %"+s.seg, "mov %"+s.seg+", %ecx", "push %"+s.seg, "pop %"+s.seg, "push %"+s.seg, "pop %rdx")
	}
}

func genFault(g *gen) {
	after := "mov $99, %ebx" // not reached
	// Memory: reads, writes, in the middle of things, at the end of a page.
	for _, addr := range []string{"0", "8", "0xfff", "0x1000"} {
		g.fault("mov "+addr+", %rax", after)
		g.fault("movl $1, "+addr, after)
		g.fault("incl "+addr, after)
	}
	for range 10 {
		r, s := g.reg(), g.reg()
		g.fault("lea hole(%rip), "+gpr(r, 8), fmt.Sprintf("add %s, %d(%s)", gpr(s, 8), g.IntN(4000), gpr(r, 8)), after)
		g.fault("lea hole(%rip), "+gpr(r, 8), fmt.Sprintf("lock xadd %s, 8(%s)", gpr(s, 4), gpr(r, 8)), after)
		g.fault(fmt.Sprintf("mov hole+%d(%%rip), %s", g.IntN(4000), gpr(r, pick(g, 2, 4, 8))), after)
		g.fault(fmt.Sprintf("movups %%xmm%d, hole+%d(%%rip)", g.IntN(16), g.IntN(4000)), after)
		g.fault(fmt.Sprintf("addps hole+%d(%%rip), %%xmm%d", g.IntN(200)*16, g.IntN(16)), after)
		g.fault("movabs $0x8000000000000000, "+gpr(r, 8), "mov ("+gpr(r, 8)+"), %eax", after)
		g.fault(fmt.Sprintf("cmpl $5, hole+%d(%%rip)", g.IntN(4000)), "je 1f", "1:", after)
	}
	g.fault("mov hole-3(%rip), %rax", after)
	g.fault("mov %rax, hole-3(%rip)", after)
	g.fault("movb $1, _start(%rip)", after)
	g.fault("movq $1, table(%rip)", after)
	g.fault("lock incq snippet_done(%rip)", after)
	// Misaligned vectors, wrong selectors, privileged instructions.
	g.fault("movaps scratch+1(%rip), %xmm0", after)
	g.fault("movntdq %xmm1, scratch+8(%rip)", after)
	g.fault("cmpxchg16b scratch+8(%rip)", after)
	for _, op := range []string{"hlt", "cli", "sti", "in $0x60, %al", "out %al, (%dx)", "insb", "outsl", "lgdt (%rsp)", "mov %cr0, %rax", "mov %rax, %cr3", "wbinvd", "invd", "rdmsr", "wrmsr",
		"clts", "ltr %ax", "swapgs", "mov %dr7, %rax", "invlpg (%rax)", "mov $0x1234, %eax\nmov %eax, %ds", "lmsw %ax", "monitor", "sysretq", "xsetbv"} {
		g.fault(op, after)
	}
	// Invalid instructions. (0x82 and the others exist in 32-bit mode only.)
	for _, bytes := range []string{"0x0f,0x0b", "0x0f,0xff,0xc0", "0x0f,0xb9,0xc0", "0x06", "0x0e", "0x27", "0x37", "0x60", "0x61", "0x62,0x00", "0x82,0xc0,1", "0x9a,0,0,0,0,0,0", "0xce", "0xd4,10", "0xd6", "0xea,0,0,0,0,0,0",
		"0xf0,0x90", "0xf0,0x89,0xc0", "0xf0,0x48,0x01,0xd8", "0x0f,0x04", "0x0f,0x0a", "0xc5,0xf8,0x00,0xc0", "0x66,0xc5,0xf8,0x58,0xc0", "0xfe,0xff", "0xff,0xff", "0x8d,0xc0", "0x0f,0xc7,0xc8", "0x8c,0xf0", "0x8e,0xc8"} {
		g.fault(".byte "+bytes, after)
	}
	// Longer than 15 bytes.
	g.fault(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90", after)
	// Traps, arithmetic.
	g.fault("int3", after)
	g.fault(".byte 0xcd, 3", after)
	g.fault(".byte 0xf1", after)
	g.fault("int $0x81", after)
	g.fault("int $0x20", after)
	g.fault("int $4", after)
	for range 5 {
		r := g.reg(0, 2)
		g.fault("xor "+gpr(r, 4)+", "+gpr(r, 4), "div "+gpr(r, pick(g, 1, 2, 4, 8)), after)
		g.fault("mov $1, "+gpr(r, 4), "mov $5, %edx", "idiv "+gpr(r, 4), after)
		g.fault("movq $0, scratch+1920(%rip)", "divq scratch+1920(%rip)", after)
	}
	g.fault("movabs $0x8000000000000000, %rax", "cqto", "mov $-1, %rcx", "idiv %rcx", after)
	// Unmasked floating-point exceptions.
	g.fault("fldcw 1f(%rip)", "fldz", "fld1", "fdivp", "fwait", after, "jmp 2f", "1: .word 0x360", "2:")
	g.fault("fldcw 1f(%rip)", "fld1", "fldz", "fdivrp", "mov $4, %ecx", "fld1", after, "jmp 2f", "1: .word 0x360", "2:")
	g.fault("ldmxcsr 1f(%rip)", "xorps %xmm1, %xmm1", "divps %xmm1, %xmm0", after, "jmp 2f", "1: .long 0", "2:")
	g.fault("ldmxcsr 1f(%rip)", "sqrtss 2f(%rip), %xmm0", after, "jmp 3f", "1: .long 0x1f00", "2: .float -1", "3:")
	g.fault("ldmxcsr 1f(%rip)", "jmp 2f", "1: .long 0xffffffff", "2:", after)
	// Branches to nowhere.
	for _, to := range []string{"$0", "$0x10", "$0x600000000000", "$0x2000000000000000", "$-1", "$0xfffffffffffff000"} {
		for _, r := range []int{0, 1, 2, 11} {
			g.fault("movabs "+to+", "+gpr(r, 8), "jmp *"+gpr(r, 8))
			g.faultInCall("movabs "+to+", "+gpr(r, 8), "call *"+gpr(r, 8))
			g.fault("movabs "+to+", "+gpr(r, 8), "push "+gpr(r, 8), "ret")
			g.fault("movabs "+to+", "+gpr(r, 8), "push "+gpr(r, 8), "ret $16")
		}
	}
	for _, to := range []string{"scratch+1000(%rip)", "hole+16(%rip)", "table(%rip)", "stack+8(%rip)"} {
		g.fault("lea "+to+", %rax", "jmp *%rax")
		g.faultInCall("lea "+to+", %rcx", "call *%rcx")
		g.fault("lea "+to+", %rdx", "push %rdx", "ret")
		g.fault("lea "+to+", %rdx", "mov %rdx, scratch+1928(%rip)", "jmp *scratch+1928(%rip)")
		g.faultInCall("lea "+to+", %rdx", "mov %rdx, (%rsp)", "call *(%rsp)")
	}
	g.fault("jmp hole+8")
	g.faultInCall("call hole+8")
	g.fault("jc hole+8", "jnc hole+12")
	g.faultInCall("call scratch")
	// Branches whose own operand cannot be read.
	g.fault("jmp *hole+8(%rip)")
	g.fault("call *hole+8(%rip)")
	g.fault("lea hole(%rip), %rcx", "call *8(%rcx)")
	g.fault("lea hole(%rip), %rcx", "mov $1, %edx", "jmp *8(%rcx,%rdx,8)")
	g.fault("movabs $0x8000000000000000, %rax", "call *(%rax)")
	// Bad stacks: nothing must have changed when the fault is seen.
	for _, sp := range []string{"lea hole+64(%rip), %rsp", "movabs $0x8000000000000000, %rsp", "mov $8, %esp"} {
		for _, op := range []string{"push %rax", "pop %rcx", "call snippet_done", "call *%rax", "ret", "ret $8", "pushfq", "popfq", "pushq scratch(%rip)", "popq scratch(%rip)", "push $5", "pop (%rcx)"} {
			g.fault("lea snippet_done(%rip), %rax", sp, op, after)
		}
		g.fault(sp, "enter $16, $0", after)
		g.fault(sp, "call *snippet_ptr(%rip)", after)
		g.fault("movabs $0x600000000000, %rax", sp, "call *%rax", after)
	}
	g.fault("lea hole(%rip), %rbp", "leave", after)
	for _, op := range []string{"pop %rcx", "ret", "ret $8", "popfq", "popq scratch(%rip)"} {
		g.fault("lea hole(%rip), %rsp", op, after)
	}
	// In the middle of repeated string instructions.
	for _, size := range sizes {
		s := suffix(size)
		g.fault(fmt.Sprintf("lea hole-%d(%%rip), %%rdi", 5*size), "lea scratch+1920(%rip), %rsi", "mov $20, %ecx", "cld", "rep movs"+s, after)
		g.fault(fmt.Sprintf("lea hole-%d(%%rip), %%rsi", 3*size), "lea scratch+1920(%rip), %rdi", "mov $20, %ecx", "cld", "rep movs"+s, after)
		g.fault(fmt.Sprintf("lea hole-%d(%%rip), %%rdi", 7*size), "mov $20, %ecx", "cld", "rep stos"+s, after)
		g.fault(fmt.Sprintf("lea hole-%d(%%rip), %%rdi", 2*size), "mov $20, %ecx", "cld", "mov $0x1234567, %eax", "repne scas"+s, after)
		g.fault(fmt.Sprintf("lea hole-%d(%%rip), %%rsi", 2*size), "mov $20, %ecx", "cld", "rep lods"+s, after)
	}
	// A fault in a callee, in a loop, and after code that was changed by nothing.
	g.faultInCall("call @f", after, "@f: mov $1, %edx", "ud2")
	g.fault("mov $5, %ecx", "1: dec %ecx", "mov $100, %eax", "xor %edx, %edx", "div %ecx", "jmp 1b")
	g.fault("lea hole-40(%rip), %rbx", "1: movq $7, (%rbx)", "add $8, %rbx", "jmp 1b")
	for i := range 8 {
		// Each step of an indirect branch leaves registers alone when it fails.
		g.fault(fmt.Sprintf("lea hole+%d(%%rip), %s", i*8, gpr(i+8, 8)), fmt.Sprintf("cmp %%rax, %s", gpr(i+8, 8)), "jmp *"+gpr(i+8, 8))
	}
}
