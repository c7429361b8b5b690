//go:build linux && amd64

package tests

import (
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// TestRelocate runs guests while all that xv has in them moves to a random place ten times a second, fifty with -soak, every other time
// without the translations: they must do what they do natively.
func TestRelocate(t *testing.T) {
	harness.NeedXvrun(t)
	pause := 100 * time.Millisecond
	if *harness.Soak {
		pause = 20 * time.Millisecond
	}
	for _, c := range []struct {
		src  string
		args []string
	}{
		{src: "c/signals.c"},
		{src: "c/sigqueue.c"},
		{src: "c/syncsignals.c"},
		{src: "c/threads.c"},
		{src: "c/pthreads.c"},
		{src: "c/forks.c"},
		{src: "c/procs.c"},
		{src: "c/killed.c"},
		{src: "c/poll.c"},
		{src: "c/jit.c"},
		{src: "c/code.c"},
		{src: "c/apart.c"},
		{src: "c/storm.c", args: []string{"2000"}},
		{src: "go/runtime.go"},
	} {
		t.Run(stem(c.src), func(t *testing.T) {
			t.Parallel()
			program := harness.Guest(t, c.src, harness.PIE)
			var stop func() int
			harness.Hosted{Program: program, Args: c.args, Limit: 2 * time.Minute, Started: func(p *xv.Process) {
				stop = harness.RelocateOften(t, p, pause)
			}}.Compare(t)
			if stop() == 0 {
				t.Error("nothing was moved")
			}
		})
	}
}
