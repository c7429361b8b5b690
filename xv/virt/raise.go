//go:build linux && amd64

package virt

import (
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// fault is an exception of the original program that no instruction of the translation raised.
type fault struct {
	info  siginfo
	words trapWords
}

// Exceptions (Intel SDM vol. 3, 6.3.1) and bits of a page fault's error code (4.7).
const (
	trapUD = 6
	trapSS = 12
	trapGP = 13
	trapPF = 14

	pfPresent   = 1
	pfWrite     = 1 << 1
	pfFetch     = 1 << 4
	pfUser      = 1 << 2
	pfUserFetch = pfUser | pfFetch
)

// protection is a general protection fault: SIGSEGV, by the kernel, without an address.
func protection(err uint64) fault {
	return fault{info: faultInfo(int(unix.SIGSEGV), siKernel, 0), words: trapWords{trap: trapGP, err: err}}
}

// pushFault is the fault of a push to addr, where there is no memory: a stack fault, SIGBUS without an address, if the
// address is not canonical.
func pushFault(addr uint64) fault {
	if !canonical(addr) {
		return fault{info: faultInfo(int(unix.SIGBUS), siKernel, 0), words: trapWords{trap: trapSS}}
	}
	return fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, addr), words: trapWords{trapPF, pfUser | pfWrite, addr}}
}

// canonical reports whether addr is one of the processor's 48-bit addresses (Intel SDM vol. 1, 3.3.7.1).
func canonical(addr uint64) bool { return int64(addr<<16)>>16 == int64(addr) }

// raise delivers a fault at the original state regs, in the frame of a signal.
func (th *thread) raise(f frame, ft fault, regs registers) {
	ft.words.store(f)
	th.deliver(f, event{info: ft.info, regs: regs, fault: true})
}

// raising is an event for a thread that is in no signal. It goes on at address 0, and the signal of that
// gives the full frame.
type raising struct {
	event
	words trapWords
}

// raiseLater delivers a fault to a thread that is in no signal.
func (th *thread) raiseLater(ft fault, regs registers) {
	th.raiseEvent(raising{event{info: ft.info, regs: regs, fault: true}, ft.words})
}

func (th *thread) raiseEvent(r raising) {
	th.raising = &r
	th.resuming = r.regs
	th.reply(abi.OpRaise, 0)
}

// deferred answers a thread whose agent has put off a signal, and now would go on with the guest. The
// kernel blocks everything.
func (th *thread) deferred() {
	si := forwarded(th.ctx.deferred())
	th.ctx.setU32(abi.Pending, 0)
	th.ctx.setU32(abi.SetMask, 1)
	sig := int(si.signo())
	if sig < 1 || sig > 64 {
		th.p.s.fail(th.p, fmt.Errorf("process %d: signal %d was put off: the guest damaged its thread context", th.p.pid, sig))
		return
	}
	if th.p.s.cfg.Trace != nil {
		th.p.s.trace("%d: signal %d code %d was put off", th.tid, sig, si.code())
	}
	if u := th.undo; u != nil && th.takeBack(u, &si) {
		th.undo = nil
		th.interrupt(si, u.regs)
		return
	}
	regs := th.resuming
	switch th.op {
	case abi.OpSigreturn:
		f, err := th.frame()
		switch {
		case err != nil:
			th.p.s.fail(th.p, err)
		case th.isKick(&si):
			th.enter(f, regs)
		default:
			th.deliver(f, event{info: si, regs: regs})
		}
		return
	case abi.OpGate: // has not happened
		th.passed = nil
		regs.rip -= syscallLen
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
	default:
		regs.gpr[rax] = th.ctx.u64(abi.RAX)
	}
	th.interrupt(si, regs)
}

// interrupt delivers a signal that was put off, at the original state regs.
func (th *thread) interrupt(si siginfo, regs registers) {
	switch {
	case th.isKick(&si):
		th.resumeAt(regs)
	case th.guestMask()&bit(int(si.signo())) != 0:
		th.putBack(si)
		th.resumeAt(regs)
	default:
		th.raiseEvent(raising{event: event{info: si, regs: regs}, words: th.trap})
	}
}
