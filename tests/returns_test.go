//go:build linux && amd64

package tests

import (
	"slices"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// readers are the guests that read return addresses, which native returns are not for.
var readers = map[string]string{
	"c/anywhere.c":  "looks at each word of its stack",
	"c/asan.c":      "records the stack of each allocation",
	"c/beneath.c":   "walks its stack",
	"c/pthreads.c":  "pthread_cancel unwinds the stack",
	"c/sequences.c": "shows what calls push",
	"cc/throw.cc":   "throws exceptions",
	"cc/unwind.cc":  "throws exceptions",
	"go/hello.go":   "Go walks stacks",
	"go/runtime.go": "Go walks stacks",
	"go/stress.go":  "Go walks stacks",
}

// readingPrograms are those of the machine's own programs that do.
var readingPrograms = map[string]string{
	"luajit": "error() unwinds the stack",
	"node":   "its engine walks stacks",
}

// readingTests are the other tests of such guests and programs, as a pattern for -test.skip.
const readingTests = "^TestUnderLoad$/^(luajit|node|go.*)$|^TestNoOriginalCode$/^go$|^TestUser$/^(hello#02|runtime|throw)$"

// TestReturns runs the guests with the other kinds of return addresses: with native ones those that don't read them, with auto all.
func TestReturns(t *testing.T) {
	all := append(slices.Clone(basicGuests), guests...)
	t.Run("native", func(t *testing.T) {
		runGuests(t, returning("native", slices.DeleteFunc(slices.Clone(all), func(g guest) bool { return readers[g.src] != "" })))
	})
	t.Run("auto", func(t *testing.T) { runGuests(t, returning("auto", all)) })
}

// returning lists guests with a kind of return addresses, each linked in one way, or with -soak in all.
func returning(mode string, guests []guest) (list []guest) {
	for _, g := range guests {
		if kinds := g.kinds; len(kinds) > 1 && !*harness.Soak {
			g.kinds = kinds[len(kinds)-1:]
		}
		g.xvrun = append(slices.Clone(g.xvrun), "-returns="+mode)
		list = append(list, g)
	}
	return list
}

// TestReturnsMoved does that while the guests move.
func TestReturnsMoved(t *testing.T) {
	var few []guest
	for _, g := range guests {
		if slices.Contains([]string{"moved", "jumps", "returns", "signals", "handlers", "procs", "jit", "switches", "stress"}, strings.TrimSuffix(stem(g.src), ".c")) {
			g.xvrun = append(slices.Clone(g.xvrun), "-relocate-every=5ms")
			few = append(few, g)
		}
	}
	for _, mode := range []string{"native", "auto"} {
		t.Run(mode, func(t *testing.T) {
			runGuests(t, returning(mode, slices.DeleteFunc(slices.Clone(few), func(g guest) bool { return mode == "native" && readers[g.src] != "" })))
		})
	}
}

// TestReturnsOfHandlers has handlers return to where calls do not, while nothing moves, for which hardly any has to trap, and while all moves.
func TestReturnsOfHandlers(t *testing.T) {
	harness.NeedXvrun(t)
	const handlers = 2000 // that return, but for some
	for name, pause := range map[string]time.Duration{"still": 0, "moved": 2 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stop := func() int { return 0 }
			p := harness.Hosted{Program: harness.Guest(t, "c/handlers.c", harness.PIE), Limit: time.Minute, Prepare: func(cmd *xv.Cmd) {
				cmd.Options.Returns = xv.NativeReturns
			}, Started: func(p *xv.Process) {
				if pause > 0 {
					stop = harness.RelocateOften(t, p, pause)
				}
			}}.Compare(t)
			if n := stop(); pause > 0 && n == 0 {
				t.Error("nothing was moved")
			}
			if misses := p.Stats().JumpMisses; pause == 0 && misses > handlers/2 {
				t.Errorf("%d returns and jumps have trapped", misses)
			}
		})
	}
}

// TestReturnsPrograms runs programs of the machine, scripts and Python with the other kinds of return addresses: some, or with -soak all.
func TestReturnsPrograms(t *testing.T) {
	some := []string{"awk", "bash-basics", "bash-jobs", "dash-pipeline", "find-exec", "luajit", "node", "perl", "valgrind"}
	for _, mode := range []string{"native", "auto"} {
		t.Run(mode, func(t *testing.T) {
			flag := "-returns=" + mode
			list, interpreters := programs(), harness.Python(t)
			if !*harness.Soak {
				list = slices.DeleteFunc(list, func(p program) bool { return !slices.Contains(some, p.name) })
				interpreters = interpreters[:1]
			}
			if mode == "native" {
				list = slices.DeleteFunc(list, func(p program) bool { return readingPrograms[p.name] != "" })
			}
			runPrograms(t, list, flag)
			runPython(t, interpreters, flag)
			runScripts(t, flag)
		})
	}
}

// TestReturnsElsewhere runs the tests of the surroundings of programs with the other kinds of return addresses: users, namespaces,
// limits, terminals, daemons, load. It is a soak.
func TestReturnsElsewhere(t *testing.T) {
	harness.NeedXvrun(t)
	harness.NeedSoak(t)
	const tests = "^Test(UnderLoad|Limits|Namespaces|Terminal|Kill.*|Outlive|Forward.*|Stop.*|Broken.*|Closed.*|User|SetUserID|Leaks|" +
		"NoOriginalCode|Store.*)$"
	t.Run("native", func(t *testing.T) {
		harness.Again(t, "-returns=native", "-test.run", tests, "-test.skip", readingTests)
	})
	t.Run("auto", func(t *testing.T) { harness.Again(t, "-returns=auto", "-test.run", tests) })
}
