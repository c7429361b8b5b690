//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// undo is the state before a system call that the supervisor has done and the guest has not seen to
// return: one that changes the signal mask or a signal's action. A signal that the agent has put off
// meanwhile comes first, if the old state lets it through; then the system call begins again. Natively
// almost no time passes between the change and the return, and programs rely on it: a shell that
// replaces its handler, and then stores what the old one was, must not see the new one called before.
type undo struct {
	regs registers
	mask uint64
	alt  signalStack

	beneath []uint64

	sig      int // whose action was changed; 0: none was
	old, new action
}

// before returns the state before the system call whose return address is in regs.
func (th *thread) before(regs *registers) *undo {
	u := &undo{regs: *regs, mask: th.guestMask(), alt: th.alt, beneath: th.beneath}
	u.regs.rip -= syscallLen
	u.regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
	return u
}

// takeBack undoes the system call if the signal is one that the state before it lets through and the
// state after it does not, or whose handler it has changed. It reports whether it has.
func (th *thread) takeBack(u *undo, si *siginfo) bool {
	sig := int(si.signo())
	switch {
	case u.mask&bit(sig) != 0:
		return false
	case u.sig != 0:
		if u.sig != sig || th.isKick(si) || !th.p.actions.swap(sig, u.new, u.old) {
			return false
		}
		copy(th.ctx.scratch(), kernelAction(th.home(), sig, u.old).bytes())
		th.remote(call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr(), 0, 8}})
	case th.guestMask()&bit(sig) == 0:
		return false
	}
	th.setGuestMask(u.mask)
	th.alt, th.beneath = u.alt, u.beneath
	return true
}
