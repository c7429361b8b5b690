// Package insn generates differential instruction tests: thousands of short
// snippets of assembly, each run with random registers, flags, vector
// registers and memory, natively and under translation. Everything that a
// snippet leaves behind must be the same.
package insn

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

//go:embed testdata/driver.S
var driver string

// window is the offset in scratch of the 256 bytes that a record shows; memory
// operands lie there.
const window = 1920

// The arithmetic flags.
const (
	flagCF   = 1 << 0
	flagPF   = 1 << 2
	flagAF   = 1 << 4
	flagZF   = 1 << 6
	flagSF   = 1 << 7
	flagOF   = 1 << 11
	flagsAll = flagCF | flagPF | flagAF | flagZF | flagSF | flagOF
)

// A Snippet is some assembly and what is needed to judge it.
type Snippet struct {
	Text   string
	Ignore uint64 // flags that the manual leaves undefined
	Faults bool   // may end in a signal

	// ReadsReturn is set if it shows, or changes, the return address of a call: native returns are not for it.
	ReadsReturn bool
}

// A Class is a group of snippets, generated together.
type Class struct {
	Name string
	gen  func(*gen)
	// Needs are names of CPU flags, all of which the class must have.
	Needs []string
	// High is set if the class is also run linked above 4 GiB.
	High bool
}

// Features are the flags of the processor as /proc/cpuinfo names them.
type Features map[string]bool

// HostFeatures reads the features of this machine.
func HostFeatures() Features {
	f := Features{}
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			for _, flag := range strings.Fields(value) {
				f[flag] = true
			}
			break
		}
	}
	return f
}

// avx512 reports whether the driver saves the full AVX-512 state.
func (f Features) avx512() bool {
	return f["avx512f"] && f["avx512bw"] && f["avx512vl"] && f["avx512dq"]
}

// vectors returns the number and the size of the vector registers.
func (f Features) vectors() (n, size int) {
	switch {
	case f.avx512():
		return 32, 64
	case f["avx"]:
		return 16, 32
	}
	return 16, 16
}

// gen collects the snippets of a class.
type gen struct {
	*rand.Rand
	features Features
	snippets []Snippet
}

// Generate returns the snippets of a class; the same for the same seed and features.
func (c Class) Generate(seed uint64, f Features) []Snippet {
	h := seed
	for _, b := range []byte(c.Name) {
		h = h*1099511628211 + uint64(b)
	}
	g := &gen{Rand: rand.New(rand.NewPCG(seed, h)), features: f}
	c.gen(g)
	return g.snippets
}

// Supported reports whether the processor has what the class needs.
func (c Class) Supported(f Features) bool {
	for _, need := range c.Needs {
		if !f[need] {
			return false
		}
	}
	return true
}

// add adds a snippet of these lines; @name is a label of its own.
func (g *gen) add(ignore uint64, lines ...string) {
	g.snippets = append(g.snippets, Snippet{Text: strings.Join(lines, "\n"), Ignore: ignore})
}

// addReader adds one that shows or changes a return address.
func (g *gen) addReader(lines ...string) {
	g.snippets = append(g.snippets, Snippet{Text: strings.Join(lines, "\n"), ReadsReturn: true})
}

// fault adds a snippet that may end in a signal.
func (g *gen) fault(lines ...string) {
	g.snippets = append(g.snippets, Snippet{Text: strings.Join(lines, "\n"), Faults: true})
}

// faultInCall adds one that ends where it is called: the return address shows.
func (g *gen) faultInCall(lines ...string) {
	g.snippets = append(g.snippets, Snippet{Text: strings.Join(lines, "\n"), Faults: true, ReadsReturn: true})
}

