package tests

import (
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// TestSmallCache runs guests with a translation cache that is full again and again: with threads that never enter the
// supervisor on their own, signals at all times, a process that shares the cache and is stopped, and one whose parent waits in vfork(2).
func TestSmallCache(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct {
		src   string
		args  []string
		cache int
		moved bool         // to other places meanwhile, again and again
		keep  []xv.Keeping // what moves along, in turn: all of it for a program that would need long to fill the cache again

		returns xv.Returns
	}{
		{src: "c/stopped.c", cache: 256 << 10},
		{src: "c/threads.c", cache: 128 << 10},
		{src: "c/storm.c", args: []string{"2000"}, cache: 128 << 10},
		{src: "c/switches.c", cache: 128 << 10},
		{src: "c/procs.c", cache: 128 << 10},
		{src: "cc/unwind.cc", cache: 256 << 10},
		{src: "go/runtime.go", cache: 512 << 10},
		{src: "c/collected.c", cache: 256 << 10},
		{src: "c/collected.c", cache: 256 << 10, moved: true},
		{src: "c/jit.c", cache: 128 << 10, moved: true, keep: []xv.Keeping{xv.KeepAll}},
		{src: "c/pthreads.c", cache: 128 << 10, moved: true, keep: []xv.Keeping{xv.KeepAll}},
		{src: "c/stopped.c", cache: 256 << 10, returns: xv.NativeReturns},
		{src: "c/threads.c", cache: 128 << 10, returns: xv.NativeReturns},
		{src: "c/procs.c", cache: 128 << 10, returns: xv.NativeReturns},
		{src: "c/returns.c", cache: 32 << 10, returns: xv.NativeReturns},
		{src: "c/collected.c", cache: 256 << 10, returns: xv.NativeReturns, moved: true},
	} {
		name := stem(c.src)
		if c.moved {
			name += "-moved"
		}
		if c.returns != xv.TransparentReturns {
			name += "-native"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var flags []string
			kind := harness.PIE
			if c.src == "cc/unwind.cc" {
				flags = []string{"-fnon-call-exceptions"}
			}
			program := harness.Guest(t, c.src, kind, flags...)
			stop := func() int { return 0 }
			p := harness.Hosted{Program: program, Args: c.args, Limit: time.Minute, Prepare: func(cmd *xv.Cmd) {
				cmd.Options.CacheSize, cmd.Options.Returns = c.cache, c.returns
			}, Started: func(p *xv.Process) {
				if c.moved {
					stop = harness.RelocateOften(t, p, 20*time.Millisecond, c.keep...)
				}
			}}.Compare(t)
			if stop() == 0 && c.moved {
				t.Error("nothing was moved")
			}
			if p.Stats().Collections == 0 {
				t.Error("the cache was never full")
			}
		})
	}
}

// TestHotCode runs a program whose code is several times the cache. What it calls all the time must not be translated again whenever
// the cache is full.
func TestHotCode(t *testing.T) {
	t.Parallel()
	harness.NeedXvrun(t)
	program := harness.Guest(t, "c/collected.c", harness.PIE)
	run := func(cache int) xv.Stats {
		return harness.Hosted{Program: program, Args: []string{"hot"}, Limit: time.Minute, Prepare: func(cmd *xv.Cmd) {
			cmd.Options.CacheSize = cache
		}}.Compare(t).Stats()
	}
	const hot = 300 // functions that are called all the time
	whole, part := run(0), run(512<<10)
	if whole.Collections != 0 || part.Collections < 4 || part.Kept < hot*part.Collections {
		t.Errorf("%+v, with a small cache %+v", whole, part)
	}
	if more := part.Regions - whole.Regions; more > hot/2*part.Collections {
		t.Errorf("%d regions translated, with a small cache %d more in %d collections", whole.Regions, more, part.Collections)
	}
	if more := part.Handoffs - whole.Handoffs; more > hot/2*part.Collections {
		t.Errorf("%d hand-offs, with a small cache %d more in %d collections", whole.Handoffs, more, part.Collections)
	}
}

// TestGrow runs a program that leaves little room for a while, and then has more code than the cache that fits there has room for.
func TestGrow(t *testing.T) {
	t.Parallel()
	harness.NeedXvrun(t)
	program := harness.Guest(t, "c/collected.c", harness.PIE)
	p := harness.Hosted{Program: program, Args: []string{"grow"}, Limit: time.Minute}.Compare(t)
	if n := p.Stats().Collections; n != 1 {
		t.Errorf("%d collections, want one, at which the cache grows", n)
	}
}
