//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// Most system calls that a ptrace stop interrupts are begun again by the kernel, with the time that is left. Some end with EINTR instead
// (signal(7), "Interruption of system calls and library functions by stop signals"). Where no signal is the reason
// they are made to begin again here. The kernel doesn't say how much of their time is left: they get the whole again, but end
// at the first stop that comes when that has passed since the first one.

// timedWaits says where the time limits of such system calls are, and what they return when that has passed.
var timedWaits = map[int64]timedWait{
	unix.SYS_EPOLL_WAIT:      {r10, true, 0},
	unix.SYS_EPOLL_PWAIT:     {r10, true, 0},
	unix.SYS_EPOLL_PWAIT2:    {r10, false, 0},
	unix.SYS_IO_GETEVENTS:    {r8, false, 0},
	unix.SYS_IO_PGETEVENTS:   {r8, false, 0},
	unix.SYS_RT_SIGTIMEDWAIT: {rdx, false, -int64(unix.EAGAIN)},
	unix.SYS_SEMTIMEDOP:      {r10, false, -int64(unix.EAGAIN)},
}

type timedWait struct {
	reg    int   // register with the limit
	millis bool  // in milliseconds, negative: none; otherwise it is the address of a struct timespec, or 0
	over   int64 // result
}

// interruption is a system call that was stopped.
type interruption struct {
	nr   int64
	next uint64 // address after it
	at   time.Time
}

// restart makes a system call that the stop has ended with EINTR begin again.
func (h *halted) restart() {
	r := &h.regs
	nr := int64(r.Orig_rax)
	if int64(r.Rax) != -int64(unix.EINTR) || nr < 0 || h.signalled() {
		return
	}
	th := h.th
	next := th.ctx.u64(abi.Next)
	if th.stopped.nr != nr || th.stopped.next != next {
		th.stopped = interruption{nr, next, time.Now()}
	}
	r.Orig_rax = ^uint64(0)
	if w, ok := timedWaits[nr]; ok && w.passed(h, time.Since(th.stopped.at)) {
		r.Rax = uint64(w.over)
		th.stopped = interruption{}
		return
	}
	r.Rax = uint64(nr)
	r.Rip -= syscallLen
}

// passed reports whether so much time is more than the limit.
func (w timedWait) passed(h *halted, waited time.Duration) bool {
	v := map[int]uint64{rdx: h.regs.Rdx, r8: h.regs.R8, r10: h.regs.R10}[w.reg]
	if w.millis {
		limit := int32(v)
		return limit >= 0 && waited >= time.Duration(limit)*time.Millisecond
	}
	var ts [16]byte
	if v == 0 || h.th.read(v, ts[:]) < len(ts) {
		return false
	}
	sec, nsec := binary.LittleEndian.Uint64(ts[:]), binary.LittleEndian.Uint64(ts[8:])
	return waited >= time.Duration(min(sec, 1<<32))*time.Second+time.Duration(min(nsec, 1e9))
}

// signalled reports whether a signal is pending that will be delivered to the thread.
func (h *halted) signalled() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.tid))
	if err != nil {
		return false
	}
	pending := uint64(0)
	for _, name := range []string{"\nSigPnd:", "\nShdPnd:"} {
		_, rest, _ := strings.Cut(string(text), name)
		line, _, _ := strings.Cut(rest, "\n")
		set, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		pending |= set
	}
	return pending&^h.mask != 0
}
