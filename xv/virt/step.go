//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// Single steps: a guest that sets TF gets a SIGTRAP after each instruction. The processor's own TF stays
// set in translated code; a trap counts when it comes at the start of the translation of an original
// instruction. The agent clears TF while it works (Stepped).

// Trap number of #DB, and the si_code of a single step (sigaction(2)).
const (
	trapDB    = 1
	trapTRACE = 2
)

// isStep reports whether the signal is the trap of a single step.
func isStep(f frame, si *siginfo) bool {
	return unix.Signal(si.signo()) == unix.SIGTRAP && si.code() == trapTRACE && f.reg(frTrap) == trapDB
}

// stepTrap handles the trap of a single step. It reports false if the guest has done an instruction: the
// event is its SIGTRAP.
func (th *thread) stepTrap(f frame, pos position, ev *event) bool {
	rip, home := f.reg(frRIP), th.home()
	switch {
	case rip == 0 || pos == atMiss && !home.InCache(rip): // a branch is done, and has missed, or a native return has left translated code
	case agent.PlaceOf(rip-home.Agent()) == agent.Resuming:
		if !th.arrived {
			th.returnTo(f, ev.regs)
			return true
		}
	case home.InAgent(rip):
		// The kernel returns from a system call by iret, and the first trap comes an instruction later.
		th.skipStep = th.skipStep || pos == atCallEnd
		th.stepOn(f)
		return true
	default:
		c := th.p.as.enter()
		starts, inCheck := c.space.Starts(c.home.CacheOffset(rip))
		th.p.as.exit()
		starts = starts || rip == th.stepAt // an iteration of a string instruction
		if !starts || th.skipStep {
			th.skipStep = inCheck || th.skipStep && !starts
			th.stepAt = rip
			th.stepOn(f)
			return true
		}
	}
	th.stepAt = 0
	th.arrived = false
	ev.fault = true
	return false
}

// stepOn lets the thread go on where it was interrupted.
func (th *thread) stepOn(f frame) {
	th.reply(abi.OpSigreturn, 0)
}

// stepped takes note that the guest was in single steps when it entered the agent by a request of the
// given kind. A branch or an instruction that is emulated is done when the thread goes on, a check has done nothing.
func (th *thread) stepped(kind uint32) {
	on := th.ctx.u32(abi.Stepped) != 0
	if on {
		th.ctx.setU32(abi.Stepped, 0)
		th.ctx.setU64(abi.RFLAGS, th.ctx.u64(abi.RFLAGS)|flagTF)
	}
	th.arrived = on && (kind == abi.KindMiss || kind == abi.KindSpecial)
	if th.arrived && kind == abi.KindMiss {
		_, isCheck := th.p.as.enter().space.CheckAt(th.ctx.u32(abi.Stub))
		th.p.as.exit()
		th.arrived = !isCheck
	}
	if kind == abi.KindOpened || kind == abi.KindCalled { // it doesn't go on from where the kernel's iret left it
		th.skipStep = false
	}
}
