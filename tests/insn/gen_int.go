package insn

import "fmt"

// General-purpose instructions.

// undefinedLogic are the flags that and, or, xor and test leave undefined.
const undefinedLogic = flagAF

func genALU(g *gen) {
	for _, op := range []string{"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test"} {
		ignore := uint64(0)
		switch op {
		case "or", "and", "xor", "test":
			ignore = undefinedLogic
		}
		for _, size := range sizes {
			s := suffix(size)
			g.add(ignore, fmt.Sprintf("%s%s %s, %s", op, s, gpr(g.reg(), size), gpr(g.reg(), size)))
			if size == 1 {
				g.add(ignore, fmt.Sprintf("%sb %%ah, %%cl", op), fmt.Sprintf("%sb %%bh, %%dh", op))
			}
			for range 4 {
				r := g.reg()
				setup, m := g.mem(1, r)
				g.add(ignore, setup, fmt.Sprintf("%s%s %s, %s", op, s, gpr(r, size), m))
				setup, m = g.mem(1, r)
				if op != "test" {
					g.add(ignore, setup, fmt.Sprintf("%s%s %s, %s", op, s, m, gpr(r, size)))
				}
				setup, m = g.mem(1, r)
				g.add(ignore, setup, fmt.Sprintf("%s%s %s, %s", op, s, g.imm(size), m))
			}
			g.add(ignore, fmt.Sprintf("%s%s %s, %s", op, s, g.imm(size), gpr(g.reg(), size)))
			g.add(ignore, fmt.Sprintf("%s%s %s, %s", op, s, g.imm(size), gpr(0, size)))
			if op != "cmp" && op != "test" {
				r := g.reg()
				setup, m := g.mem(16, r)
				g.add(ignore, setup, fmt.Sprintf("lock %s%s %s, %s", op, s, gpr(r, size), m))
				g.add(ignore, fmt.Sprintf("lock %s%s %s, %s", op, s, g.imm(size), g.rip(16)))
			}
		}
	}
	for _, op := range []string{"inc", "dec", "neg", "not"} {
		for _, size := range sizes {
			g.add(0, fmt.Sprintf("%s%s %s", op, suffix(size), gpr(g.reg(), size)))
			setup, m := g.mem(16)
			g.add(0, setup, fmt.Sprintf("%s%s %s", op, suffix(size), m))
			setup, m = g.mem(16)
			g.add(0, setup, fmt.Sprintf("lock %s%s %s", op, suffix(size), m))
		}
	}
	// Carry chains.
	for range 20 {
		g.add(0, "add %rax, %rcx", "adc %rdx, %rbx", "adcq $0, "+g.rip(8), "sbb %rsi, %rdi", "sbb %eax, %eax")
	}
}

func genShift(g *gen) {
	for _, op := range []string{"rol", "ror", "rcl", "rcr", "shl", "shr", "sar"} {
		for _, size := range sizes {
			s := suffix(size)
			// OF is defined for a count of one only, and AF never.
			for range 3 {
				r := g.reg(1)
				setup, m := g.mem(1, 1)
				g.add(flagAF, fmt.Sprintf("%s%s %s", op, s, gpr(r, size)))
				g.add(flagAF, setup, fmt.Sprintf("%s%s %s", op, s, m))
				g.add(flagAF|flagOF, fmt.Sprintf("%s%s $%d, %s", op, s, g.IntN(size*8), gpr(r, size)))
				setup, m = g.mem(1, 1)
				g.add(flagAF|flagOF, setup, fmt.Sprintf("%s%s $%d, %s", op, s, g.IntN(size*8), m))
				// Counts beyond the operand leave CF undefined too.
				undefined := uint64(flagAF | flagOF | flagCF)
				g.add(undefined, fmt.Sprintf("%s%s %%cl, %s", op, s, gpr(r, size)))
				setup, m = g.mem(1, 1)
				g.add(undefined, setup, fmt.Sprintf("%s%s %%cl, %s", op, s, m))
			}
		}
	}
	for _, op := range []string{"shld", "shrd"} {
		for _, size := range []int{2, 4, 8} {
			for range 4 {
				setup, m := g.mem(1, 1, 0)
				n := g.IntN(size * 8)
				g.add(flagAF|flagOF, fmt.Sprintf("%s%s $%d, %s, %s", op, suffix(size), n, gpr(g.reg(), size), gpr(g.reg(), size)))
				g.add(flagAF|flagOF, setup, fmt.Sprintf("%s%s $%d, %s, %s", op, suffix(size), n, gpr(0, size), m))
				setup, m = g.mem(1, 1, 0)
				g.add(flagAF|flagOF, fmt.Sprintf("and $%d, %%cl", size*8-1), setup, fmt.Sprintf("%s%s %%cl, %s, %s", op, suffix(size), gpr(0, size), m))
			}
		}
	}
}

