//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"
	"slices"

	"xvrun/xv/agent/abi"
)

// step is an instruction that a thread is let do although tools forbid its accesses: the pages are open for it, and the thread
// goes on with TF set, all signals blocked but kicks and those that instructions raise. Everything that comes instead of the trap of the step ends it too. Where the pages
// can't be open that long, or the thread has to come back first, the instruction faults again: then the tools are not told once more.
type step struct {
	regs  registers // before, with the guest's own TF
	op    byte      // its opcode, if that is one of pushf and popf
	pages []toolPage
	open  bool      // the pages are, for other threads too
	later []siginfo // signals that processes have sent, for when it is done
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

// startsAt reports whether the step has done nothing yet in the state regs: its instruction is not done, and no iteration of a string
// instruction.
func (s *step) startsAt(regs *registers) bool {
	return regs.rip == s.regs.rip && regs.gpr == s.regs.gpr
}

// wasTold reports whether the instruction at regs.rip was let do its access to a page.
func (th *thread) wasTold(t *pageTool, page uint64, regs registers) bool {
	return th.step != nil && th.step.startsAt(&regs) && slices.Contains(th.step.pages, toolPage{t, page, page + pageSize})
}

// letThrough lets the thread do the instruction at regs.rip, and its next access to page.
func (th *thread) letThrough(f frame, t *pageTool, page uint64, regs registers) {
	if th.step == nil {
		th.step = &step{regs: regs, op: th.flagsOp(regs.rip)}
	}
	th.closeStep()
	s := th.step
	if p := (toolPage{t, page, page + pageSize}); !slices.Contains(s.pages, p) {
		s.pages = append(s.pages, p)
	}
	cache, err := th.jump(regs.rip)
	switch {
	case err != nil:
		th.raise(f, th.fetchFault(regs.rip, err), regs)
		return
	case cache != 0: // else it comes again, see zero
		th.openStep()
		regs.rflags |= flagTF
	}
	th.sigreturn(f, &regs, cache)
}

// openStep opens the pages of the step: for the thread alone, unless no tool asks for that.
func (th *thread) openStep() {
	s := th.step
	if !slices.ContainsFunc(s.pages, func(p toolPage) bool { return !p.t.loose }) {
		s.open = true
		th.openPages(s.pages)
		return
	}
	th.own(s.pages)
}

// closeStep closes the pages that are open for the step.
func (th *thread) closeStep() {
	th.disown()
	if s := th.step; s.open {
		s.open = false
		th.closePages(s.pages)
	}
}

// own opens pages for the thread as the owner of exclusive. If it takes long they are closed before its time is up.
func (th *thread) own(pages []toolPage) {
	x := &th.p.as.tools.exclusive
	x.acquire(th)
	x.openFor(th, pages)
	th.openPages(pages)
}

// disown ends the thread's time as the owner of exclusive. It reports false if that is over already.
func (th *thread) disown() bool {
	x := &th.p.as.tools.exclusive
	pages, ok := x.take(th, nil)
	if ok {
		th.closePages(pages)
		x.release(th.p.as)
	}
	return ok
}

// owns reports whether pages are open for the thread alone.
func (th *thread) owns() bool {
	return th.p.as.tools.exclusive.owner.Load() == th || th.step != nil && th.step.open
}

func (th *thread) openPages(list []toolPage) {
	for _, p := range list {
		th.openPage(p.t, p.lo, p.hi, 1)
	}
}

func (th *thread) closePages(list []toolPage) {
	for _, p := range list {
		th.openPage(p.t, p.lo, p.hi, -1)
	}
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
	if own := s.regs.rflags & flagTF; done && s.op == opPushf && own == 0 {
		var b [2]byte
		if th.read(regs.gpr[rsp], b[:]) == len(b) {
			binary.LittleEndian.PutUint16(b[:], binary.LittleEndian.Uint16(b[:])&^flagTF)
			th.write(regs.gpr[rsp], b[:])
		}
	}
	th.closeStep()
	if !done || s.op != opPopf {
		*regs = th.unstepped(*regs)
	}
	th.step = nil
	for _, si := range s.later {
		th.queue(si)
	}
}

// stepFirst lets the step go on before a signal that a process has sent, or a kick.
func (th *thread) stepFirst(f frame, si siginfo) {
	same := func(other siginfo) bool { return other.signo() == si.signo() && si.signo() < int32(kickSignal) }
	if !th.isKick(&si) && !slices.ContainsFunc(th.step.later, same) { // a standard signal is pending once (signal(7))
		th.step.later = append(th.step.later, si)
	}
	th.stepOn(f)
}

// stepTold handles the trap of a single step that an instruction has done, if it was one of ours: it reports whether it has
// answered the thread. Else the trap is the guest's.
func (th *thread) stepTold(f frame, ev *event) bool {
	s := th.step
	if s == nil {
		return false
	}
	if s.startsAt(&ev.regs) { // only glue before it is done, no iteration of a string instruction
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
