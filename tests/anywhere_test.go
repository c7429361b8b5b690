//go:build linux && amd64

package tests

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestSignalAnywhere steps a guest by ptrace and sends it a signal at every instruction of its
// translation and of the agent, wherever these are. The guest checks the states that its handler sees.
func TestSignalAnywhere(t *testing.T) {
	harness.NeedXvrun(t)
	t.Run("low", func(t *testing.T) { signalAnywhere(t, nil) })
	t.Run("far", func(t *testing.T) {
		harness.NeedSoak(t)
		signalAnywhere(t, []string{"-far-region"})
	})
	t.Run("no tables", func(t *testing.T) {
		harness.NeedSoak(t)
		signalAnywhere(t, []string{"-no-tables"})
	})
	t.Run("native", func(t *testing.T) {
		harness.NeedSoak(t)
		signalAnywhere(t, []string{"-returns=native"}, "native")
	})
}

// signalAnywhere does that with flags for xvrun and more arguments for the guest.
func signalAnywhere(t *testing.T, flags []string, args ...string) {
	t.Parallel()
	visits, parts := 1, 1
	if *harness.Soak {
		visits, parts = 20, 2
	}
	path := harness.Guest(t, "c/anywhere.c", harness.PIE)
	mode := []string{"near", "traced"}[parts-1]
	r := harness.Start(t, harness.CommandWith(t, flags, append([]string{path, mode}, args...)...))
	r.WaitOutput("ready", time.Minute)
	guests := r.Guests()
	if len(guests) != 1 {
		t.Fatalf("guests %v", guests)
	}
	s := &stepper{pid: guests[0], most: visits, parts: parts, visits: map[uint64]int{}}
	if err := s.run(); err == unix.EPERM {
		need.Missing(t, "the permission to use ptrace")
	} else if err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, r.Stdout.Bytes(), r.Stderr.Bytes())
	}
	t.Logf("%d signals at %d addresses in %d steps", s.signals, len(s.visits), s.steps)
	if s.signals < 500*visits {
		t.Errorf("only %d signals", s.signals)
	}
	if ws := r.Wait(time.Minute); ws.ExitStatus() != 0 || !strings.Contains(string(r.Stdout.Bytes()), "hit 1 wrong 0 leaked 0 blocked 0\nok") {
		t.Errorf("%s\nstdout: %s\nstderr: %s", harness.StatusString(ws), r.Stdout.Bytes(), r.Stderr.Bytes())
	}
}

// stepper traces a process. All of its methods run on one OS thread, the tracer.
type stepper struct {
	pid     int
	most    int            // signals at one address
	parts   int            // of the guest that are not done: where it was linked, and the copy
	visits  map[uint64]int // signals by address
	signals int
	steps   int
}

const (
	// quiet is how many steps without a new address are enough: some rounds of the guest's code.
	quiet = 4000
	// marker is in rax at the breakpoint by which the guest's handler says that it is at its end.
	marker = 0x7261636521
)

// run attaches to the guest while it waits, lets it go on, sends the signals and follows it to its end:
// the handler's breakpoint must not reach the guest.
func (s *stepper) run() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the tracer ends with it
		done <- s.trace()
	}()
	return <-done
}

func (s *stepper) trace() error {
	if err := ptrace(unix.PTRACE_SEIZE, s.pid, 0); err != nil {
		return err
	}
	unix.Kill(s.pid, unix.SIGUSR2) // it waits for that
	if err := ptrace(unix.PTRACE_INTERRUPT, s.pid, 0); err != nil {
		return err
	}
	stopped, err := s.wait()
	if err != nil {
		return err
	}
	var deliver unix.Signal // at the next step
	free := false           // until the handler's end
	for last := 0; stopped != ended; s.steps++ {
		if s.steps-last > quiet && s.parts > 0 {
			s.parts--
			last = s.steps
			unix.Kill(s.pid, unix.SIGUSR2)
		}
		var regs unix.PtraceRegs
		if err := unix.PtraceGetRegs(s.pid, &regs); err != nil {
			return fmt.Errorf("PTRACE_GETREGS: %w", err)
		}
		switch stopped {
		case stepTrap:
			if s.parts == 0 {
				free = true
			} else if !free && s.visits[regs.Rip] < s.most && (regs.Rip == 0 || mayBeRegion(regs.Rip)) {
				s.visits[regs.Rip]++
				s.signals++
				last = s.steps
				deliver, free = unix.SIGUSR1, true
			}
		case breakpoint:
			if regs.Rax == marker {
				free = s.parts == 0
			} else {
				deliver = unix.SIGTRAP
			}
		case eventStop:
		default:
			deliver = unix.Signal(stopped)
		}
		if stopped, err = s.resume(free, deliver, &regs); err != nil {
			return err
		}
		deliver = 0
	}
	return nil
}

// What a tracee stopped for, when it isn't a signal.
const (
	stepTrap = -iota - 1
	breakpoint
	eventStop
	ended
)

// resume lets the guest run freely or by one instruction, until it stops.
func (s *stepper) resume(free bool, sig unix.Signal, regs *unix.PtraceRegs) (int, error) {
	if free {
		if err := unix.PtraceCont(s.pid, int(sig)); err != nil {
			return 0, fmt.Errorf("PTRACE_CONT: %w", err)
		}
		return s.wait()
	}
	var code [1]byte
	s.peek(regs.Rip, code[:])
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SINGLESTEP, uintptr(s.pid), 0, uintptr(sig), 0, 0); e != 0 {
		return 0, fmt.Errorf("PTRACE_SINGLESTEP: %w", e)
	}
	stopped, err := s.wait()
	if err == nil && sig == 0 && code[0] == 0x9c { // pushf stores the tracer's TF
		var top [8]byte
		s.peek(regs.Rsp-8, top[:])
		top[1] &^= 1
		unix.PtracePokeData(s.pid, uintptr(regs.Rsp-8), top[:])
	}
	return stopped, err
}

func (s *stepper) peek(addr uint64, b []byte) { unix.PtracePeekData(s.pid, uintptr(addr), b) }

// wait waits for the next stop.
func (s *stepper) wait() (int, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(s.pid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait: %w", err)
		}
		break
	}
	switch {
	case !ws.Stopped():
		return ended, nil
	case ws.TrapCause() > 0:
		return eventStop, nil
	case ws.StopSignal() != unix.SIGTRAP:
		return int(ws.StopSignal()), nil
	}
	var si [128]byte
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(s.pid), 0, uintptr(unsafe.Pointer(&si)), 0, 0); e != 0 {
		return 0, fmt.Errorf("PTRACE_GETSIGINFO: %w", e)
	}
	switch code := *(*int32)(unsafe.Pointer(&si[8])); code {
	case siKernel:
		return breakpoint, nil
	case int32(unix.SIGTRAP):
		return eventStop, nil
	}
	return stepTrap, nil
}

// siKernel is the si_code of an int3. At the first instruction of a handler it is SIGTRAP, in a stop
// that can't be turned into a signal (ptrace_notify).
const siKernel = 0x80

func ptrace(request, pid int, data uintptr) error {
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0); e != 0 {
		return e
	}
	return nil
}