func genMulDiv(g *gen) {
	const undefined = flagSF | flagZF | flagAF | flagPF
	for _, size := range sizes {
		s := suffix(size)
		for range 6 {
			for _, op := range []string{"mul", "imul"} {
				g.add(undefined, op+s+" "+gpr(g.reg(), size))
				setup, m := g.mem(1, 0, 2)
				g.add(undefined, setup, op+s+" "+m)
			}
			if size > 1 {
				setup, m := g.mem(1)
				g.add(undefined, fmt.Sprintf("imul%s %s, %s", s, gpr(g.reg(), size), gpr(g.reg(), size)))
				g.add(undefined, setup, fmt.Sprintf("imul%s %s, %s", s, m, gpr(g.reg(), size)))
				setup, m = g.mem(1)
				g.add(undefined, setup, fmt.Sprintf("imul%s %s, %s, %s", s, g.imm(size), m, gpr(g.reg(), size)))
				g.add(undefined, fmt.Sprintf("imul%s %s, %s, %s", s, g.imm(size), gpr(g.reg(), size), gpr(g.reg(), size)))
			}
			// Division of something that cannot overflow by something that is not zero.
			r := g.reg(0, 2)
			extend := map[int]string{1: "movsbw %al, %ax", 2: "cwtd", 4: "cltd", 8: "cqto"}[size]
			// The shift keeps the dividend from being the most negative number.
			g.add(flagsAll, "sar $1, "+gpr(0, size), "or $1, "+gpr(r, size), extend, "idiv"+s+" "+gpr(r, size))
			zero := "xor %edx, %edx"
			if size == 1 {
				zero = "movzbw %al, %ax"
			}
			g.add(flagsAll, "or $1, "+gpr(r, size), zero, "div"+s+" "+gpr(r, size))
			setup, m := g.mem(1, 0, 2)
			g.add(flagsAll, setup, "or"+s+" $2, "+m, zero, "div"+s+" "+m)
		}
	}
}

