//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
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
	case t.access&access == 0:
		th.letThrough(f, t, page, regs)
	default:
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

// step is an instruction that a thread is let do although a tool forbids its access: the pages are open for it, and the thread
// goes on with TF set. Everything that comes instead of the trap of the step ends it too.
type step struct {
	regs  registers // before, with the guest's own TF
	op    byte      // its opcode, if that is one of pushf and popf
	pages []toolPage
}

// toolPage is a piece of memory of a tool that is open.
type toolPage struct {
	t      *pageTool
	lo, hi uint64
}

// Opcodes of instructions that see TF or set it.
const (
	opPushf = 0x9c
	opPopf  = 0x9d
)

// letThrough lets the thread do the instruction at regs.rip, and its next access to page.
func (th *thread) letThrough(f frame, t *pageTool, page uint64, regs registers) {
	if th.step == nil {
		th.step = &step{regs: regs, op: th.flagsOp(regs.rip)}
	}
	th.step.pages = append(th.step.pages, toolPage{t, page, page + pageSize})
	th.openPage(t, page, page+pageSize, 1)
	regs.rflags |= flagTF
	th.returnTo(f, regs)
}

// openPage is letIn for all callers that don't hold mu. If the kernel does not let it, the guest ends: it could not go on, or uses of
// the pages would go unseen. It has no room for more mappings then (vm.max_map_count).
func (th *thread) openPage(t *pageTool, lo, hi uint64, n int) {
	ts := &t.as.tools
	ts.mu.Lock()
	defer ts.mu.Unlock()
	err := t.letIn(th, lo, hi, n)
	if err == nil || th.holeFrom(lo) < hi { // unmapped meanwhile
		return
	}
	what := "let through to"
	if n < 0 {
		what = "kept from"
	}
	th.p.s.fail(th.p, fmt.Errorf("process %d: a thread can't be %s watched memory at %#x: %w", th.p.pid, what, lo, err))
	panic(gone{})
}

// flagsOp is the opcode of the instruction at addr if it is pushf or popf.
func (th *thread) flagsOp(addr uint64) byte {
	var b [2]byte
	n := th.read(addr, b[:])
	op := b[0]
	if n == 2 && op == 0x66 { // of 16 bits
		op = b[1]
	}
	if n > 0 && (op == opPushf || op == opPopf) {
		return op
	}
	return 0
}

// unstepped are the registers of a thread as the guest has them: TF is not that of a step.
func (th *thread) unstepped(regs registers) registers {
	if th.step != nil && th.step.regs.rflags&flagTF == 0 {
		regs.rflags &^= flagTF
	}
	return regs
}

// endStep closes the pages again that were open for a step, and makes regs the guest's own state.
func (th *thread) endStep(regs *registers) {
	s := th.step
	done := regs.rip != s.regs.rip
	if !done || s.op != opPopf {
		*regs = th.unstepped(*regs)
	}
	th.step = nil
	if own := s.regs.rflags & flagTF; done && s.op == opPushf && own == 0 {
		var b [2]byte
		if th.read(regs.gpr[rsp], b[:]) == len(b) {
			binary.LittleEndian.PutUint16(b[:], binary.LittleEndian.Uint16(b[:])&^flagTF)
			th.write(regs.gpr[rsp], b[:])
		}
	}
	th.closePages(s.pages)
}

func (th *thread) closePages(list []toolPage) {
	for _, p := range list {
		th.openPage(p.t, p.lo, p.hi, -1)
	}
}

// stepTold handles the trap of a single step that an instruction has done, if it was one of ours: it reports whether it has
// answered the thread. Else the trap is the guest's.
func (th *thread) stepTold(f frame, ev *event) bool {
	s := th.step
	if s == nil {
		return false
	}
	if ev.regs.rip == s.regs.rip && ev.regs.gpr == s.regs.gpr { // only glue before it is done, no iteration of a string instruction
		th.stepOn(f)
		return true
	}
	own := s.regs.rflags&flagTF != 0
	th.endStep(&ev.regs)
	if !own {
		th.returnTo(f, ev.regs)
	}
	return !own
}

// stepLeft ends a step of a thread that comes with another request than a signal: the instruction is done.
func (th *thread) stepLeft() {
	regs := registers{rflags: th.ctx.u64(abi.RFLAGS)}
	regs.gpr[rsp] = th.ctx.u64(abi.RSP)
	own := th.step.regs.rflags&flagTF != 0
	th.endStep(&regs)
	th.ctx.setU64(abi.RFLAGS, regs.rflags)
	if !own {
		th.arrived = false
	}
}

// uncovered does f, an access of the supervisor on the guest's behalf to a page, with the page open: f could not do it.
// It reports false if the access is none that a tool forbids, or a page cannot be filled.
func (th *thread) uncovered(page uint64, access trap.Access, f func() bool) bool {
	if !th.p.as.tools.active.Load() {
		return false
	}
	var open []toolPage
	defer func() { th.closePages(open) }()
	for {
		t, ours := th.p.as.forbidding(page, access)
		switch {
		case t == nil:
			return ours && f()
		case t.kind == pagerTool && th.inHost: // filling it is another callback
			return false
		case t.kind != watchTool:
			if err := th.provide(t, page); err != nil {
				th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
				return false
			}
		default:
			th.openPage(t, page, page+pageSize, 1)
			open = append(open, toolPage{t, page, page + pageSize})
		}
	}
}

// readCovered reads from a page what read could not, because of a tool.
func (th *thread) readCovered(addr uint64, b []byte) (n int) {
	th.uncovered(addr&^(pageSize-1), trap.Read, func() bool {
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
		poke := func() bool { return th.poke(addr, b[:n]) }
		if !poke() && !th.uncovered(addr&^(pageSize-1), trap.Write, poke) {
			return false
		}
		addr += uint64(n)
		b = b[n:]
	}
	return true
}

// busADRERR is the code of SIGBUS for memory that isn't there.
const busADRERR = 2
