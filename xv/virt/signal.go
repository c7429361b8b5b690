//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
	"xvrun/xv/x86"
)

// signal answers a thread that a signal interrupted. First the original program's state is found; then
// the signal is a trap of xv's own, or it is the guest's.
func (th *thread) signal() {
	s := th.p.s
	s.counters.traps.Add(1)
	th.ctx.setU32(abi.InGate, 0)
	f, err := th.frame()
	if err != nil {
		s.fail(th.p, err)
		return
	}
	si := forwarded(f.info())
	if r := th.raising; r != nil {
		th.raising = nil
		if f.reg(frRIP) != 0 || unix.Signal(si.signo()) != unix.SIGSEGV { // came first; it is delivered on top
			th.queue(si)
		}
		r.words.store(f)
		th.deliver(f, r.event)
		return
	}
	regs, pos, err := th.original(f)
	if err != nil {
		s.fail(th.p, err)
		return
	}
	if s.cfg.Trace != nil {
		s.trace("%d: signal %d code %d address %#x at %#x, original %#x", th.tid, si.signo(), si.code(), si.addr(), f.reg(frRIP), regs.rip)
	}
	if pos == atCheck && !isStep(f, &si) {
		f.setXMM01(th.ctx.mem[abi.Vectors : abi.Vectors+32])
	}
	if th.step != nil && !isStep(f, &si) && !th.step.startsAt(&regs) { // its instruction is done
		th.endStep(&regs)
	}
	ev := event{info: si, regs: regs, inCall: pos == atCallEnd}
	if th.step != nil && !isStep(f, &si) && !isFault(&si) {
		th.stepFirst(f, si)
		return
	}
	if th.isKick(&si) {
		th.notInterrupted(&ev)
		th.returnTo(f, ev.regs)
		return
	}
	if isStep(f, &si) {
		if th.stepTrap(f, pos, &ev) || th.stepTold(f, &ev) {
			return
		}
	} else if pos.faults() && isFault(&si) {
		ev.fault = true
		if th.handleTrap(f, &si, regs, pos) {
			return
		}
	}
	th.deliver(f, ev)
}

// isFault reports whether the signal says that an instruction raised it. A process can send such a
// siginfo to itself; but it does so by a system call.
func isFault(si *siginfo) bool {
	switch unix.Signal(si.signo()) {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGTRAP:
		return si.code() > 0
	}
	return false
}

// handleTrap handles a fault that is xv's own business; it reports whether it has answered the thread.
func (th *thread) handleTrap(f frame, si *siginfo, regs registers, pos position) bool {
	switch pos {
	case atMiss, atCallMiss:
		return th.missTrap(f, regs, pos == atCallMiss)
	case atStale:
		th.returnTo(f, regs)
		return true
	case atTable:
		return th.tableTrap(f, regs, f.reg(frRCX), true)
	case atHash:
		return th.tableTrap(f, regs, th.ctx.u64(abi.T), false)
	case atLookup:
		th.returnTo(f, regs)
		return true
	case atAccess: // the supervisor does the system call
		th.sigreturn(f, &regs, th.home().Agent()+agent.GateAgain)
		return true
	}
	if pos == atCode && si.addr() == f.reg(frRSP)-8 && th.callTrap(f, regs) {
		return true
	}
	if unix.Signal(si.signo()) == unix.SIGBUS && si.code() == busADRALN && pos == atCode && th.tighten(f, regs) {
		return true
	}
	if unix.Signal(si.signo()) != unix.SIGSEGV || si.code() != segvACCERR {
		return false
	}
	if pos == atCode && th.p.as.tools.active.Load() && th.toolFault(f, si, regs) {
		return true
	}
	if th.p.as.isProtected(si.addr()) {
		th.writeTrap(f, si.addr(), regs)
		return true
	}
	if f.reg(frErr)&pfWrite != 0 && th.writable(si.addr()) {
		// Two threads wrote to a protected page at the same time, and the other one's trap came first; or the page got
		// another protection since.
		th.returnTo(f, regs)
		return true
	}
	return false
}

// missTrap continues an indirect branch that went to address 0. A target that can't be executed is the
// guest's fault.
func (th *thread) missTrap(f frame, regs registers, isCall bool) bool {
	if th.vsyscall(f, &regs) {
		return true
	}
	cache, err := th.tableMiss(regs.rip, isCall)
	if err != nil {
		th.raise(f, th.fetchFault(regs.rip, err), regs)
		return true
	}
	if cache == 0 { // see zero: the miss comes again
		th.reply(abi.OpSigreturn, 0)
		return true
	}
	th.alias(f, regs.rip)
	th.tellCaller(&regs)
	out := regs
	if isCall { // D takes the extra word off
		out.gpr[rsp] -= 8
	}
	th.sigreturn(f, &out, cache)
	return true
}

