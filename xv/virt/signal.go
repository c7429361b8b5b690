//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/tcache"
	"xvrun/xv/translate"
	"xvrun/xv/x86"
)

// signal answers a thread that a signal interrupted. First the original program's state is found; then
// the signal is a trap of xv's own, or it is the guest's.
func (th *thread) signal() {
	s := th.p.s
	s.counters.traps.Add(1)
	f, err := th.frame()
	if err != nil {
		s.fail(th.p, err)
		return
	}
	si := f.info()
	if ft := th.fault; ft != nil && f.reg(frRIP) == 0 && unix.Signal(si.signo()) == unix.SIGSEGV {
		th.fault = nil
		th.raise(f, *ft, th.resuming)
		return
	}
	regs, exact, err := th.original(f)
	if err != nil {
		s.fail(th.p, err)
		return
	}
	if s.cfg.Trace != nil {
		s.trace("%d: signal %d code %d address %#x at %#x, original %#x", th.tid, si.signo(), si.code(), si.addr(), f.reg(frRIP), regs.rip)
	}
	if si.code() == kickCode && unix.Signal(si.signo()) == unix.SIGTRAP {
		th.returnTo(f, regs)
		return
	}
	if th.isFault(&si) {
		if th.handleTrap(f, &si, regs, exact) {
			return
		}
	}
	th.deliver(f, si, regs)
}

// isFault reports whether an instruction raised the signal, not a process.
func (th *thread) isFault(si *siginfo) bool {
	switch unix.Signal(si.signo()) {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGTRAP:
		return si.code() > 0
	}
	return false
}

// position tells what kind of place the interrupted thread was at.
type position uint8

const (
	atOther    position = iota // no translated instruction
	atCode                     // in translated code
	atTable                    // in translated code, at the table lookup of an indirect branch
	atMiss                     // at address 0: the table has no entry for the target, a jump or return
	atCallMiss                 // the same for a call; the extra word is still on the stack
	atStale                    // at an int3 over translated code that is stale
)

// original returns the state of the original program from which the thread was interrupted.
func (th *thread) original(f frame) (registers, position, error) {
	regs := f.registers()
	rip := regs.rip
	switch {
	case rip == 0:
		regs.rip = th.ctx.u64(abi.T)
		regs.gpr[rcx] = th.ctx.u64(abi.S)
		if th.lastWasCall(&regs) {
			regs.rip -= translate.CallBias
			regs.gpr[rsp] += 8
			return regs, atCallMiss, nil
		}
		return regs, atMiss, nil
	case rip >= abi.Cache && rip < abi.CacheEnd:
		return th.originalInCache(f, regs)
	case rip >= abi.Agent && rip < abi.Agent+abi.AgentSize:
		return th.originalInAgent(regs)
	}
	return regs, atOther, fmt.Errorf("process %d: signal %d at %#x, which is no code of xv", th.p.pid, th.ctx.u32(abi.SigNo), rip)
}

// lastWasCall tells a missed indirect call from a jump or return: T of a call is biased, and the
// cache address that `call rcx` pushed is a return site of the cache with the original one above.
func (th *thread) lastWasCall(regs *registers) bool {
	t := th.ctx.u64(abi.T)
	if t >= translate.CallBias && t < translate.CallBias+abi.NearEnd {
		return true
	}
	// Outside the near zone the bias alone does not tell; below it may have wrapped round.
	if _, ok := th.p.as.executable(t); ok {
		return false
	}
	var b [8]byte
	if th.read(regs.gpr[rsp], b[:]) < 8 {
		return false
	}
	site := binary.LittleEndian.Uint64(b[:])
	return site >= abi.Cache && site < abi.CacheEnd
}

