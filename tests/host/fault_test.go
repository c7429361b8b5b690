//go:build linux && amd64

package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/cpu"

	"xvrun/tests/harness"
	"xvrun/tests/need"
	"xvrun/xv/trap"
)

// The proof of concept: a bad pointer is replaced at the fault, and the load is done again.
func TestFaultFixAndRetry(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "fix")
	var text string
	var seen atomic.Int32
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGSEGV}, Access: trap.Read, Addresses: []trap.Range{{Lo: 0, Hi: 0x1000}}}, func(c *trap.Context) trap.Action {
		seen.Add(1)
		text = c.String()
		c.RBX = c.R12
		return trap.Retry
	})
	cmd.OnFault(trap.Filter{}, func(*trap.Context) trap.Action {
		t.Error("the second function is called, although the first has answered")
		return trap.Kill
	})
	run(t, cmd, out, "loaded 4711\n")
	if seen.Load() != 1 {
		t.Errorf("%d faults", seen.Load())
	}
	for _, want := range []string{"SIGSEGV (SEGV_MAPERR)", "address 0x10 ", "access read", "mov (%rbx),%rax", "rbx    0000000000000010", "fsbase 0000"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestFaultSkip(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "skip")
	var seen []string
	cmd.OnFault(trap.Filter{}, func(c *trap.Context) trap.Action {
		seen = append(seen, fmt.Sprintf("%s %s %x", c.SignalText(), c.Access, c.Instruction()))
		return trap.Skip
	})
	run(t, cmd, out, "quotient 7\nafter 9\n")
	want := []string{
		"SIGFPE (FPE_INTDIV) none f7f1", "SIGILL (ILL_ILLOPN) none 0f0b", "SIGSEGV (SEGV_MAPERR) write 014140",
	}
	if len(seen) != 4 || !slices.Equal(seen[:3], want) || !strings.HasPrefix(seen[3], "SIGTRAP (SI_KERNEL) none ") {
		t.Errorf("faults %q", seen)
	}
}

func TestFaultDeliver(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "handled")
	cmd.OnFault(trap.Filter{Access: trap.Read | trap.Fetch}, func(*trap.Context) trap.Action {
		t.Error("the filter lets a write through")
		return trap.Kill
	})
	cmd.OnFault(trap.Filter{Access: trap.Write}, func(c *trap.Context) trap.Action {
		c.RAX = 42
		return trap.Deliver
	})
	if e := exitError(t, cmd.Run()); e.ExitCode() != 3 {
		t.Errorf("end %v", e)
	}
	if want := "signal 11 code 1 address 0x1234 rax 42\n"; out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

func TestFaultKill(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "handled")
	cmd.OnFault(trap.Filter{}, func(*trap.Context) trap.Action { return trap.Kill })
	if e := exitError(t, cmd.Run()); e.Signal() != syscall.SIGSEGV || out.Len() > 0 {
		t.Errorf("end %v, output %q", e, out)
	}
}

func TestFaultVectors(t *testing.T) {
	t.Parallel()
	if !cpu.X86.HasAVX {
		need.Missing(t, "a processor with AVX")
	}
	cmd, out := guest(t, "c/faulting.c", "vector")
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGILL}}, func(c *trap.Context) trap.Action {
		y, err := c.Vector("ymm2")
		if err != nil || y[0] != 1 || y[31] != 32 {
			t.Errorf("ymm2: %d, %v", y, err)
		}
		slices.Reverse(y)
		st, err := c.Vector("st0")
		if err != nil || binary.LittleEndian.Uint64(st) != 5<<61 {
			t.Errorf("st0: %x, %v", st, err)
		}
		binary.LittleEndian.PutUint64(st, 7<<61) // 3.5
		mxcsr, err := c.MXCSR()
		for _, e := range []error{
			err, c.SetMXCSR(mxcsr), c.SetVector("ymm3", y), c.SetVector("xmm1", y[:16]), c.SetVector("st0", st),
		} {
			if e != nil {
				t.Error(e)
			}
		}
		if c.SetMXCSR(math.MaxUint32) == nil || c.SetVector("xmm1", y) == nil {
			t.Error("wrong values are taken")
		}
		return trap.Skip
	})
	run(t, cmd, out, vectorOutput())
}

// vectorOutput is what the guest prints: 16 bytes of xmm1, and the 32 of ymm3.
func vectorOutput() string {
	var b strings.Builder
	for _, n := range []int{16, 32} {
		for i := range n {
			fmt.Fprintf(&b, "%d ", 32-i)
		}
	}
	return b.String() + "3.5\n"
}

