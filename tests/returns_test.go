package tests

import (
	"slices"
	"strings"
	"testing"

	"xvrun/tests/harness"
)

// readers are the guests that read return addresses, which native returns are not for.
var readers = map[string]string{
	"c/anywhere.c":  "looks at each word of its stack",
	"c/asan.c":      "records the stack of each allocation",
	"c/pthreads.c":  "pthread_cancel unwinds the stack",
	"c/sequences.c": "shows what calls push",
	"cc/throw.cc":   "throws exceptions",
	"cc/unwind.cc":  "throws exceptions",
	"go/hello.go":   "Go walks stacks",
	"go/runtime.go": "Go walks stacks",
	"go/stress.go":  "Go walks stacks",
}

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
		if slices.Contains([]string{"moved", "jumps", "returns", "signals", "procs", "jit", "switches", "stress"}, strings.TrimSuffix(stem(g.src), ".c")) {
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