func (th *thread) originalInCache(f frame, regs registers) (registers, position, error) {
	addr := uint32(regs.rip)
	pos := atCode
	c := th.p.as.enter()
	defer th.p.as.exit()
	space := c.space
	trapped := unix.Signal(th.ctx.u32(abi.SigNo)) == unix.SIGTRAP && f.reg(frTrap) == trapBP &&
		addr > abi.Cache && int(addr-abi.Cache) <= len(c.cache.view) && c.cache.view[addr-1-abi.Cache] == 0xcc // not int n
	if trapped { // after the int3
		addr--
		if space.IsStale(addr) {
			pos = atStale
		}
	}
	rec, ok := space.Recover(addr)
	if !ok {
		return regs, atOther, fmt.Errorf("defect of xv: no original state for cache address %#x of process %d", addr, th.p.pid)
	}
	if rec.Kind == translate.KindTable {
		pos = atTable
	}
	regs.rip = rec.RIP
	if trapped && pos != atStale {
		regs.rip++ // the guest's own int3: the processor points behind it
	}
	if rec.RIPFromT {
		regs.rip = th.ctx.u64(abi.T)
	}
	if rec.RCXFromS {
		regs.gpr[rcx] = th.ctx.u64(abi.S)
	}
	regs.gpr[rsp] += uint64(int64(rec.RSPAdd))
	for _, sv := range rec.Saved {
		if sv.Slot != 0 {
			regs.gpr[sv.Reg&15] = th.ctx.u64(int(sv.Slot))
		}
	}
	return regs, pos, nil
}

// trapBP is the trap number of int3 (#BP).
const trapBP = 3

func (th *thread) originalInAgent(regs registers) (registers, position, error) {
	place := agent.PlaceOf(regs.rip)
	switch place {
	case agent.AtMiss, agent.AtSpecial:
		stub := uint32(th.ctx.u64(abi.Stub))
		rec, ok := th.p.as.enter().space.Recover(stub)
		th.p.as.exit()
		if !ok {
			return regs, atOther, fmt.Errorf("process %d: %#x is no exit stub: the guest damaged its thread context", th.p.pid, stub)
		}
		regs.rip = rec.RIP
		if rec.RCXFromS {
			regs.gpr[rcx] = th.ctx.u64(abi.S)
		}
		regs.gpr[rsp] += uint64(int64(rec.RSPAdd))
	case agent.AtGate:
		regs.rip = regs.gpr[rcx] - syscallLen
	case agent.BeforeCall:
		regs.rip = th.ctx.u64(abi.Next) - syscallLen
	case agent.BeforeCallRAX, agent.BeforeCallFlags:
		if place == agent.BeforeCallFlags {
			regs.rflags = statusFlags(regs.rflags, regs.gpr[r11])
		}
		regs.rip = th.ctx.u64(abi.Next) - syscallLen
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
	case agent.AfterCall:
		regs.rip = th.ctx.u64(abi.Next)
		regs.gpr[rcx] = regs.rip
		if r := int64(regs.gpr[rax]); openCalls[th.ctx.u64(abi.GateRAX)] && r >= 0 {
			th.substitute(r)
		}
	case agent.Resuming: // with the result of a system call, if there was one
		regs = th.resuming
		regs.gpr[rax] = th.ctx.u64(abi.RAX)
	case agent.BeforeGate2:
		regs = th.resuming
		regs.rip -= syscallLen
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
		th.done = nil
	case agent.AfterGate2:
		result := regs.gpr[rax]
		regs = th.resuming
		regs.gpr[rax] = result
		th.done = nil
	case agent.StoredGate2:
		regs = th.resuming
		regs.gpr[rax] = th.ctx.u64(abi.Call + callResult)
		th.done = nil
	default:
		return regs, atOther, fmt.Errorf("defect of xv: signal %d at %#x of the agent in process %d", th.ctx.u32(abi.SigNo), regs.rip, th.p.pid)
	}
	return regs, atOther, nil
}

// syscallLen is the length of a syscall instruction.
const syscallLen = 2

