package suites

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestPosix runs the conformance tests of the Open POSIX Test Suite, one program each. XV_POSIXTESTSUITE names the
// folder with the sources, which ./fetch-posix gets. Without -soak every fourth test runs.
func TestPosix(t *testing.T) {
	top := os.Getenv("XV_POSIXTESTSUITE")
	if top == "" {
		need.Missing(t, "XV_POSIXTESTSUITE, the folder with the Open POSIX Test Suite,")
	}
	need.Tool(t, "gcc")
	limit, every := 20*time.Second, 4
	if *harness.Soak {
		limit, every = time.Minute, 1
	}
	tests := buildPosix(t, top, every)
	if want := 1500 / every; len(tests) < want {
		t.Fatalf("only %d tests could be built, want %d", len(tests), want)
	}
	var parts []part
	for _, test := range tests {
		if test.unwinds && nativeReturns {
			continue
		}
		parts = append(parts, test.part(limit))
	}
	compareAll(t, 8, parts) // most of them sleep
}

// posixTest is one test program.
type posixTest struct {
	name, program string
	unwinds       bool // it ends or cancels threads, for which the C library unwinds their stacks
}

// part compares how a test ends, natively and translated.
func (p posixTest) part(limit time.Duration) part {
	said := ""
	compare := func(t *testing.T) differences {
		native := harness.Run(t, harness.Spec{Argv: []string{p.program}, Timeout: limit})
		want := outcome(native)
		patience := 2*limit + 10*time.Second
		if want == "does not end" {
			patience = limit // nor may it here
		}
		said += "native: " + want + "\n"
		got := harness.RunXV(t, harness.Spec{Argv: []string{p.program}, Timeout: patience})
		if strings.Contains(said, "native: "+outcome(got)+"\n") { // also where that varies
			return nil
		}
		return differences{p.name: fmt.Sprintf("%stranslated: %s\n%s", said, outcome(got), tail(append(got.Stdout, got.Stderr...)))}
	}
	return part{name: p.name, suite: "posix", tests: []string{p.name}, compare: compare}
}

// setsClock finds the tests that would change the machine's clock.
var setsClock = regexp.MustCompile(`\b(clock_settime|settimeofday|stime)\s*\(`)

// unwinds finds the tests that end or cancel threads.
var unwinds = regexp.MustCompile(`\bpthread_(exit|cancel|testcancel)\b`)

// isProgram finds the tests that are more than something to compile.
var isProgram = regexp.MustCompile(`\bmain\b`)

// buildPosix builds every n-th conformance test. Some don't compile with today's headers.
func buildPosix(t *testing.T, top string, n int) []posixTest {
	t.Helper()
	var sources []string
	for _, pattern := range []string{"*/*/*.c", "*/*/*/*.c"} {
		found, err := filepath.Glob(filepath.Join(top, "conformance", pattern))
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, found...)
	}
	name := regexp.MustCompile(`/conformance/(?:interfaces/)?(.*/\d+-\d+)\.c$`)
	out := filepath.Join(harness.WorkDir(), "posix")
	var mu sync.Mutex
	var tests []posixTest
	type source struct {
		name, file string
		unwinds    bool
	}
	var chosen []source
	for _, file := range sources {
		m := name.FindStringSubmatch(file)
		text, err := os.ReadFile(file)
		if m == nil || err != nil || !isProgram.Match(text) || setsClock.Match(text) {
			continue
		}
		chosen = append(chosen, source{m[1], file, unwinds.Match(text)})
	}
	var some []source
	for i := 0; i < len(chosen); i += n {
		some = append(some, chosen[i])
	}
	each(runtime.NumCPU(), some, func(c source) {
		program := filepath.Join(out, c.name)
		if os.MkdirAll(filepath.Dir(program), 0o755) != nil {
			return
		}
		gcc := exec.Command("gcc", "-O1", "-w", "-std=gnu99", "-D_POSIX_C_SOURCE=200112L", "-D_GNU_SOURCE",
			"-I", filepath.Join(top, "include"), "-o", program, c.file, "-lpthread", "-lrt", "-lm")
		gcc.Dir = top // some include files by their path from here
		if gcc.Run() == nil {
			mu.Lock()
			tests = append(tests, posixTest{c.name, program, c.unwinds})
			mu.Unlock()
		}
	})
	return tests
}
