//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/xv/trap"
)

// System calls and page tools. The kernel fails with EFAULT, or transfers less, where a tool forbids its access. So the
// memory of tools is guarded (see guard): a system call with a pointer to it is handed off, and the tools are told before it
// is done. System calls that change mappings keep the tools' protections.

// admitCall tells the tools of the memory that the system call k may use, and opens it until the thread's next request, or has other memory
// used instead. It
// reports false if the call must not be done: then it is answered.
func (th *thread) admitCall(regs *registers, k call) bool {
	th.armings = th.p.as.tools.armings.Load()
	return th.admitSpans(regs, regs, k)
}

// admitAgain is admitCall for a system call that was interrupted: the tools are not told once more, unless there is a new one.
func (th *thread) admitAgain(regs *registers, k call) bool {
	if th.armings != th.p.as.tools.armings.Load() {
		return th.admitCall(regs, k)
	}
	return th.admitSpans(regs, nil, k)
}

// admitSpans is admitCall with the registers that the tools are shown, nil if they are not to be told.
func (th *thread) admitSpans(regs, shown *registers, k call) bool {
	if !th.p.as.tools.active.Load() {
		return true
	}
	var list []toolPage
	for _, sp := range th.spans(k) {
		if !th.admit(shown, sp, &list) {
			if !th.p.dead.Load() {
				th.endInterrupted(regs, -int64(unix.EFAULT))
			}
			return false
		}
	}
	if !th.bounceOff(k, list) {
		th.openAdmitted(list, waitsForFutex(k))
	}
	return true
}

// waitsForFutex reports whether a system call looks at memory before it sleeps, and never again.
func waitsForFutex(k call) bool {
	cmd := k.args[1] & futexCmdMask
	return k.nr == unix.SYS_FUTEX && (cmd == futexWaitCmd || cmd == futexWaitBitset)
}

// barred reports whether a tool that has armed memory since the system call k was admitted may have kept the kernel from it.
func (th *thread) barred(k call) bool {
	return th.armings != th.p.as.tools.armings.Load() && th.touchesTools(k)
}

// touchesTools reports whether the system call k may use memory that tools are about: it began before they were.
func (th *thread) touchesTools(k call) bool {
	return th.p.as.tools.active.Load() && slices.ContainsFunc(th.spans(k), func(sp span) bool {
		lo, hi, ok := pages(sp.lo, sp.hi-sp.lo)
		return ok && th.p.as.covers(lo, hi)
	})
}

// admit does it for one piece of memory, and adds what is to be opened to list.
func (th *thread) admit(regs *registers, sp span, list *[]toolPage) bool {
	lo, hi, ok := pages(sp.lo, sp.hi-sp.lo)
	if !ok {
		return true
	}
	for _, p := range th.p.as.tools.armedIn(lo, hi) {
		switch {
		case p.t.kind == dirtyTool && sp.access&trap.Write == 0:
			continue
		case p.t.kind != watchTool:
			for page := p.lo; page < p.hi; page += pageSize {
				if err := th.provide(p.t, page); err != nil {
					th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
					return false
				}
			}
			continue
		case p.t.access&sp.access != 0 && regs != nil && !th.askWatch(p.t, regs, max(p.lo, sp.lo), p.t.access&sp.access):
			return false
		}
		*list = append(*list, p)
	}
	return true
}

// openAdmitted opens pages for a system call. Other threads wait until it is done, or sleeps and they want to go on. With brief the pages
// are closed then.
func (th *thread) openAdmitted(list []toolPage, brief bool) {
	th.lent = lendOpen
	if slices.ContainsFunc(list, func(p toolPage) bool { return !p.t.loose }) {
		if brief {
			th.lent = lendBriefly
			th.own(list)
			return
		}
		th.own(nil)
	}
	th.admitted = list
	th.openPages(list)
}

// askWatch asks the host whether a system call may use memory that it watches.
func (th *thread) askWatch(t *pageTool, regs *registers, addr uint64, access trap.Access) bool {
	c := trap.New(&hostView{th: th}, trap.Event{
		Pid: th.p.pid, Tid: th.tid, Signal: unix.SIGSEGV, Code: segvACCERR, Addr: addr, Access: access, SystemCall: true,
	}, toHost(regs))
	action := th.callHost(func() trap.Action { return t.watch(c) })
	c.End()
	if action == trap.Kill {
		th.killBy(int(unix.SIGSEGV))
		panic(gone{})
	}
	return action == trap.Proceed
}