// statusFlags rebuilds the flags that the gate keeps in r11: SF ZF AF PF CF as lahf gives them in
// bits 8-15, OF in bit 0.
func statusFlags(flags, image uint64) uint64 {
	const low, of = 0xd5, 1 << 11
	flags = flags&^(low|of) | image>>8&low
	if image&1 != 0 {
		flags |= of
	}
	return flags
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
		return th.tableTrap(f, regs)
	}
	if unix.Signal(si.signo()) != unix.SIGSEGV || si.code() != segvACCERR {
		return false
	}
	if pos == atCode && si.addr() == regs.gpr[rsp] && th.returnTrap(f, regs) {
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
	out := regs
	if isCall { // D takes the extra word off
		out.gpr[rsp] -= 8
	}
	th.sigreturn(f, &out, uint64(cache))
	return true
}

// tableTrap continues an indirect branch whose table lookup faulted: its target is covered by no table.
// The state is rolled forward over the branch, since T has the target.
func (th *thread) tableTrap(f frame, regs registers) bool {
	var b [15]byte
	var in x86.Inst
	n := th.read(regs.rip, b[:])
	if x86.Decode(b[:n], &in) != nil {
		return false
	}
	at, live := regs, f.registers()
	target := th.ctx.u64(abi.T)
	switch in.Class {
	case x86.Ret:
		regs.gpr[rsp] += 8 + uint64(in.Imm)&0xffff
	case x86.CallInd: // the original return address is pushed already
		target -= translate.CallBias
		regs.gpr[rsp] = live.gpr[rsp]
	}
	if int64(target<<16)>>16 != int64(target) { // not canonical: the branch itself faults
		th.raise(f, protection(0), at)
		return true
	}
	regs.rip = target
	return th.missTrap(f, regs, false)
}

// returnTo lets the interrupted thread continue with the original state regs.
func (th *thread) returnTo(f frame, regs registers) {
	cache, err := th.jump(regs.rip)
	if err != nil {
		th.raise(f, th.fetchFault(regs.rip, err), regs)
		return
	}
	th.sigreturn(f, &regs, uint64(cache))
}

// sigreturn lets the thread return from the agent's handler to a cache address.
func (th *thread) sigreturn(f frame, regs *registers, cache uint64) {
	th.resuming = *regs
	f.setRegisters(regs, cache)
	th.ctx.setU64(abi.S, regs.gpr[rcx]) // translated code is entered with rcx in S
	th.reply(abi.OpSigreturn, 0)
}

// returnTrap continues a return from a stack that can't be written: the translated form of ret stores
// the cache address over the original one. It reports whether the instruction at rip is a return.
func (th *thread) returnTrap(f frame, regs registers) bool {
	var b [maxInst]byte
	var in x86.Inst
	n := th.read(regs.rip, b[:])
	if x86.Decode(b[:n], &in) != nil || in.Class != x86.Ret {
		return false
	}
	var ret [8]byte
	if th.read(regs.gpr[rsp], ret[:]) < len(ret) {
		return false
	}
	regs.rip = binary.LittleEndian.Uint64(ret[:])
	regs.gpr[rsp] += 8 + uint64(in.Imm)&0xffff
	th.returnTo(f, regs)
	return true
}

// writeTrap handles a write to a page that was protected because code was translated from it.
func (th *thread) writeTrap(f frame, addr uint64, regs registers) {
	as := th.p.as
	page := addr &^ (pageSize - 1)
	as.unprotect(th, page, page+pageSize)
	if regs.rip+maxInst <= page || regs.rip >= page+pageSize {
		th.returnTo(f, regs)
		return
	}
	// The instruction lies in the page that it writes: translating it as usual would protect the page
	// again. It runs alone, from a translation that is used once.
	cache, err := th.lookup(func(sp *tcache.Space) (uint32, error) { return sp.Once(rawReader{th}, regs.rip) })
	if err != nil {
		th.raise(f, th.fetchFault(regs.rip, err), regs)
		return
	}
	th.sigreturn(f, &regs, uint64(cache))
}

// maxInst is the largest length of an instruction.
const maxInst = 15
