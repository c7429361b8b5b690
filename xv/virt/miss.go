//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/tcache"
	"xvrun/xv/translate"
	"xvrun/xv/x86"
)

// linkMiss answers a thread that left a fragment through the exit stub of a direct branch.
func (th *thread) linkMiss() {
	defer th.timed(time.Now())
	s := th.p.s
	s.counters.linkMisses.Add(1)
	stub := th.exitStub()
	// rcx is in S where a branch leaves its region, and perhaps not in its register.
	th.ctx.setU64(abi.RAX+8*rcx, th.ctx.u64(abi.S))
	regs := th.ctx.registers()
	if th.draining() && th.retryBranch(stub, regs) {
		return
	}
	if th.ctx.u32(abi.Fuel) == 0 {
		th.sampled(stub, regs.gpr[rsp])
	}
	resume, target, isCall, err := th.takeLink(stub)
	if s.cfg.Trace != nil {
		s.trace("%d: branch to %#x: %#x %v", th.tid, target, resume, errText(err))
	}
	switch {
	case err == nil:
		th.noteAge()
		th.ctx.setU64(abi.RIP, resume)
		regs.rip = target
		if isCall {
			regs.gpr[rsp] += 8
		}
		th.tellCaller(&regs)
		if resume == 0 { // see zero
			th.ctx.setU64(abi.RAX+8*rsp, regs.gpr[rsp])
		}
		th.resuming = regs
		th.reply(abi.OpResume, 0)
	case errors.Is(err, tcache.ErrStub):
		s.fail(th.p, fmt.Errorf("process %d: %#x is no exit stub: the guest damaged its thread context", th.p.pid, stub))
	default:
		if isCall {
			regs.gpr[rsp] += 8
		}
		regs.rip = target
		th.raiseLater(th.fetchFault(target, err), regs)
	}
}

// exitStub is the cache offset of the exit stub that the thread has left.
func (th *thread) exitStub() uint32 { return th.ctx.u32(abi.Stub) }

// retryBranch lets the thread continue at the direct branch that has this exit stub; it reports whether
// there is one.
func (th *thread) retryBranch(stub uint32, regs registers) bool {
	rec, ok := th.p.as.enter().space.Recover(stub)
	th.p.as.exit()
	if !ok {
		return false
	}
	regs.rip = rec.RIP
	regs.gpr[rsp] += uint64(int64(rec.RSPAdd))
	th.resumeAt(regs)
	return true
}

// takeLink binds the link of an exit stub. If the cache is full, or the thread had to wait for the code, the branch is answered
// without binding it, since the stub's memory may be used again meanwhile.
func (th *thread) takeLink(stub uint32) (resume, target uint64, isCall bool, err error) {
	as := th.p.as
	func() {
		c := as.enter()
		defer as.exit()
		th.absent = 0
		var off uint32
		off, target, isCall, err = c.space.TakeLink(codeReader{th}, stub)
		resume = c.home.Cache() + uint64(off)
	}()
	if !errors.Is(err, tcache.ErrFull) && (err == nil || errors.Is(err, tcache.ErrStub) || !th.awaitPage()) {
		return resume, target, isCall, err
	}
	if isCall {
		resume, err = th.lookup(target, func(sp *tcache.Space) (uint32, error) { return sp.FillCall(codeReader{th}, target) })
	} else {
		resume, err = th.jump(target)
	}
	return resume, target, isCall, err
}

// timed counts the time that a miss took.
func (th *thread) timed(start time.Time) {
	th.p.s.counters.translation.Add(int64(time.Since(start)))
}

// jump returns the cache address at which th can continue at the original address orig.
func (th *thread) jump(orig uint64) (uint64, error) {
	return th.lookup(orig, func(sp *tcache.Space) (uint32, error) { return sp.Jump(codeReader{th}, orig) })
}

// resumeAt lets th continue with the original state regs.
func (th *thread) resumeAt(regs registers) {
	cache, err := th.jump(regs.rip)
	if err != nil {
		th.raiseLater(th.fetchFault(regs.rip, err), regs)
		return
	}
	th.resuming = regs
	th.ctx.setRegisters(&regs, cache)
	th.reply(abi.OpResume, 0)
}

// tableMiss resolves an indirect branch that found no table entry; rip of the original state is its
// target. It returns where to continue and whether that is D of the target (the extra word of a call is
// still on the stack).
func (th *thread) tableMiss(target uint64, isCall bool) (uint64, error) {
	defer th.timed(time.Now())
	s := th.p.s
	var cache uint64
	var err error
	if isCall {
		s.counters.callMisses.Add(1)
		cache, err = th.lookup(target, func(sp *tcache.Space) (uint32, error) { return sp.FillCall(codeReader{th}, target) })
	} else {
		s.counters.jumpMisses.Add(1)
		cache, err = th.lookup(target, func(sp *tcache.Space) (uint32, error) { return sp.FillJump(codeReader{th}, target) })
	}
	th.noteAge()
	if s.cfg.Trace != nil {
		s.trace("%d: indirect branch to %#x (call %v): %#x %v", th.tid, target, isCall, cache, errText(err))
	}
	return cache, err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// agentFault ends a process in which the agent itself faulted.
func (th *thread) agentFault() {
	f, err := th.frame()
	if err != nil {
		th.p.s.fail(th.p, err)
		return
	}
	th.p.s.fail(th.p, fmt.Errorf("defect of xv: the agent of process %d faulted at %#x, address %#x", th.p.pid, f.reg(frRIP), f.reg(frCR2)))
}

// fetchFault is the fault of executing at addr, where err is why that can't be translated.
func (th *thread) fetchFault(addr uint64, err error) fault {
	var d *translate.DecodeError
	if errors.Is(err, x86.ErrTooLong) {
		return protection(0)
	}
	if errors.As(err, &d) && len(d.Bytes) > 0 && !errors.Is(d.Err, x86.ErrTruncated) {
		return fault{info: faultInfo(int(unix.SIGILL), illOPN, addr), words: trapWords{trap: trapUD}}
	}
	if d != nil { // the instruction goes on where nothing can be executed
		addr += uint64(len(d.Bytes))
	}
	ft := fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, addr), words: trapWords{trapPF, pfUserFetch, addr}}
	var b [1]byte
	if th.mapped(addr) {
		ft.info = faultInfo(int(unix.SIGSEGV), segvACCERR, addr)
		if th.read(addr, b[:]) == 1 {
			ft.words.err |= pfPresent
		}
	}
	if addr > userLimit { // the kernel doesn't say which of its own addresses are mapped
		ft.words.err |= pfPresent
	}
	return ft
}

// mapped reports whether there is memory of the guest at addr, whatever its protection.
func (th *thread) mapped(addr uint64) bool {
	vmas, err := th.maps()
	home := th.home()
	return err == nil && slices.ContainsFunc(vmas, func(v loader.VMA) bool { return v.Contains(addr) && !isOurs(home, v) })
}
