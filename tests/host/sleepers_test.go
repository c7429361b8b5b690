//go:build linux && amd64

package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"xvrun/xv"
	"xvrun/xv/trap"
)

// sleepers is a guest in which a process stores to memory for each character that it reads, and sleeps in between.
type sleepers struct {
	*testing.T
	cmd  *xv.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	addr uint64
	told atomic.Int32 // stores

	pid, threads int // of the process
}

func startSleepers(t *testing.T, mode string, threads int) *sleepers {
	t.Helper()
	cmd, in, out, line, addr := outside(t, mode)
	pid, err := strconv.Atoi(line[1])
	if err != nil {
		t.Fatal(err)
	}
	s := &sleepers{T: t, cmd: cmd, in: in, out: out, addr: addr, pid: pid, threads: threads}
	s.rest()
	return s
}

// rest returns when all threads of the process sleep in system calls other than futex(2), in which they wait for xv.
func (s *sleepers) rest() {
	s.Helper()
	var calls []string
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", s.pid))
		calls = nil
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			if call := string(text); call != "" && !strings.HasPrefix(call, "running") && !strings.HasPrefix(call, "202 ") {
				calls = append(calls, call)
			}
		}
		if len(calls) == s.threads {
			return
		}
	}
	s.Fatalf("of %d threads are in system calls: %q", s.threads, calls)
}

// store has the guest store, and checks how often that is told.
func (s *sleepers) store(want int32) {
	s.Helper()
	before := s.told.Load()
	if _, err := s.in.Write([]byte("x")); err != nil {
		s.Error(err)
	}
	if line, err := s.out.ReadString('\n'); line != "done\n" {
		s.Fatalf("%q, %v", line, err)
	}
	s.rest()
	if got := s.told.Load() - before; got != want {
		s.Errorf("told %d times, want %d", got, want)
	}
}

func (s *sleepers) watch(length uint64) *xv.Watch {
	s.Helper()
	w, err := s.cmd.Process.Watch(xv.Memory{Addr: s.addr, Len: length}, trap.Write, func(c *trap.Context) trap.Action {
		if !c.SystemCall {
			s.told.Add(1)
		}
		return trap.Proceed
	})
	if err != nil {
		s.Fatal(err)
	}
	return w
}

// end ends the guest's input, and returns the rest of its output.
func (s *sleepers) end() (rest string, err error) {
	s.in.Close()
	b, _ := io.ReadAll(s.out)
	return string(b), s.cmd.Wait()
}

// Tools start, answer and end while all threads sleep in system calls, which go on as if nothing had been.
func TestToolsWhileAsleep(t *testing.T) {
	t.Parallel()
	s := startSleepers(t, "asleep", 3)
	w := s.watch(2 * pageSize)
	s.store(1)
	d, err := s.cmd.Process.TrackDirty(xv.Memory{Addr: s.addr, Len: 2 * pageSize})
	if err != nil {
		t.Fatal(err)
	}
	s.store(1)
	pages := func(want ...uint64) {
		t.Helper()
		if got, err := d.Pages(); err != nil || !slices.Equal(got, want) {
			t.Errorf("written %#x, %v, want %#x", got, err, want)
		}
	}
	pages(s.addr, s.addr+pageSize)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	s.store(0)
	pages(s.addr, s.addr+pageSize)
	if out, err := s.end(); out != "3 abc 1\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// The memory of a process that has ended, which another one shares, has its protection again when a tool was closed.
func TestToolOfSharedMemory(t *testing.T) {
	t.Parallel()
	s := startSleepers(t, "sharing", 1)
	w := s.watch(1)
	s.store(1)
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Wait()
	s.store(1)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	s.store(0)
	if out, _ := s.end(); out != "" {
		t.Errorf("%q", out)
	}
}

// System calls that Linux ends with EINTR at a stop go on, however often they are interrupted by xv.
func TestInterruptedOften(t *testing.T) {
	t.Parallel()
	s := startSleepers(t, "asleep", 3)
	for range 110 {
		if _, err := s.cmd.Process.Relocate(t.Context(), xv.Relocation{}); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.end(); out != "0 abc 1\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
