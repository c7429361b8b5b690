package tests

import (
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// TestSmallCache runs guests with a translation cache that is full again and again: with threads that never enter the
// supervisor on their own, signals at all times, and a process that shares the cache and is stopped.
func TestSmallCache(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct {
		src   string
		args  []string
		cache int
	}{
		{src: "c/stopped.c", cache: 256 << 10},
		{src: "c/threads.c", cache: 128 << 10},
		{src: "c/storm.c", args: []string{"2000"}, cache: 128 << 10},
		{src: "c/switches.c", cache: 128 << 10},
		{src: "c/procs.c", cache: 128 << 10},
		{src: "cc/unwind.cc", cache: 256 << 10},
		{src: "go/runtime.go", cache: 512 << 10},
	} {
		t.Run(stem(c.src), func(t *testing.T) {
			t.Parallel()
			var flags []string
			kind := harness.PIE
			if c.src == "cc/unwind.cc" {
				flags = []string{"-fnon-call-exceptions"}
			}
			program := harness.Guest(t, c.src, kind, flags...)
			p := harness.Hosted{Program: program, Args: c.args, Limit: time.Minute, Prepare: func(cmd *xv.Cmd) {
				cmd.Options.CacheSize = c.cache
			}}.Compare(t)
			if p.Stats().Flushes == 0 {
				t.Error("the cache was never full")
			}
		})
	}
}