// closeAdmitted closes what was opened for a system call.
func (th *thread) closeAdmitted() {
	list := th.admitted
	th.admitted = nil
	th.closePages(list)
	owned := th.disown()
	if th.lent == lendBriefly && !owned {
		th.lent = lendOver
	} else {
		th.lent = lendOpen
	}
}

// lending tells of the pages that are open for a system call.
type lending uint8

const (
	lendOpen    lending = iota // until it is done
	lendBriefly                // until it sleeps, see openAdmitted
	lendOver                   // it has slept: if the kernel has met the pages since, the call is to be done again
)

// protectMemory does the mprotect k, which the kernel would do, with the tools' protections kept.
func (th *thread) protectMemory(k call) int64 {
	as, ts := th.p.as, &th.p.as.tools
	lo, hi, ok := pages(k.args[0], k.args[1])
	if !ts.active.Load() || !ok {
		return th.remote(k)[0]
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	covered := ts.shadow.within(lo, hi)
	if len(covered) == 0 {
		return th.remote(k)[0]
	}
	prot := int(k.args[2] & (unix.PROT_READ | unix.PROT_WRITE))
	for _, r := range covered {
		ts.shadow = ts.shadow.with(r.lo, r.hi, prot)
	}
	var calls []call
	piece := func(lo, hi uint64) {
		if lo < hi {
			part := k
			part.args[0], part.args[1] = lo, hi-lo
			calls = append(calls, part)
		}
	}
	at := lo
	for _, r := range covered {
		piece(at, r.lo)
		for _, c := range as.protections(r.lo, r.hi) {
			c.nr, c.args[3] = k.nr, k.args[3]
			calls = append(calls, c)
		}
		at = r.hi
	}
	piece(at, hi)
	for i, r := range th.remote(calls...) {
		if failed(r) { // as in the kernel, what is before is done
			for _, c := range covered.within(calls[i].args[0], hi) {
				ts.shadow = ts.shadow.with(c.lo, c.hi, c.prot)
			}
			return r
		}
	}
	return 0
}

// covers reports whether tools are about any of [lo, hi).
func (as *addressSpace) covers(lo, hi uint64) bool {
	ts := &as.tools
	if !ts.active.Load() {
		return false
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.shadow.overlaps(lo, hi)
}

// armedIn lists the memory of [lo, hi) that tools are about.
func (ts *pageTools) armedIn(lo, hi uint64) (list []toolPage) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.list {
		for _, r := range t.armed.within(lo, hi) {
			list = append(list, toolPage{t, r.lo, r.hi})
		}
	}
	return list
}

// uncoverAll ends what tools are about in [lo, hi), which is about to be moved: pages that have to be filled are.
func (th *thread) uncoverAll(lo, hi uint64) {
	as, ts := th.p.as, &th.p.as.tools
	if !as.covers(lo, hi) {
		return
	}
	list := ts.armedIn(lo, hi)
	for _, p := range list {
		for page := p.lo; page < p.hi && p.t.kind == pagerTool; page += pageSize {
			if err := th.provide(p.t, page); err != nil {
				th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
			}
		}
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, p := range list {
		if err := p.t.disarm(th, p.lo, p.hi); err != nil {
			th.p.s.trace("%d: page tools: %v", th.tid, err)
		}
	}
}

// admitTIDs prepares for the ids of a new thread, which the kernel stores where the system call k of the clone family says. It
// returns where the new thread's own id goes, 0 if nowhere.
func (th *thread) admitTIDs(k call, flags uint64) (own uint64) {
	if !th.p.as.tools.active.Load() {
		return 0
	}
	var list []toolPage
	defer func() { th.openAdmitted(list, false) }()
	parent, child := k.args[2], k.args[3]
	if k.nr == unix.SYS_CLONE3 {
		var b [cloneArgsMin]byte
		if th.read(k.args[0], b[:]) < len(b) {
			return 0
		}
		const pidfd, childTID, parentTID = 8, 16, 24
		w := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
		parent, child = w(parentTID), w(childTID)
		th.admit(nil, span{w(pidfd), w(pidfd) + 4, trap.Write}, &list)
		th.admit(nil, span{k.args[0], k.args[0] + k.args[1], trap.Read}, &list)
	}
	if flags&(unix.CLONE_PARENT_SETTID|unix.CLONE_PIDFD) != 0 {
		th.admit(nil, span{parent, parent + 4, trap.Write}, &list)
	}
	if flags&unix.CLONE_CHILD_SETTID == 0 {
		return 0
	}
	th.admit(nil, span{child, child + 4, trap.Write}, &list)
	return child
}