// tableTrap continues an indirect branch whose table lookup faulted: its target is covered by no table.
// The state is rolled forward over the branch to its target. So it is if the stack cannot be written, to which the
// translated form of a return stores the cache address, and that of a call one word more than the original.
func (th *thread) tableTrap(f frame, regs registers, target uint64, mayHash bool) bool {
	var b [15]byte
	var in x86.Inst
	n := th.read(regs.rip, b[:])
	if x86.Decode(b[:n], &in) != nil {
		return false
	}
	at := regs
	native := th.p.as.nativeReturns()
	switch {
	case in.Class == x86.Ret:
		regs.gpr[rsp] += 8 + uint64(in.Imm)&0xffff
	case in.Class == x86.CallInd && native:
		if f.reg(frTrap) == trapSS || f.reg(frTrap) == trapPF && f.reg(frCR2) == regs.gpr[rsp]-8 { // not the table, but the guest's stack
			return false
		}
		regs.gpr[rsp] -= 8 // the original return address will do
		if !th.write(regs.gpr[rsp], le64(regs.rip+uint64(in.Len))) {
			th.raise(f, pushFault(regs.gpr[rsp]), at)
			return true
		}
	case in.Class == x86.CallInd: // the original return address is pushed already
		target -= translate.CallBias
		regs.gpr[rsp] = f.reg(frRSP)
	}
	if orig, ok := th.p.as.originalReturn(target); ok {
		th.jumpedBack()
		if mayHash {
			th.hash(at.rip)
		}
		target, mayHash = orig, false
	}
	if !canonical(target) { // the branch itself faults
		th.raise(f, protection(0), at)
		return true
	}
	if _, ok := th.p.as.executable(target); ok && mayHash {
		c := th.p.as.enter()
		covered := c.slot(target, in.Class == x86.CallInd && !native) != nil
		th.p.as.exit()
		if !covered {
			th.hash(at.rip)
		}
	}
	regs.rip = target
	return th.missTrap(f, regs, false)
}

// hash has the indirect branch at orig use the hash.
func (th *thread) hash(orig uint64) {
	th.p.as.enter().space.Hash(orig)
	th.p.as.exit()
}

// returnTo lets the interrupted thread continue with the original state regs.
func (th *thread) returnTo(f frame, regs registers) {
	cache, err := th.jump(regs.rip)
	if err != nil {
		th.raise(f, th.fetchFault(regs.rip, err), regs)
		return
	}
	th.sigreturn(f, &regs, cache)
}

// sigreturn lets the thread return from the agent's handler to a cache address; to 0 if regs.rip cannot be executed, where it
// faults as after an indirect jump.
func (th *thread) sigreturn(f frame, regs *registers, cache uint64) {
	th.resuming = *regs
	live := *regs
	if cache == 0 {
		live.gpr[rcx] = sentBy(regs.rip)
		th.ctx.setU64(abi.T, regs.rip)
	}
	f.setRegisters(&live, cache)
	mask := th.ctx.u64(abi.Mask)
	if th.step != nil { // signals wait until it is done
		mask |= abi.BlockMask &^ bit(int(kickSignal))
	}
	f.setMask(mask)
	th.ctx.setU64(abi.S, regs.gpr[rcx]) // translated code is entered with rcx in S
	th.reply(abi.OpSigreturn, 0)
}

// sentBy is what rcx is at address 0 if a thread is sent there instead of to orig, with that in gs:[T].
func sentBy(orig uint64) uint64 {
	if orig < translate.HashSize {
		return 0
	}
	return orig
}

// callTrap continues a direct call for which the stack has room, but not for the word that the translated form
// pushes besides. It reports whether that is so: the instruction at rip is a call, and has pushed the
// original return address.
func (th *thread) callTrap(f frame, regs registers) bool {
	var b [maxInst]byte
	var in x86.Inst
	n := th.read(regs.rip, b[:])
	if f.reg(frRSP) != regs.gpr[rsp]-8 || x86.Decode(b[:n], &in) != nil || in.Class != x86.Call {
		return false
	}
	regs.rip = in.Target(regs.rip)
	regs.gpr[rsp] -= 8
	th.returnTo(f, regs)
	return true
}

// writeTrap handles a write to a page that was protected because code was translated from it. The write is done again: if
// its instruction lies in the page itself, it is checked code now.
func (th *thread) writeTrap(f frame, addr uint64, regs registers) {
	th.p.as.unprotect(th, addr&^(pageSize-1))
	th.returnTo(f, regs)
}

// tighten continues a thread whose AC flag made an immediate operand fault, which checked code loads from memory.
func (th *thread) tighten(f frame, regs registers) bool {
	c := th.p.as.enter()
	ours := c.space.Tighten(c.home.CacheOffset(f.reg(frRIP)), regs.rip)
	th.p.as.exit()
	if ours {
		th.returnTo(f, regs)
	}
	return ours
}

// maxInst is the largest length of an instruction.
const maxInst = 15
