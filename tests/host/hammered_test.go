//go:build linux && amd64

package host

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
	"xvrun/xv/trap"
)

// hammer runs a guest whose threads use a watched page and count that. It returns how often each thread
// says that it did, and how often that was told of these threads.
func hammer(t *testing.T, mode string, access trap.Access, returns xv.Returns, relocate bool, options ...xv.WatchOption) (made, told map[int]int) {
	t.Helper()
	cmd, out := guest(t, "c/hammered.c", mode)
	cmd.Options.Returns = returns
	made, told = map[int]int{}, map[int]int{}
	var mu sync.Mutex
	asked(cmd, func(_ uint64, m xv.Memory) {
		_, err := cmd.Process.Watch(m, access, func(c *trap.Context) trap.Action {
			mu.Lock()
			defer mu.Unlock()
			if !c.SystemCall { // of a call may be told more than it does
				told[c.Tid]++
			}
			return trap.Proceed
		}, options...)
		if err != nil {
			t.Error(err)
		}
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() int { return 0 }
	if relocate {
		stop = harness.RelocateOften(t, cmd.Process, 15*time.Millisecond)
	}
	err := cmd.Wait()
	moves := stop()
	if err != nil {
		t.Errorf("%v, %d moves\n%s", err, moves, out)
	}
	t.Logf("%d moves", moves) // of a short program on a busy machine perhaps none
	for line := range strings.Lines(out.String()) {
		var tid, n int
		if _, err := fmt.Sscan(line, &tid, &n); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if n > 0 {
			made[tid] = n
		}
	}
	maps.DeleteFunc(told, func(tid, _ int) bool { return made[tid] == 0 })
	return made, told
}

// Each access of each thread is told once, whatever the others do meanwhile.
func TestHammered(t *testing.T) {
	for name, c := range map[string]struct {
		mode     string
		access   trap.Access
		returns  xv.Returns
		relocate bool
	}{
		"threads":        {"threads", trap.Write, xv.TransparentReturns, false},
		"native returns": {"threads", trap.Write, xv.NativeReturns, false},
		"moving":         {"threads", trap.Write, xv.TransparentReturns, true},
		"moving, native": {"threads", trap.Write, xv.NativeReturns, true},
		"a flag":         {"flag", trap.Read | trap.Write, xv.TransparentReturns, false},
		"shared memory":  {"sharing", trap.Write, xv.TransparentReturns, false},
		"system calls":   {"passing", trap.Write, xv.TransparentReturns, false},
		"futex":          {"waiting", trap.Write, xv.TransparentReturns, false},
		"futex, moving":  {"waiting", trap.Write, xv.TransparentReturns, true},
		"calls, moving":  {"passing", trap.Write, xv.TransparentReturns, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if made, told := hammer(t, c.mode, c.access, c.returns, c.relocate); !maps.Equal(made, told) || len(made) == 0 {
				t.Errorf("told %v, want %v", told, made)
			}
		})
	}
}

// A loose watch is told of no more than what happens.
func TestHammeredLoosely(t *testing.T) {
	t.Parallel()
	made, told := hammer(t, "threads", trap.Write, xv.TransparentReturns, false, xv.Loose)
	total := 0
	for tid, n := range made {
		if told[tid] > n {
			t.Errorf("told %d times of %d", told[tid], n)
		}
		total += told[tid]
	}
	if total == 0 {
		t.Error("nothing was told")
	}
}

// watching runs a guest whose page is watched until it ends.
func watching(t *testing.T, mode string, access trap.Access, f func(c *trap.Context, m xv.Memory)) {
	t.Helper()
	cmd, out := guest(t, "c/hammered.c", mode)
	asked(cmd, func(_ uint64, m xv.Memory) {
		_, err := cmd.Process.Watch(m, access, func(c *trap.Context) trap.Action {
			f(c, m)
			return trap.Proceed
		})
		if err != nil {
			t.Error(err)
		}
	})
	run(t, cmd, out, "")
}

// The kernel tells the next owner of a mutex in watched memory that the last one has ended.
func TestWatchRobust(t *testing.T) {
	t.Parallel()
	watching(t, "robust", trap.Read|trap.Write, func(*trap.Context, xv.Memory) {})
}

// A process that is killed in a system call does not leave its pages open for another one with the same memory.
func TestWatchLeft(t *testing.T) {
	t.Parallel()
	watching(t, "left", trap.Write, func(c *trap.Context, m xv.Memory) {
		if c.SystemCall {
			return
		}
		if err := c.SetUint8(m.Addr+64, 1); err != nil {
			t.Error(err)
		}
	})
}
