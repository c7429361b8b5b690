//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/trap"
)

// robustLimit is ROBUST_LIST_LIMIT, the greatest length of a list of robust futexes that the kernel follows.
const robustLimit = 2048

// openRobust opens the memory of the robust futexes that an ending thread holds (set_robust_list(2)), to which the kernel stores when it ends.
// Other threads wait until it has.
func (th *thread) openRobust() {
	if !th.p.as.tools.active.Load() {
		return
	}
	var list []toolPage
	for _, sp := range th.robustSpans() {
		th.admit(nil, sp, &list)
	}
	if len(list) > 0 {
		th.own(list)
	}
}

// closeFor closes the pages that were open for system calls of threads which have ended with their process, in memory that others share.
func (as *addressSpace) closeFor(ended []*thread) {
	for _, th := range ended {
		for th.busy.Load() { // its handler finds out
			time.Sleep(time.Millisecond)
		}
	}
	as.onThread(func(_ *thread, c caller) error {
		as.tools.mu.Lock()
		defer as.tools.mu.Unlock()
		for _, th := range ended {
			for _, p := range th.admitted {
				p.t.reopen(p.lo, p.hi, -1)
			}
			th.admitted = nil
		}
		return as.apply(c, 0, userLimit)
	})
}

// robustSpans lists the memory of the thread's robust futexes and of their list: struct robust_list_head of linux/futex.h.
func (th *thread) robustSpans() (list []span) {
	at := th.ctx.scratchAddr()
	if failed(th.remote(call{unix.SYS_GET_ROBUST_LIST, [6]uint64{0, at, at + 8}})[0]) {
		return nil
	}
	head := binary.LittleEndian.Uint64(th.ctx.scratch())
	const next, offset, pending, headSize, isPI = 0, 8, 16, 24, 1
	var b [headSize]byte
	if head == 0 || th.read(head, b[:]) < len(b) {
		return nil
	}
	w := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	distance, entry, last := w(offset), w(next)&^isPI, w(pending)&^isPI
	futex := func(entry uint64) {
		if addr := entry + distance; entry != 0 {
			list = append(list, span{addr, addr + 4, trap.Read | trap.Write})
		}
	}
	list = append(list, span{head, head + headSize, trap.Read})
	futex(last)
	for range robustLimit {
		if entry == head || entry == 0 {
			break
		}
		futex(entry)
		list = append(list, span{entry, entry + 8, trap.Read})
		var b [8]byte
		if th.read(entry, b[:]) < len(b) {
			break
		}
		entry = binary.LittleEndian.Uint64(b[:]) &^ isPI
	}
	return list
}

const (
	prGetTIDAddress = 40 // PR_GET_TID_ADDRESS
	futexWakeOp     = 1  // FUTEX_WAKE
)

// clearTID does what the kernel does at the end of a thread: the word that set_tid_address(2) names becomes 0, and who waits
// there wakes. The kernel could not, if a tool forbids that.
func (th *thread) clearTID() {
	if !th.p.as.tools.active.Load() {
		return
	}
	if failed(th.remote(call{unix.SYS_PRCTL, [6]uint64{prGetTIDAddress, th.ctx.scratchAddr()}})[0]) {
		return
	}
	addr := binary.LittleEndian.Uint64(th.ctx.scratch())
	if addr == 0 || !th.p.as.covers(addr, addr+4) {
		return
	}
	th.remote(call{nr: unix.SYS_SET_TID_ADDRESS})
	th.write(addr, make([]byte, 4))
	th.remote(call{unix.SYS_FUTEX, [6]uint64{addr, futexWakeOp, 1}})
}