func TestFaultFetch(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "fetch")
	cmd.OnFault(trap.Filter{Access: trap.Fetch}, func(c *trap.Context) trap.Action {
		if c.Addr != c.RIP {
			t.Errorf("address %#x, rip %#x", c.Addr, c.RIP)
		}
		c.RIP = c.R12
		return trap.Retry
	})
	run(t, cmd, out, "landed\n")
}

func TestFaultSegmentBases(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "bases")
	cmd.OnFault(trap.Filter{}, func(c *trap.Context) trap.Action {
		gs, err := c.Base(trap.GS)
		if gs != 0x1000 || err != nil {
			t.Errorf("gs base %#x, %v", gs, err)
		}
		fs, err := c.Base(trap.FS)
		if self, e := c.Uint64(fs); err != nil || e != nil || self != fs { // the thread control block begins with its address
			t.Errorf("fs base %#x: %#x, %v, %v", fs, self, err, e)
		}
		if c.SetBase(trap.GS, c.R12) != nil || c.SetBase(trap.FS, fs) != nil || c.SetBase(trap.FS, 1<<63) == nil {
			t.Error("setting bases")
		}
		return trap.Skip
	})
	run(t, cmd, out, "gs 77 local 12\n")
}

func TestFaultThreads(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "threads")
	var count atomic.Int32
	cmd.OnFault(trap.Filter{Signals: []syscall.Signal{syscall.SIGILL}}, func(c *trap.Context) trap.Action {
		count.Add(1)
		c.RAX++
		return trap.Skip
	})
	run(t, cmd, out, "child 7\n")
	if count.Load() != 5*200 {
		t.Errorf("%d faults", count.Load())
	}
}

func TestFaultMemory(t *testing.T) {
	t.Parallel()
	cmd, out := guest(t, "c/faulting.c", "memory")
	var kept *trap.Context
	cmd.OnFault(trap.Filter{}, func(c *trap.Context) trap.Action {
		kept = c
		if s, err := c.CString(c.R12, 100); s != "guest text" || err != nil {
			t.Errorf("string %q, %v", s, err)
		}
		if err := c.WriteMemory(c.R12, []byte("host")); err != nil {
			t.Error(err)
		}
		v, err := c.Uint64(c.R13)
		if err != nil || c.SetUint64(c.R13, v+1) != nil {
			t.Errorf("word: %v", err)
		}
		_, err = c.Uint32(0x10)
		if e, ok := errors.AsType[*trap.MemoryError](err); !ok || e.Addr != 0x10 {
			t.Errorf("null page: %v", err)
		}
		if err := c.SetUint8(0x10, 1); err == nil {
			t.Error("the null page can be written")
		}
		return trap.Skip
	})
	run(t, cmd, out, "hostt text 2\n")
	if _, err := kept.Uint64(kept.R13); !errors.Is(err, trap.ErrDone) {
		t.Errorf("use after the callback: %v", err)
	}
}

func TestFaultPanic(t *testing.T) {
	t.Parallel()
	cmd, _ := guest(t, "c/faulting.c", "crash")
	cmd.OnFault(trap.Filter{}, func(*trap.Context) trap.Action { panic("the host's mistake") })
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "the host's mistake") {
		t.Errorf("Run: %v", err)
	}
}

// A callback that ends its goroutine ends the guest too, which could not go on.
func TestFaultGoexit(t *testing.T) {
	t.Parallel()
	cmd, _ := guest(t, "c/faulting.c", "crash")
	cmd.OnFault(trap.Filter{}, func(*trap.Context) trap.Action {
		runtime.Goexit()
		return trap.Deliver
	})
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "runtime.Goexit") {
		t.Errorf("Run: %v", err)
	}
}

func TestTrapPrint(t *testing.T) {
	t.Parallel()
	harness.NeedXvrun(t)
	path := built(t, "c/faulting.c")
	file := t.TempDir() + "/faults"
	res := harness.RunArgv(t, []string{harness.Xvrun(t), "-store", "", "-trap-print", "-o", file, path, "handled"}, harness.Spec{})
	text, err := os.ReadFile(file)
	if err != nil || res.Status.ExitStatus() != 3 || !bytes.HasPrefix(res.Stdout, []byte("signal 11")) {
		t.Fatalf("%v, %v, output %q", err, res.Status, res.Stdout)
	}
	for _, want := range []string{": SIGSEGV (SEGV_MAPERR) address 0x1234 access write\n", "mov %rax,0x1234\n", "rax    0000000000000001", "\nrflags 0", "gsbase 0", "\nfile   " + path + ", offset 0x"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
