package insn

import (
	"fmt"
	"strings"
)

// genMix makes whole little programs: blocks of arithmetic joined by branches,
// bounded loops, calls of functions that call each other, indirect branches
// through registers and memory. Registers and flags live across all of them,
// which is where a translator that saves a spill too many goes wrong.
func genMix(g *gen) {
	for range 400 {
		(&mixer{gen: g}).program()
	}
}

// A mixer writes one program. r14 points at the window, r15 counts down the
// backward jumps that are still allowed.
type mixer struct {
	*gen
	text  []string
	funcs int
}

func (m *mixer) emit(format string, args ...any) {
	m.text = append(m.text, fmt.Sprintf(format, args...))
}

// any names a random register that programs may change; rcx, which a
// translator likes to borrow, comes up more often.
func (m *mixer) any() int {
	if m.IntN(4) == 0 {
		return 1
	}
	return m.reg(14, 15)
}

func (m *mixer) program() {
	m.funcs = 1 + m.IntN(5)
	blocks := 4 + m.IntN(10)
	m.emit("lea scratch+%d(%%rip), %%r14", window)
	m.emit("mov $%d, %%r15d", 10+m.IntN(60))
	for b := range blocks {
		m.emit("@b%d:", b)
		m.body(1 + m.IntN(5))
		m.next(b, blocks)
	}
	m.emit("@b%d: jmp @end", blocks)
	for f := range m.funcs {
		m.function(f)
	}
	m.emit("@end:")
	m.emit(".pushsection .data.rel.ro, \"aw\"\n.balign 8\n@blocks:")
	for b := range blocks + 1 {
		m.emit(".quad @b%d", b)
	}
	m.emit("@funcs:")
	for f := range m.funcs {
		m.emit(".quad @f%d", f)
	}
	m.emit(".popsection")
	m.add(flagAF, strings.Join(m.text, "\n"))
}

// body emits n instructions that don't branch.
func (m *mixer) body(n int) {
	for range n {
		size := pick(m.gen, 1, 4, 4, 8, 8)
		a, b := m.any(), m.any()
		switch m.IntN(12) {
		case 0:
			m.emit("%s%s %s, %s", pick(m.gen, "adc", "sbb"), suffix(size), gpr(a, size), gpr(b, size))
		case 1:
			m.emit("%s%s %s, %s", pick(m.gen, "add", "sub", "xor", "cmp"), suffix(size), m.imm(size), gpr(a, size))
		case 2:
			m.emit("mov %d(%%r14), %s", m.IntN(200), gpr(a, size))
		case 3:
			m.emit("mov %s, %d(%%r14)", gpr(a, size), m.IntN(200))
		case 4:
			m.emit("%s%s %s, %s", pick(m.gen, "add", "xor", "cmp", "adc"), suffix(size), m.rip(1), gpr(a, size))
		case 5:
			m.emit("lea %d(%s,%s,%d), %s", m.IntN(2000)-1000, gpr(a, 8), gpr(b, 8), pick(m.gen, 1, 2, 4, 8), gpr(m.any(), 8))
		case 6:
			m.emit("set%s %s", pick(m.gen, cc...), gpr(a, 1))
		case 7:
			m.emit("cmov%s %s, %s", pick(m.gen, cc...), gpr(a, 8), gpr(b, 8))
		case 8:
			m.emit("push %s\npop %s", gpr(a, 8), gpr(b, 8))
		case 9:
			m.emit("xchg %s, %s", gpr(a, 8), gpr(b, 8))
		default:
			m.emit("%s%s %s, %s", pick(m.gen, "add", "sub", "xor", "and", "or", "cmp", "test", "mov"), suffix(size), gpr(a, size), gpr(b, size))
		}
	}
}

// next emits what follows block b.
func (m *mixer) next(b, blocks int) {
	later := func() int { return b + 1 + m.IntN(blocks-b) }
	switch m.IntN(10) {
	case 0, 1:
		m.emit("j%s @b%d", pick(m.gen, cc...), later())
	case 2:
		m.emit("jmp @b%d", later())
	case 3:
		if b > 0 {
			m.emit("dec %%r15\njns @b%d", m.IntN(b))
		}
	case 4:
		m.jump(later())
	case 5:
		if b > 0 {
			// A backward indirect jump, while the budget lasts.
			m.emit("sub $2, %%r15\njs 1f")
			m.jump(m.IntN(b))
			m.emit("1:")
		}
	case 6:
		m.emit("j%s @b%d\nj%s @b%d", pick(m.gen, cc...), later(), pick(m.gen, cc...), later())
	default:
		m.call(0)
	}
}

// jump jumps indirectly to a block.
func (m *mixer) jump(to int) {
	r := gpr(m.any(), 8)
	switch m.IntN(4) {
	case 0:
		m.emit("lea @b%d(%%rip), %s\njmp *%s", to, r, r)
	case 1:
		m.emit("jmp *@blocks+%d(%%rip)", 8*to)
	case 2:
		m.emit("lea @blocks+%d(%%rip), %s\njmp *8(%s)", 8*to-8, r, r)
	case 3:
		s := gpr(m.reg(14, 15), 8)
		m.emit("lea @b%d(%%rip), %s\npush %s\nmov %s, %s\nret", to, s, s, r, s)
	}
}

// call calls a function numbered from or higher, if there is one.
func (m *mixer) call(from int) {
	if from >= m.funcs {
		return
	}
	f := from + m.IntN(m.funcs-from)
	r := gpr(m.any(), 8)
	switch m.IntN(6) {
	case 0:
		m.emit("lea @f%d(%%rip), %s\ncall *%s", f, r, r)
	case 1:
		m.emit("call *@funcs+%d(%%rip)", 8*f)
	case 2:
		m.emit("lea @funcs-72+%d(%%rip), %s\ncall *72(%s)", 8*f, r, r)
	default:
		m.emit("call @f%d", f)
	}
}

// function emits function f, which may call those with higher numbers.
func (m *mixer) function(f int) {
	m.emit("@f%d:", f)
	saved := m.any()
	save := m.IntN(2) == 0
	if save {
		m.emit("push %s", gpr(saved, 8))
	}
	m.body(1 + m.IntN(4))
	switch m.IntN(4) {
	case 0:
		m.call(f + 1)
		m.body(1)
	case 1:
		m.emit("j%s 1f", pick(m.gen, cc...))
		m.body(2)
		m.call(f + 1)
		m.emit("1:")
	case 2:
		// A second return.
		m.emit("j%s 1f", pick(m.gen, cc...))
		if save {
			m.emit("pop %s", gpr(saved, 8))
		}
		m.emit("ret\n1:")
	}
	if save {
		m.emit("pop %s", gpr(saved, 8))
	}
	// A tail call now and then.
	if f+1 < m.funcs && m.IntN(5) == 0 {
		m.emit("jmp @f%d", f+1)
		return
	}
	m.emit("%s", pick(m.gen, "ret", "ret", "ret", "rep ret", "ret $0"))
}
