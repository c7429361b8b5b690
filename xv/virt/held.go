//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// The kernel blocks no signal of abi.SyncMask while translated code runs, since it is by them that faults come. Those that
// processes send while the guest blocks them are held by the supervisor. For the length of each system call they are lent to
// the kernel: pending, under the guest's whole mask. So sigwaitinfo, sigsuspend, a signalfd and poll on one find
// them. What is left of them comes again when the call is done.

// keep holds a signal that the guest blocks. One that was sent to the process goes to a thread that does not block it.
func (th *thread) keep(si siginfo) {
	if si.code() == siUser && th.forward(si) {
		return
	}
	same := func(other siginfo) bool { return other.signo() == si.signo() }
	if !slices.ContainsFunc(th.held, same) { // a standard signal is pending once (signal(7))
		th.setHeld(append(th.held, si))
	}
}

// setHeld replaces the held signals. While there are any the gate hands off every system call.
func (th *thread) setHeld(held []siginfo) {
	th.held = held
	flag := uint32(0)
	if len(held) > 0 {
		flag = 1
	}
	th.ctx.setU32(abi.Held, flag)
}

// resendUnblocked queues the held signals again that the guest's mask no longer blocks.
func (th *thread) resendUnblocked() {
	mask := th.guestMask()
	var rest []siginfo
	for _, si := range th.held {
		if mask&bit(int(si.signo())) != 0 {
			rest = append(rest, si)
		} else {
			th.queue(si)
		}
	}
	th.setHeld(rest)
}

// lendHeld makes the held signals pending in the kernel, by system calls at the start of the vector, and returns how many.
func (th *thread) lendHeld() int {
	if len(th.held) == 0 {
		return 0
	}
	scratch, at := th.ctx.scratch(), th.ctx.scratchAddr()
	calls := []call{{unix.SYS_RT_SIGPROCMASK, [6]uint64{unix.SIG_SETMASK, at, 0, 8}}}
	off := copy(scratch, le64(th.guestMask()))
	for _, si := range th.held { // at most one of each
		calls = append(calls, call{unix.SYS_RT_TGSIGQUEUEINFO,
			[6]uint64{uint64(th.ctx.u32(abi.PID)), uint64(th.ctx.u32(abi.TID)), uint64(si.signo()), at + uint64(off)}})
		off += copy(scratch[off:], si[:])
	}
	for i, k := range calls {
		th.ctx.setCall(abi.Vector+i*abi.CallSize, k)
	}
	th.setHeld(nil)
	return len(calls)
}

// takeHeldBack is called after a system call in which signals may have been lent: before the guest goes on, the kernel's mask lets
// them through again.
func (th *thread) takeHeldBack() {
	if th.ctx.u64(abi.Blocked)&abi.SyncMask != 0 {
		th.ctx.setU32(abi.SetMask, 1)
	}
}

// forward passes a signal, which was sent to the process, on to a thread that does not block it, as the kernel would have. It
// reports whether there is one. Only to itself may a thread send a siginfo with SI_USER.
func (th *thread) forward(si siginfo) bool {
	code := int32(forwardCode)
	binary.LittleEndian.PutUint32(si[8:], uint32(code))
	binary.LittleEndian.PutUint64(si[24:], forwardValue)
	s := th.p.s
	s.mu.Lock()
	threads := slices.Collect(maps.Keys(th.p.threads))
	s.mu.Unlock()
	for _, other := range threads {
		if other == th || other.guestMask()&bit(int(si.signo())) != 0 {
			continue
		}
		copy(th.ctx.scratch(), si[:])
		r := th.remote(call{unix.SYS_RT_TGSIGQUEUEINFO,
			[6]uint64{uint64(th.ctx.u32(abi.PID)), uint64(other.ctx.u32(abi.TID)), uint64(si.signo()), th.ctx.scratchAddr()}})
		if r[0] == 0 {
			return true
		}
	}
	return false
}

// forwarded returns a signal as it was before another thread passed it on.
func forwarded(si siginfo) siginfo {
	if si.code() == forwardCode && binary.LittleEndian.Uint64(si[24:]) == forwardValue {
		binary.LittleEndian.PutUint32(si[8:], siUser)
		binary.LittleEndian.PutUint64(si[24:], 0)
	}
	return si
}

// forwardCode is the si_code of a signal that is passed on, and forwardValue its si_value. The kernel uses none of these.
const (
	forwardCode  = -0x7877
	forwardValue = 0x7866_6f72_7761_7264
)