// Source returns the program that runs the snippets.
func Source(snippets []Snippet, f Features, rounds int, seed uint64) string {
	var b strings.Builder
	_, size := f.vectors()
	for _, e := range []struct {
		name  string
		value any
	}{{"HAVE_AVX", bit(size >= 32)}, {"HAVE_AVX512", bit(size == 64)}, {"ROUNDS", rounds}, {"SEED", seed}, {"NSNIP", len(snippets)}} {
		fmt.Fprintf(&b, "\t.equ %s, %d\n", e.name, e.value)
	}
	b.WriteString(driver)
	b.WriteString("\t.text\n")
	for i, s := range snippets {
		// Vary the alignment of the code.
		fmt.Fprintf(&b, "\t.skip %d, 0xcc\nsnippet%d:\n", 1+(i*7+i/16)%16, i)
		for line := range strings.Lines(strings.ReplaceAll(s.Text, "@", fmt.Sprintf(".L%d_", i))) {
			b.WriteString("\t" + line)
		}
		b.WriteString("\n\tjmp snippet_done\n\tud2\n")
	}
	b.WriteString("\t.section .rodata\n\t.balign 8\ntable:\n")
	for i, s := range snippets {
		fmt.Fprintf(&b, "\t.quad snippet%d, %#x\n", i, s.Ignore)
	}
	return b.String()
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// pick returns one of the values.
func pick[T any](g *gen, from ...T) T { return from[g.IntN(len(from))] }

// gpr names register number n (0 is rax, in the order of their encoding) at a
// size of 1, 2, 4 or 8 bytes.
func gpr(n, size int) string {
	old := []string{"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"}
	if n >= 8 {
		return fmt.Sprintf("%%r%d%s", n, map[int]string{1: "b", 2: "w", 4: "d", 8: ""}[size])
	}
	switch size {
	case 1:
		if n < 4 {
			return "%" + old[n][:1] + "l"
		}
		return "%" + old[n] + "l"
	case 2:
		return "%" + old[n]
	case 4:
		return "%e" + old[n]
	}
	return "%r" + old[n]
}

// suffix is the letter of an operand size.
func suffix(size int) string { return map[int]string{1: "b", 2: "w", 4: "l", 8: "q"}[size] }

var sizes = []int{1, 2, 4, 8}

// reg returns the number of a random register other than rsp and those named.
func (g *gen) reg(not ...int) int {
next:
	for {
		n := g.IntN(16)
		if n == 4 {
			continue
		}
		for _, x := range not {
			if n == x {
				continue next
			}
		}
		return n
	}
}

// mem returns a memory operand in the window of scratch, aligned as wanted and
// with 64 bytes of room, and the instructions that make its registers; none
// of the registers named is used. Every form of address occurs.
func (g *gen) mem(align int, not ...int) (setup, operand string) {
	off := window + g.IntN(128/align)*align
	base := g.reg(not...)
	switch g.IntN(7) {
	case 0, 1: // most of all, the form that a translator must rewrite
		return "", fmt.Sprintf("scratch+%d(%%rip)", off)
	case 2:
		return fmt.Sprintf("lea scratch+%d(%%rip), %s", off, gpr(base, 8)), fmt.Sprintf("(%s)", gpr(base, 8))
	case 3:
		disp := pick(g, 1, -128, 127, 128, 0x1000, -70000)
		return fmt.Sprintf("lea scratch+%d(%%rip), %s", off-disp, gpr(base, 8)),
			fmt.Sprintf("%d(%s)", disp, gpr(base, 8))
	case 4:
		index, scale := g.reg(append(not, base)...), pick(g, 1, 2, 4, 8)
		n := g.IntN(100)
		return fmt.Sprintf("lea scratch+%d(%%rip), %s\nmov $%d, %s", off-n*scale-16, gpr(base, 8), n, gpr(index, 4)),
			fmt.Sprintf("16(%s,%s,%d)", gpr(base, 8), gpr(index, 8), scale)
	case 5:
		// Off rsp; the slot is aligned as rsp is.
		return "", fmt.Sprintf("%d(%%rsp)", g.IntN(256/align)*align)
	default:
		index := g.reg(append(not, base)...)
		return fmt.Sprintf("lea scratch+%d(%%rip), %s\nmov $-2, %s", off, gpr(base, 8), gpr(index, 8)),
			fmt.Sprintf("2(%s,%s)", gpr(base, 8), gpr(index, 8))
	}
}

// rip returns a RIP-relative operand in the window.
func (g *gen) rip(align int) string {
	return fmt.Sprintf("scratch+%d(%%rip)", window+g.IntN(128/align)*align)
}

// imm returns an immediate that fits a size, with edges more often.
func (g *gen) imm(size int) string {
	v := pick(g, 0, 1, -1, 127, -128, g.IntN(256)-128, int(g.Uint32()>>1), -int(g.Uint32()>>1))
	switch size {
	case 1:
		v = int(int8(v))
	case 2:
		v = int(int16(v))
	}
	return fmt.Sprintf("$%d", v)
}

// lines joins what isn't empty.
func lines(parts ...string) string {
	var keep []string
	for _, p := range parts {
		if p != "" {
			keep = append(keep, p)
		}
	}
	return strings.Join(keep, "\n")
}

// cc are the names of the sixteen conditions in the order of their encoding.
var cc = []string{"o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"}

// flagCombos are all combinations of CF, PF, ZF, SF and OF, with the bits that are always set.
func flagCombos() []string {
	var all []string
	for i := range 32 {
		f := 0x202
		for j, bit := range []int{flagCF, flagPF, flagZF, flagSF, flagOF} {
			if i>>j&1 != 0 {
				f |= bit
			}
		}
		all = append(all, fmt.Sprintf("%#x", f))
	}
	return all
}
