//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Some system calls end with EINTR when nothing has happened that the guest sees: a ptrace stop interrupts them (signal(7),
// "Interruption of system calls and library functions by stop signals"), or a signal whose default action is none, which the kernel
// would not even have sent if the thread that it was for had not blocked all signals in the agent. Had a handler been called, the thread would have
// come by another way. So they are done once more.

// maxRestarts bounds how often, but for what halt has interrupted: EINTR may be the answer of a file system.
const maxRestarts = 100

// timedWaits says where the time limits of system calls are that the kernel does not begin again with the time that is left,
// and what they return when that has passed.
var timedWaits = map[uintptr]timedWait{
	unix.SYS_EPOLL_WAIT:      {3, true, 0},
	unix.SYS_EPOLL_PWAIT:     {3, true, 0},
	unix.SYS_EPOLL_PWAIT2:    {3, false, 0},
	unix.SYS_IO_GETEVENTS:    {4, false, 0},
	unix.SYS_IO_PGETEVENTS:   {4, false, 0},
	unix.SYS_RT_SIGTIMEDWAIT: {2, false, -int64(unix.EAGAIN)},
	unix.SYS_SEMTIMEDOP:      {3, false, -int64(unix.EAGAIN)},
}

type timedWait struct {
	arg    int   // argument with the limit
	millis bool  // in milliseconds, negative: none; otherwise it is the address of a struct timespec, or 0
	over   int64 // result
}

// interrupted answers a system call that was ended with EINTR although no handler was called. close(2) has closed the file.
// When it began is not known of one that the gate did: it gets its whole time again, and ends at the first interruption after that.
func (th *thread) interrupted(regs registers, p passed) {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	halted := th.halted.Swap(false)
	w, timed := timedWaits[p.call.nr]
	switch {
	case timed && th.over(w, p):
		th.endInterrupted(&regs, w.over)
	case p.call.nr == unix.SYS_CLOSE || p.restarts == maxRestarts && !halted:
		th.endInterrupted(&regs, -int64(unix.EINTR))
	case th.admitAgain(&regs, p.call):
		if !halted {
			p.restarts++
		}
		th.pass(regs, p)
	}
}

// endInterrupted ends a system call, of which an attempt may have been made, with its result.
func (th *thread) endInterrupted(regs *registers, result int64) {
	th.takeHeldBack()
	th.result(regs, result)
}

// over reports whether the time limit of a system call has passed since it was interrupted first.
func (th *thread) over(w timedWait, p passed) bool {
	waited, v := time.Since(p.since), p.call.args[w.arg]
	if w.millis {
		limit := int32(v)
		return limit >= 0 && waited >= time.Duration(limit)*time.Millisecond
	}
	var ts [16]byte
	if v == 0 || th.read(v, ts[:]) < len(ts) {
		return false
	}
	sec, nsec := binary.LittleEndian.Uint64(ts[:]), binary.LittleEndian.Uint64(ts[8:])
	return waited >= time.Duration(min(sec, 1<<32))*time.Second+time.Duration(min(nsec, 1e9))
}
