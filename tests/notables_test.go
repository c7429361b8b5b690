package tests

import (
	"slices"
	"strings"
	"testing"

	"xvrun/tests/harness"
)

// TestNoTables runs guests without lookup tables: those that branch in many ways, or with -soak all.
func TestNoTables(t *testing.T) {
	few := []string{"branches", "jumps", "returns", "signals", "procs", "jit", "switches", "stress", "throw", "hello", "syscalls", "threads", "moved", "filters"}
	var list []guest
	for _, g := range append(slices.Clone(basicGuests), guests...) {
		if g.src == "c/faults.c" { // a jump to an address that is not canonical faults at its target
			continue
		}
		if !*harness.Soak && !slices.Contains(few, strings.Split(stem(g.src), ".")[0]) {
			continue
		}
		if kinds := g.kinds; len(kinds) > 1 && !*harness.Soak {
			g.kinds = kinds[len(kinds)-1:]
		}
		g.xvrun = append(slices.Clone(g.xvrun), "-no-tables")
		list = append(list, g)
	}
	runGuests(t, list)
}