func genMove(g *gen) {
	for _, size := range sizes {
		s := suffix(size)
		for range 8 {
			r := g.reg()
			setup, m := g.mem(1, r)
			g.add(0, setup, fmt.Sprintf("mov%s %s, %s", s, m, gpr(r, size)))
			setup, m = g.mem(1, r)
			g.add(0, setup, fmt.Sprintf("mov%s %s, %s", s, gpr(r, size), m))
			setup, m = g.mem(1, r)
			g.add(0, setup, fmt.Sprintf("mov%s %s, %s", s, g.imm(size), m))
			g.add(0, fmt.Sprintf("mov%s %s, %s", s, gpr(g.reg(), size), gpr(r, size)))
			setup, m = g.mem(16, r)
			g.add(0, setup, fmt.Sprintf("xchg%s %s, %s", s, gpr(r, size), m))
			g.add(0, fmt.Sprintf("xchg%s %s, %s", s, gpr(r, size), gpr(g.reg(), size)))
			setup, m = g.mem(16, r)
			g.add(0, setup, fmt.Sprintf("%sxadd%s %s, %s", pick(g, "", "lock "), s, gpr(r, size), m))
			r = g.reg(0)
			setup, m = g.mem(16, r, 0)
			// Succeeds when the accumulator is loaded first.
			load := pick(g, "", fmt.Sprintf("mov%s %s, %s", s, m, gpr(0, size)))
			g.add(0, setup, load, fmt.Sprintf("%scmpxchg%s %s, %s", pick(g, "", "lock "), s, gpr(r, size), m))
			for _, to := range []int{2, 4, 8} {
				if size < to && size < 4 {
					setup, m = g.mem(1, r)
					x := pick(g, "movz", "movs") + s + suffix(to)
					g.add(0, setup, fmt.Sprintf("%s %s, %s", x, m, gpr(r, to)))
					g.add(0, fmt.Sprintf("%s %s, %s", x, gpr(r, size), gpr(g.reg(), to)))
				}
			}
		}
	}
	g.add(0, "mov %ah, %cl", "mov %bl, %ch", "xchg %dh, %al", "movzbl %ch, %edx")
	g.add(0, "cbtw", "cwtl", "cltq", "cwtd", "cltd", "cqto")
	for range 10 {
		setup, m := g.mem(4)
		g.add(0, setup, "movslq "+m+", %r9", "movslq %eax, %rcx")
		setup, m = g.mem(16, 0, 1, 2, 3)
		g.add(0, setup, pick(g, "mov "+m+", %eax", ""), pick(g, "", "lock ")+"cmpxchg8b "+m)
		setup, m = g.mem(16, 0, 1, 2, 3)
		g.add(0, setup, pick(g, lines("mov "+m+", %rax", "mov 8+"+m+", %rdx"), ""), pick(g, "", "lock ")+"cmpxchg16b "+m)
		g.add(0, fmt.Sprintf("movabs $%#x, %s", g.Uint64(), gpr(g.reg(), 8)))
		a, b := g.reg(), g.reg()
		g.add(0, fmt.Sprintf("lea %d(%s,%s,%d), %s", int32(g.Uint32()), gpr(a, 8), gpr(b, 8), pick(g, 1, 2, 4, 8), gpr(g.reg(), pick(g, 2, 4, 8))))
		g.add(0, "lea "+g.rip(1)+", "+gpr(a, 8), "lea "+g.rip(1)+", "+gpr(b, 4), "lea "+g.rip(1)+", "+gpr(g.reg(), 2))
		g.add(0, fmt.Sprintf("lea 0(,%s,8), %s", gpr(a, 8), gpr(b, 8)), fmt.Sprintf("lea (%s,%s), %s", gpr(b, 4), gpr(a, 4), gpr(a, 8)))
		g.add(0, "bswap "+gpr(a, 8), "bswap "+gpr(b, 4))
	}
	// Addresses in code, as position-independent code takes them.
	g.add(0, "lea 1f(%rip), %rax", "lea snippet_done(%rip), %rcx", "lea 0(%rip), %rdx", "1: lea 1b(%rip), %esi", "lea 1b(%rip), %r15w")
	// Data in code, read relative to rip.
	g.add(0, "mov 1f(%rip), %rax", "movzbl 1f+3(%rip), %ecx", "jmp 2f", "1: .quad 0x1122334455667788", "2:")
	for n := 1; n <= 9; n++ {
		g.add(0, fmt.Sprintf(".nops %d", n), "inc %eax")
	}
	g.add(0, "nopw 0x1000(%rax,%rcx,8)", "nopl (%rdi)", "xchg %ax, %ax", "xchg %eax, %eax", "xchg %r8, %rax", ".byte 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 2, 0, 0", "endbr64", "pause")
	// Prefixes that change nothing, up to the limit of 15 bytes.
	g.add(0, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
	g.add(0, ".byte 0x2e,0x3e,0x26,0x36", "mov %eax, %ecx")
	g.add(0, ".byte 0x48,0x48,0x40", "mov %eax, %ecx")
	g.add(0, ".byte 0x66,0x66,0x2e,0x48,0x8d,0x05", ".long 0x1000", "xor %eax, %eax")
}

func genBit(g *gen) {
	const undefinedBT = flagOF | flagSF | flagAF | flagPF
	for _, op := range []string{"bt", "bts", "btr", "btc"} {
		for _, size := range []int{2, 4, 8} {
			s := suffix(size)
			for range 3 {
				g.add(undefinedBT, fmt.Sprintf("%s%s %s, %s", op, s, gpr(g.reg(), size), gpr(g.reg(), size)))
				g.add(undefinedBT, fmt.Sprintf("%s%s $%d, %s", op, s, g.IntN(256), gpr(g.reg(), size)))
				setup, m := g.mem(16)
				g.add(undefinedBT, setup, fmt.Sprintf("%s%s $%d, %s", op, s, g.IntN(256), m))
				r := g.reg()
				setup, m = g.mem(16, r)
				lock := ""
				if op != "bt" {
					lock = pick(g, "", "lock ")
				}
				// The offset may lie outside the operand.
				g.add(undefinedBT, setup, fmt.Sprintf("and $0xff, %s", gpr(r, 4)), fmt.Sprintf("%s%s%s %s, %s", lock, op, s, gpr(r, size), m))
			}
		}
	}
	const undefinedBS = flagCF | flagOF | flagSF | flagAF | flagPF
	const undefinedLZ = flagOF | flagSF | flagAF | flagPF
	for _, size := range []int{2, 4, 8} {
		s := suffix(size)
		for _, o := range []struct {
			op, need string
			ignore   uint64
		}{
			{"bsf", "", undefinedBS}, {"bsr", "", undefinedBS},
			{"lzcnt", "abm", undefinedLZ}, {"tzcnt", "bmi1", undefinedLZ}, {"popcnt", "popcnt", 0},
		} {
			if o.need != "" && !g.features[o.need] {
				continue
			}
			for range 6 {
				a, b := g.reg(), g.reg()
				g.add(o.ignore, "or $0x8000, "+gpr(a, 2), fmt.Sprintf("%s%s %s, %s", o.op, s, gpr(a, size), gpr(b, size)))
				setup, m := g.mem(1, b)
				g.add(o.ignore, setup, "or"+s+" $16, "+m, fmt.Sprintf("%s%s %s, %s", o.op, s, m, gpr(b, size)))
			}
		}
	}
	if g.features["movbe"] {
		for _, size := range []int{2, 4, 8} {
			setup, m := g.mem(1, 0)
			g.add(0, setup, "movbe "+m+", "+gpr(0, size))
			g.add(0, "movbe "+gpr(g.reg(), size)+", "+g.rip(1))
		}
	}
	if g.features["sse4_2"] {
		for range 5 {
			setup, m := g.mem(1, 0)
			g.add(0, setup, "crc32"+pick(g, "b", "w", "l")+" "+m+", %eax", "crc32q %rcx, %rax", "crc32b %cl, %rdx", "crc32q "+g.rip(1)+", %r9")
		}
	}
}

func genBMI(g *gen) {
	for _, size := range []int{4, 8} {
		s := suffix(size)
		for range 8 {
			a, b, c := g.reg(), g.reg(), g.reg()
			for _, o := range []struct {
				op     string
				ignore uint64
			}{{"blsi", flagAF | flagPF}, {"blsr", flagAF | flagPF}, {"blsmsk", flagAF | flagPF}} {
				g.add(o.ignore, fmt.Sprintf("%s%s %s, %s", o.op, s, gpr(a, size), gpr(b, size)))
				setup, m := g.mem(1)
				g.add(o.ignore, setup, fmt.Sprintf("%s%s %s, %s", o.op, s, m, gpr(b, size)))
			}
			setup, m := g.mem(1, a)
			g.add(flagAF|flagPF, setup, fmt.Sprintf("andn%s %s, %s, %s", s, m, gpr(a, size), gpr(b, size)))
			for _, o := range []struct {
				op     string
				ignore uint64
			}{{"bextr", flagAF | flagSF | flagPF}, {"bzhi", flagAF | flagPF}, {"shlx", 0}, {"shrx", 0}, {"sarx", 0}} {
				setup, m := g.mem(1, a)
				g.add(o.ignore, setup, fmt.Sprintf("%s%s %s, %s, %s", o.op, s, gpr(a, size), m, gpr(b, size)))
				g.add(o.ignore, fmt.Sprintf("%s%s %s, %s, %s", o.op, s, gpr(a, size), gpr(c, size), gpr(b, size)))
			}
			for _, op := range []string{"pdep", "pext"} {
				setup, m := g.mem(1, a)
				g.add(0, setup, fmt.Sprintf("%s%s %s, %s, %s", op, s, m, gpr(a, size), gpr(b, size)))
			}
			setup, m = g.mem(1, 2)
			g.add(0, setup, fmt.Sprintf("mulx%s %s, %s, %s", s, m, gpr(a, size), gpr(g.reg(a), size)))
			setup, m = g.mem(1)
			g.add(0, setup, fmt.Sprintf("rorx%s $%d, %s, %s", s, g.IntN(64), m, gpr(b, size)))
		}
	}
}

func genADX(g *gen) {
	for _, s := range []string{"l", "q"} {
		size := map[string]int{"l": 4, "q": 8}[s]
		for range 10 {
			setup, m := g.mem(1, 1)
			g.add(0, setup, "adcx"+s+" "+m+", "+gpr(1, size), "adox"+s+" "+gpr(1, size)+", "+gpr(g.reg(), size), "adox"+s+" "+g.rip(1)+", "+gpr(2, size))
		}
	}
}
