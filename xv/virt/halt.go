//go:build linux && amd64

package virt

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// halted is a thread in a ptrace stop of the calling OS thread, with all signals blocked but SIGTRAP, by which the kernel reports single
// steps: what comes meanwhile stays pending, with all that the kernel knows of it.
type halted struct {
	th   *thread
	tid  int
	regs unix.PtraceRegs // with which it goes on
	mask uint64          // the signal mask that it has otherwise
	used []*injector     // which may have signals for it
}

// haltLimit is how long halt waits for threads to stop. One that runs or sleeps does so at once; one in an uninterruptible sleep
// or in vfork(2) when that ends.
const haltLimit = 20 * time.Millisecond

// halt stops a thread wherever it is. A system call that it sleeps in begins again when it goes on, with the time that is left
// (restart_syscall(2)), unless it was done. If the error is errLate, the calling OS thread must call releaseLate; after another one
// the thread is not its tracee, or dead.
func (th *thread) halt() (*halted, error) {
	h, err := th.haltSoon()
	if err == nil {
		err = h.arrive(time.Now().Add(haltLimit))
	}
	return h, err
}

// haltSoon is the first half of halt: the thread will stop. arrive must follow, if the error is nil.
func (th *thread) haltSoon() (*halted, error) {
	h := &halted{th: th, tid: th.tid}
	if err := seize(h.tid, 0); err == unix.EPERM { // perhaps only now: it ends, or is traced for an execve
		return nil, fmt.Errorf("%w: PTRACE_SEIZE of thread %d: %w", errBusy, h.tid, err)
	} else if err != nil {
		return nil, fmt.Errorf("PTRACE_SEIZE of thread %d: %w", h.tid, err)
	}
	th.halted.Store(true)
	if err := ptrace(unix.PTRACE_INTERRUPT, h.tid, 0, 0); err != nil {
		return nil, fmt.Errorf("PTRACE_INTERRUPT of thread %d: %w", h.tid, err)
	}
	return h, nil
}

// arrive is the other half: it waits until the thread stops.
func (h *halted) arrive(deadline time.Time) error {
	if err := h.await(deadline); err != nil {
		return err
	}
	if err := h.load(); err != nil {
		return err
	}
	all := ^bit(int(unix.SIGTRAP))
	if err := ptrace(ptraceSetSigMask, h.tid, 8, uintptr(unsafe.Pointer(&all))); err != nil {
		return fmt.Errorf("PTRACE_SETSIGMASK: %w", err)
	}
	return nil
}

// errLate says that a thread takes long to stop.
var errLate = fmt.Errorf("%w: a thread does not stop", errBusy)

// await waits for the stop that PTRACE_INTERRUPT asks for. Signals that come before are delivered. If the deadline is not zero and has
// passed, the error is errLate.
func (h *halted) await(deadline time.Time) error {
	for {
		ws, err := takeStop(h.tid)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD:
			return unix.ESRCH
		case err != nil:
			return err
		case ws == 0:
			if !deadline.IsZero() && time.Now().After(deadline) {
				return errLate
			}
			buryAll()
			nap(10 * time.Microsecond)
		case isEventStop(ws):
			return nil
		default:
			unix.PtraceCont(h.tid, int(ws.StopSignal()))
		}
	}
}

// haltAgain stops a thread that was let run meanwhile.
func (h *halted) haltAgain() error {
	if err := ptrace(unix.PTRACE_INTERRUPT, h.tid, 0, 0); err != nil {
		return fmt.Errorf("PTRACE_INTERRUPT of thread %d: %w", h.tid, err)
	}
	if err := h.await(time.Time{}); err != nil {
		return err
	}
	mask := h.mask
	err := h.load()
	h.mask = mask
	return err
}

// load reads the registers and the signal mask.
func (h *halted) load() error {
	if err := unix.PtraceGetRegs(h.tid, &h.regs); err != nil {
		return fmt.Errorf("PTRACE_GETREGS: %w", err)
	}
	if err := ptrace(ptraceGetSigMask, h.tid, 8, uintptr(unsafe.Pointer(&h.mask))); err != nil {
		return fmt.Errorf("PTRACE_GETSIGMASK: %w", err)
	}
	return nil
}

// releaseLate waits until the thread stops, and lets it go on. If the tracer just ended, PTRACE_INTERRUPT would end a system call
// with EINTR.
func (h *halted) releaseLate() error {
	if err := h.await(time.Time{}); err != nil {
		return err
	}
	if err := h.load(); err != nil {
		return err
	}
	return h.goOn()
}

// goOn lets the thread continue with the registers in regs.
func (h *halted) goOn() error {
	if err := unix.PtraceSetRegs(h.tid, &h.regs); err != nil {
		return fmt.Errorf("PTRACE_SETREGS: %w", err)
	}
	if err := ptrace(ptraceSetSigMask, h.tid, 8, uintptr(unsafe.Pointer(&h.mask))); err != nil {
		return fmt.Errorf("PTRACE_SETSIGMASK: %w", err)
	}
	if err := unix.PtraceDetach(h.tid); err != nil {
		return fmt.Errorf("PTRACE_DETACH: %w", err)
	}
	for _, in := range h.used {
		for _, sig := range in.signals { // SIGSTOP, which can't be blocked, or SIGTRAP
			unix.Tgkill(h.th.p.pid, h.tid, sig)
		}
	}
	return nil
}

// at returns a caller that lets the thread perform system calls by the instruction at the address syscall, with arguments in
// the memory at arg, and leaves regs as it is.
func (h *halted) at(syscall, arg uint64) *injector {
	in := &injector{th: h.th, tid: h.tid, regs: h.regs, arg: arg}
	in.regs.Rip = syscall
	in.regs.Eflags &^= flagTF
	h.used = append(h.used, in)
	return in
}

// sent reports whether the signal that the thread has stopped for was sent by a process, and is not a kick: a thread that is stopped
// needs none.
func (in *injector) sent() bool {
	var si siginfo
	if ptrace(unix.PTRACE_GETSIGINFO, in.tid, 0, uintptr(unsafe.Pointer(&si))) != nil || si.code() > 0 {
		return false
	}
	return in.th == nil || !in.th.isKick(&si)
}

// Requests of ptrace(2) that package unix lacks.
const (
	ptraceGetSigMask = 0x420a
	ptraceSetSigMask = 0x420b
)

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
