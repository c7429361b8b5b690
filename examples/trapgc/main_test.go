//go:build linux && amd64

package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"xvrun/tests/harness"
	"xvrun/xv/trap"
)

func TestMain(m *testing.M) { harness.Main(m) }

var counted = regexp.MustCompile(`^(live \d+ sum \d+)\nnanoseconds \d+\ncollections (\d+)\n$`)

// TestCollect runs the guest with each collector over heaps of several sizes, and checks the heap after each collection.
func TestCollect(t *testing.T) {
	t.Parallel()
	guest := harness.Guest(t, "c/trapgc.c", harness.PIE)
	for _, heap := range []int{128, 500, 4096} {
		w := work{heap: heap, live: 9, depth: 8, iterations: 2000, check: true}
		args := []string{"compare", strconv.Itoa(heap), "9", "8", "2000", "check"}
		native, err := exec.CommandContext(t.Context(), guest, args...).Output()
		want := counted.FindStringSubmatch(string(native))
		if err != nil || want == nil {
			t.Fatalf("natively: %v, %q", err, native)
		}
		for _, mode := range []string{"host", "signal", "compare"} {
			t.Run(fmt.Sprint(mode, heap), func(t *testing.T) {
				t.Parallel()
				w.mode = mode
				out, err := command(guest, w).CombinedOutput()
				got := counted.FindStringSubmatch(string(out))
				if err != nil || got == nil || got[1] != want[1] {
					t.Fatalf("%v, %q, want %q", err, out, want[1])
				}
				if n, _ := strconv.Atoi(got[2]); n < 1000*30/heap {
					t.Errorf("%d collections, natively %s", n, want[2])
				}
			})
		}
	}
}

// A heap that is too small for what is alive ends the guest.
func TestHeapTooSmall(t *testing.T) {
	t.Parallel()
	out, err := command(harness.Guest(t, "c/trapgc.c", harness.PIE), work{mode: "host", heap: 32, live: 10, depth: 4, iterations: 10}).CombinedOutput()
	if err == nil || strings.Contains(string(out), "live") {
		t.Errorf("%v, %q", err, out)
	}
}

// The checker finds what a collector could do wrong.
func TestVerify(t *testing.T) {
	object := func(left, right, value uint64) (b []byte) {
		for _, v := range []uint64{objectTag, left, right, value} {
			b = le.AppendUint64(b, v)
		}
		return b
	}
	const from, to = 0x10000, 0x20000
	leaf := object(0, 0, 0)
	for _, c := range []struct {
		name  string
		next  []byte
		rax   uint64
		stack []byte
		good  bool
	}{
		{"a tree", append(object(to+32, to+32, 1), leaf...), to, le.AppendUint64(nil, to+32), true},
		{"old field", append(object(from, to+32, 1), leaf...), to, nil, false},
		{"field between objects", append(object(to+8, to+32, 1), leaf...), to, nil, false},
		{"field behind the end", append(object(to+64, to+32, 1), leaf...), to, nil, false},
		{"old root", leaf, from, nil, false},
		{"old stack slot", leaf, to, le.AppendUint64(nil, from+32), false},
		{"root between objects", leaf, to + 8, nil, false},
		{"no object", make([]byte, 32), to, nil, false},
		{"lost child", object(0, 0, 1), to, nil, false},
	} {
		g := collector{heap: heap{From: from, To: to, Size: 0x1000}, next: c.next, stack: c.stack}
		if err := g.verify(trap.New(nil, trap.Event{}, trap.Registers{RAX: c.rax})); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
