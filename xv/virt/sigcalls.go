//go:build linux && amd64

package virt

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

func (th *thread) rtSigaction(regs *registers) {
	a := th.args(regs)
	sig := int(int32(a[0]))
	if a[3] != 8 || sig < 1 || sig > 64 || a[1] != 0 && (sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP)) {
		th.result(regs, -int64(unix.EINVAL))
		return
	}
	old := th.p.actions.get(sig)
	if a[1] != 0 {
		var b [actionSize]byte
		if th.read(a[1], b[:]) < actionSize {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
		act := parseAction(b[:])
		copy(th.ctx.scratch(), kernelAction(sig, act).bytes())
		th.p.actions.set(sig, act)
		r := th.remote(call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr(), 0, 8}})
		if r[0] < 0 {
			th.p.actions.set(sig, old)
			th.result(regs, r[0])
			return
		}
	}
	if a[2] != 0 && !th.write(a[2], old.bytes()) {
		th.result(regs, -int64(unix.EFAULT))
		return
	}
	th.result(regs, 0)
}

// rtSigprocmask does what the gate leaves to it: memory that cannot be accessed as it is, bad
// arguments, and masks while signals are held.
func (th *thread) rtSigprocmask(regs *registers) {
	a := th.args(regs)
	if a[3] != 8 {
		th.result(regs, -int64(unix.EINVAL))
		return
	}
	old := th.guestMask()
	if a[1] != 0 {
		var b [8]byte
		if th.read(a[1], b[:]) < 8 {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
		set := binary.LittleEndian.Uint64(b[:])
		next := old
		switch int32(a[0]) {
		case unix.SIG_BLOCK:
			next |= set
		case unix.SIG_UNBLOCK:
			next &^= set
		case unix.SIG_SETMASK:
			next = set
		default:
			th.result(regs, -int64(unix.EINVAL))
			return
		}
		before := undo{regs: *regs, mask: old, alt: th.alt}
		before.regs.rip -= syscallLen
		th.setGuestMask(next)
		th.undo = &before
	}
	if a[2] != 0 && !th.write(a[2], le64(old)) {
		th.result(regs, -int64(unix.EFAULT))
		return
	}
	th.resendUnblocked()
	th.result(regs, 0)
}

// rtSigpending adds the signals that are held to the kernel's.
func (th *thread) rtSigpending(regs *registers) {
	a := th.args(regs)
	if a[1] > 8 {
		th.result(regs, -int64(unix.EINVAL))
		return
	}
	r := th.remote(call{unix.SYS_RT_SIGPENDING, [6]uint64{th.ctx.scratchAddr(), 8}})
	set := binary.LittleEndian.Uint64(th.ctx.scratch())
	for _, si := range th.held {
		set |= bit(int(si.signo()))
	}
	if r[0] == 0 && !th.write(a[0], le64(set)[:a[1]]) {
		r[0] = -int64(unix.EFAULT)
	}
	th.result(regs, r[0])
}

// rtSigtimedwait takes a signal that is held, or lets the kernel wait for one.
func (th *thread) rtSigtimedwait(regs *registers) {
	a := th.args(regs)
	var b [8]byte
	if a[3] == 8 && len(th.held) > 0 && th.read(a[0], b[:]) == 8 {
		set := binary.LittleEndian.Uint64(b[:])
		if si, ok := th.takeHeld(set); ok {
			r := int64(si.signo())
			if a[1] != 0 && !th.write(a[1], si[:]) {
				r = -int64(unix.EFAULT)
			}
			th.result(regs, r)
			return
		}
	}
	th.gateCall(*regs, call{unix.SYS_RT_SIGTIMEDWAIT, a})
}
