//go:build linux && amd64

package virt

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"xvrun/xv/trap"
)

// forbidding finds the tool that forbids an access to a page which the guest itself permits. Without one, ours tells whether
// the access is permitted by now.
func (as *addressSpace) forbidding(page uint64, access trap.Access) (t *pageTool, ours bool) {
	ts := &as.tools
	ts.mu.Lock()
	defer ts.mu.Unlock()
	need := unix.PROT_READ
	if access == trap.Write {
		need = unix.PROT_WRITE
	}
	r, known := ts.shadow.find(page)
	if !known || r.prot&need == 0 || access == trap.Fetch {
		return nil, false
	}
	if as.permitted(page, r.prot)&need == 0 {
		for _, t := range ts.list {
			if t.forbids(page)&need != 0 {
				return t, true
			}
		}
	}
	return nil, as.kernelPermits(page, r.prot)&need != 0
}

// toolFault handles the fault of an access that a page tool forbids; it reports whether that is so, and the thread is
// answered.
func (th *thread) toolFault(f frame, si *siginfo, regs registers) bool {
	page, access := si.addr()&^(pageSize-1), accessOf(f)
	t, ours := th.p.as.forbidding(page, access)
	if t == nil {
		if ours { // another thread had the page opened
			th.returnTo(f, regs)
		}
		return ours
	}
	ev := event{info: *si, regs: regs, fault: true}
	switch {
	case t.kind != watchTool:
		if err := th.provide(t, page); err != nil {
			th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
			ev.info = faultInfo(int(unix.SIGBUS), busADRERR, si.addr())
			th.deliver(f, ev)
			return true
		}
		th.returnTo(f, regs)
	case t.access&access == 0 || th.wasTold(t, page, regs):
		th.letThrough(f, t, page, regs)
	default:
		if th.step != nil { // others may go on while the host thinks
			th.closeStep()
		}
		c := th.trapContext(f, th.unstepped(regs), trap.Event{
			Pid: th.p.pid, Tid: th.tid, Signal: unix.SIGSEGV, Code: segvACCERR, Addr: si.addr(), Access: access,
		})
		action := th.callHost(func() trap.Action { return t.watch(c) })
		switch {
		case action == trap.Proceed:
			th.adopt(f, c, &ev)
			th.letThrough(f, t, page, ev.regs)
		case !th.act(f, c, &ev, action):
			th.deliver(f, ev)
		}
	}
	return true
}

// provide makes a page accessible for good, as far as its tool, a pager or a tracker, is concerned.
func (th *thread) provide(t *pageTool, page uint64) (err error) {
	ts := &t.as.tools
	if t.kind == pagerTool {
		th.callHost(func() trap.Action {
			err = th.fillPage(t, page)
			return trap.Retry
		})
		return err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return t.wrote(th, page)
}

// fillPage asks the host for the contents of a page. Other threads that want the page wait. The page gets its contents before
// it becomes accessible.
func (th *thread) fillPage(t *pageTool, page uint64) error {
	ts := &t.as.tools
	t.filling.Lock()
	defer t.filling.Unlock()
	ts.mu.Lock()
	_, armed := t.armed.find(page)
	ts.mu.Unlock()
	if !armed {
		return nil
	}
	b := make([]byte, pageSize)
	if err := t.fill(th.p.pid, page, b); err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", th.tid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	if _, err := mem.WriteAt(b, int64(page)); err != nil {
		return err
	}
	th.hostMu.Lock()
	defer th.hostMu.Unlock()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return t.disarm(th, page, page+pageSize)
}

// uncovered does f, an access of the supervisor on the guest's behalf to a page, which f could not do: by force, which f's argument
// then is, or, if that can't be, with the page open. It reports false if the access is none that a tool forbids, or a page cannot be filled.
func (th *thread) uncovered(page uint64, access trap.Access, f func(force bool) bool) bool {
	if !th.p.as.tools.active.Load() {
		return false
	}
	for {
		t, ours := th.p.as.forbidding(page, access)
		switch {
		case t == nil:
			return ours && f(false)
		case t.kind == pagerTool && th.inHost: // filling it is another callback
			return false
		case t.kind != watchTool:
			if err := th.provide(t, page); err != nil {
				th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
				return false
			}
		case f(true):
			return true
		case access == trap.Write && !th.owns():
			th.own([]toolPage{{t, page, page + pageSize}})
			defer th.disown()
		default:
			open := []toolPage{{t, page, page + pageSize}}
			th.openPages(open)
			defer th.closePages(open)
		}
	}
}

// readCovered reads from a page what read could not, because of a tool.
func (th *thread) readCovered(addr uint64, b []byte) (n int) {
	th.uncovered(addr&^(pageSize-1), trap.Read, func(force bool) bool {
		if force {
			n = th.force(os.O_RDONLY, func(mem *os.File) (int, error) { return mem.ReadAt(b, int64(addr)) })
			return n == len(b)
		}
		n = th.peek(addr, b)
		return true
	})
	return n
}

// writeCovered writes what write could not, because of tools.
func (th *thread) writeCovered(addr uint64, b []byte) bool {
	if !th.p.as.tools.active.Load() {
		return false
	}
	for len(b) > 0 {
		n := min(len(b), int(pageSize-addr%pageSize))
		poke := func(force bool) bool {
			if force {
				return th.force(os.O_WRONLY, func(mem *os.File) (int, error) { return mem.WriteAt(b[:n], int64(addr)) }) == n
			}
			return th.poke(addr, b[:n])
		}
		if !poke(false) && !th.uncovered(addr&^(pageSize-1), trap.Write, poke) {
			return false
		}
		addr += uint64(n)
		b = b[n:]
	}
	return true
}

// force accesses memory whatever its protection, which the kernel lets xv for all but writes to shared memory. It returns how many
// bytes.
func (th *thread) force(flag int, access func(mem *os.File) (int, error)) int {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", th.tid), flag, 0)
	if err != nil {
		return 0
	}
	defer mem.Close()
	n, err := access(mem)
	if err != nil {
		return 0
	}
	return n
}

// busADRERR is the code of SIGBUS for memory that isn't there.
const busADRERR = 2
