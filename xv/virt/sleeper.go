//go:build linux && amd64

package virt

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// A thread that sleeps in a system call of the guest, or is stopped in it or in translated code, comes with no request. What the host
// wants done in its address space is done through it all the same: it is halted, performs system calls of xv's, and goes on as after
// any ptrace stop, with its own system call begun again by the kernel (see halt). A system call that has done a part of its work ends with
// that part, as natively when a process is stopped and continued.

// useSleeper does the jobs that wait through a thread that does not run, if there is one that can be halted.
func (as *addressSpace) useSleeper() {
	s := as.s
	s.handing.Lock() // not while the address space moves, or the guest is handed over
	defer s.handing.Unlock()
	if s.closed.Load() {
		return
	}
	list, tried := s.threadsOf(as), make(chan struct{})
	onOwnThread(func() {
		var late []*halted
		func() {
			defer close(tried)
			for _, th := range list {
				h, err := as.useHalted(th)
				switch {
				case errors.Is(err, errLate):
					late = append(late, h)
				case err != nil:
					s.trace("%d: page tools: %v", th.tid, err)
				}
			}
		}()
		for _, h := range late {
			h.releaseLate()
		}
	})
	<-tried
}

// useHalted does the jobs that wait through th, if that is at a place where it can. After errLate the calling OS thread must call releaseLate.
func (as *addressSpace) useHalted(th *thread) (*halted, error) {
	js := &as.tools.jobs
	if js.pending.Load() == 0 || !th.idle() || th.clones() || th.p.executing.Load() {
		return nil, nil
	}
	h, err := th.halt()
	if err != nil {
		return h, err
	}
	defer as.s.guard(th.p)
	home := as.home()
	_, inCall := agent.InCall(h.regs.Rip - home.Agent())
	if th.idle() && (inCall || home.InCache(h.regs.Rip)) {
		js.doAll(th, sleeper{h.at(home.Agent()+agent.SyscallAt, 0)})
	}
	if err := h.goOn(); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, err
	}
	return nil, nil
}

// stopped reports whether the thread is stopped by a signal.
func (th *thread) stopped() bool {
	fields := statOf(th.tid)
	return len(fields) > 0 && fields[0][0] == 'T'
}

// pushOn lets a thread that is stopped by a signal do the system calls of its answer: the handler holds what threads of another process with
// the same memory may need. It remains stopped.
func (th *thread) pushOn() {
	done := make(chan struct{})
	onOwnThread(func() {
		defer close(done)
		h, err := th.halt()
		switch {
		case errors.Is(err, errLate):
			h.releaseLate()
			return
		case err != nil:
			th.p.s.trace("%d: is stopped, and works for xv: %v", th.tid, err)
			return
		}
		unix.PtraceCont(h.tid, 0)
		for deadline := time.Now().Add(haltLimit); th.ctx.u32(abi.State) != abi.StateDone && time.Now().Before(deadline); {
			time.Sleep(20 * time.Microsecond)
			if ws, _ := takeStop(h.tid); ws != 0 { // of the signal, and of PTRACE_INTERRUPT
				unix.PtraceCont(h.tid, 0)
			}
		}
		if err := h.haltAgain(); err != nil {
			th.p.s.trace("%d: is stopped, and works for xv: %v", th.tid, err)
		}
		h.goOn()
	})
	<-done
}

// idle reports whether the thread is known and has no request, and no server is at work on its last one.
func (th *thread) idle() bool {
	return th.tid != 0 && !th.busy.Load() && th.ctx.u32(abi.State) == abi.StateRun
}

// sleeper performs system calls without arguments in memory in a halted thread, and panics with gone if that dies, as thread.remote does.
type sleeper struct{ *injector }

func (c sleeper) perform(calls ...call) ([]int64, error) {
	results, err := c.injector.perform(calls...)
	if errors.Is(err, unix.ESRCH) {
		panic(gone{})
	}
	return results, err
}
