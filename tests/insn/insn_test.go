package insn

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
)

var (
	seed   = flag.Uint64("seed", 1, "seed of the snippets and of their data")
	rounds = flag.Int("rounds", 3, "how often each snippet runs, with other data each time")
	only   = flag.Int("snippet", -1, "run only the snippet of this number of a class")
	keep   = flag.String("keep", "", "put the assembly sources into this directory")
)

func TestMain(m *testing.M) { harness.Main(m) }

// chunk is the number of snippets in one program.
const chunk = 500

// highAddress is where programs are linked whose code doesn't fit 32-bit addresses.
const highAddress = "0x200000000"

func TestInsn(t *testing.T) { runClasses(t, manner{}) }

// TestInsnReturns runs them with the other kinds of return addresses.
func TestInsnReturns(t *testing.T) {
	for _, mode := range []string{"native", "auto"} {
		t.Run(mode, func(t *testing.T) {
			runClasses(t, manner{xvrun: []string{"-returns=" + mode}, returnsUnread: true})
		})
	}
}

// manner is how snippets are linked and run.
type manner struct {
	linker        []string // flags of the compiler
	xvrun         []string // flags of xvrun
	returnsUnread bool     // without those that show or change a return address
}

// with is the manner with a flag of the compiler.
func (m manner) with(flag string) manner {
	m.linker = []string{flag}
	return m
}

// choose replaces the snippets that don't run in this manner, so that the others keep their numbers.
func (m manner) choose(snippets []Snippet) []Snippet {
	for i, s := range snippets {
		if m.returnsUnread && s.ReadsReturn {
			snippets[i] = Snippet{Text: "nop"}
		}
	}
	return snippets
}

func runClasses(t *testing.T, m manner) {
	features := HostFeatures()
	for _, c := range Classes {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			if !c.Supported(features) {
				t.Skipf("the processor lacks one of %v", c.Needs)
			}
			runClass(t, c, features, *seed, m)
		})
	}
	// The same code where addresses have more than 32 bits, and where it is writable, so that it is checked.
	for _, c := range Classes {
		if !c.High || !c.Supported(features) {
			continue
		}
		for name, flag := range map[string]string{"-high": "-Wl,-Ttext-segment=" + highAddress, "-writable": "-Wl,--omagic"} {
			if name == "-writable" && c.Name == "fault" {
				continue // it jumps to data, which is executable then
			}
			t.Run(c.Name+name, func(t *testing.T) {
				t.Parallel()
				runClass(t, c, features, *seed, m.with(flag))
			})
		}
	}
}

// TestInsnSoak runs all classes with many seeds.
func TestInsnSoak(t *testing.T) {
	harness.NeedSoak(t)
	features := HostFeatures()
	for s := *seed + 1; s < *seed+20; s++ {
		for _, c := range Classes {
			if c.Supported(features) {
				t.Run(fmt.Sprintf("%s/%d", c.Name, s), func(t *testing.T) {
					t.Parallel()
					runClass(t, c, features, s, manner{})
				})
			}
		}
	}
}

// TestAssemble assembles also the classes that this processor cannot run.
func TestAssemble(t *testing.T) {
	features := HostFeatures()
	all := Features{}
	for f := range features {
		all[f] = true
	}
	for _, c := range Classes {
		for _, need := range c.Needs {
			all[need] = true
		}
	}
	for _, c := range Classes {
		if c.Supported(features) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			build(t, c, c.Generate(*seed, all), all, *seed, 0)
		})
	}
}

func runClass(t *testing.T, c Class, f Features, seed uint64, m manner) {
	snippets := m.choose(c.Generate(seed, f))
	t.Logf("%d snippets", len(snippets))
	first := 0
	if *only >= 0 {
		if *only >= len(snippets) {
			t.Fatalf("class %s has %d snippets", c.Name, len(snippets))
		}
		snippets, first = snippets[*only:*only+1], *only
	}
	for i := 0; i < len(snippets); i += chunk {
		compare(t, c, snippets[i:min(i+chunk, len(snippets))], f, seed, first+i, m)
	}
}

