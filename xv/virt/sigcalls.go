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
		copy(th.ctx.scratch(), kernelAction(th.home(), sig, act).bytes())
		th.p.actions.set(sig, act)
		r := th.remote(call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr(), 0, 8}})
		if r[0] < 0 {
			th.p.actions.set(sig, old)
			th.result(regs, r[0])
			return
		}
		if old.handler > sigIgn {
			th.undo = th.before(regs)
			th.undo.sig, th.undo.old, th.undo.new = sig, old, act
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
		th.undo = th.before(regs)
		th.setGuestMask(next)
	}
	if a[2] != 0 && !th.write(a[2], le64(old)) {
		th.result(regs, -int64(unix.EFAULT))
		return
	}
	th.resendUnblocked()
	th.result(regs, 0)
}