func build(t *testing.T, c Class, snippets []Snippet, f Features, seed uint64, first int, flags ...string) string {
	t.Helper()
	dir := *keep
	if dir == "" {
		dir = t.TempDir()
	}
	source, err := filepath.Abs(filepath.Join(dir, fmt.Sprintf("%s-%d.S", c.Name, first)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, []byte(Source(snippets, f, *rounds, seed)), 0o644); err != nil {
		t.Fatal(err)
	}
	return harness.BuildFile(t, source, harness.Bare, flags...)
}

// compare runs a program of snippets natively and under xvrun.
func compare(t *testing.T, c Class, snippets []Snippet, f Features, seed uint64, first int, m manner) {
	t.Helper()
	path := build(t, c, snippets, f, seed, first, m.linker...)
	spec := harness.Spec{Argv: []string{path}, Timeout: 2 * time.Minute, Flags: m.xvrun}
	r := reporter{t: t, snippets: snippets, features: f, first: first}

	native := harness.Run(t, spec)
	if native.Err != nil {
		t.Fatalf("native run: %v", native.Err)
	}
	want := split(native.Stdout, f)
	if !native.Status.Exited() || native.Status.ExitStatus() != 0 || len(want) != len(snippets)**rounds {
		t.Fatalf("bad native run: %s\n%s", harness.StatusString(native.Status), r.last(want))
	}
	for _, rec := range want {
		index, _, _ := recordIndex(rec)
		if faulted(rec) && !snippets[index].Faults {
			t.Errorf("bad snippet: it faults natively: %s\n%s", describeFault(rec), r.text(index))
		}
	}
	if t.Failed() {
		return
	}

	const most = 5
	broken, shown, differ := 0, 0, 0
	seen := -1
	var records [][]byte
	for begin := 0; begin < len(snippets); {
		spec.Argv = []string{path, strconv.Itoa(begin)}
		got := harness.RunXV(t, spec)
		records = append(records[:begin**rounds], split(got.Stdout, f)...)
		if got.Err == nil && got.Status == native.Status && len(records) == len(want) {
			break
		}
		why := fmt.Sprintf("%s, stderr: %s", harness.StatusString(got.Status), got.Stderr)
		if got.Err != nil {
			why = got.Err.Error()
		}
		t.Errorf("translated run broke off: %s\n%s", why, r.last(records))
		if broken++; broken == most {
			break
		}
		// Go on behind the snippet that it was in; its records count as equal.
		begin = len(records) / *rounds + 1
		records = append(records, want[len(records):min(begin**rounds, len(want))]...)
	}
	for i := 0; i < len(records) && i < len(want); i++ {
		if bytes.Equal(records[i], want[i]) {
			continue
		}
		index, round, ok := recordIndex(records[i])
		if wi, wr, _ := recordIndex(want[i]); !ok || index != wi || round != wr {
			t.Errorf("record %d is out of step: it says snippet %d round %d, native snippet %d round %d", i, index, round, wi, wr)
			break
		}
		differ++
		if index == seen || shown == most {
			continue
		}
		seen = index
		shown++
		t.Errorf("round %d differs:\n%s\n%s", round, diffRecords(f, want[i], records[i]), r.text(index))
	}
	if differ > 0 {
		t.Errorf("%d of %d records differ", differ, len(want))
	}
}

// split cuts the output into records.
func split(out []byte, f Features) [][]byte {
	size := recordSize(f)
	var records [][]byte
	for ; len(out) >= size; out = out[size:] {
		records = append(records, out[:size])
	}
	return records
}

// reporter describes the snippets of a program.
type reporter struct {
	t        *testing.T
	snippets []Snippet
	features Features
	first    int
}

func (r reporter) text(index int) string {
	if index < 0 || index >= len(r.snippets) {
		return fmt.Sprintf("no snippet %d", index)
	}
	text := strings.ReplaceAll(r.snippets[index].Text, "@", ".L")
	return fmt.Sprintf("snippet %d (alone: -run '%s$' -snippet %d):\n    %s", r.first+index,
		r.t.Name(), r.first+index, strings.ReplaceAll(text, "\n", "\n    "))
}

// last says where a run that broke off was.
func (r reporter) last(records [][]byte) string {
	n := len(records)
	if n == len(r.snippets)**rounds {
		return "all snippets ran"
	}
	return fmt.Sprintf("it ended after %d of %d records, in round %d of %s", n, len(r.snippets)**rounds, n%*rounds, r.text(n / *rounds))
}
