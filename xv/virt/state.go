//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// position tells what kind of place the interrupted thread was at.
type position uint8

const (
	atOther    position = iota // no translated instruction
	atCode                     // in translated code
	atTable                    // in translated code, at the table lookup of an indirect branch
	atHash                     // the same, by the hash
	atMiss                     // at address 0: the table has no entry for the target, a jump or return
	atCallMiss                 // the same for a call; the extra word is still on the stack
	atStale                    // at an int3 over translated code that is stale
	atCheck                    // in the check of translated code, which has its vector registers in the context
	atCallEnd                  // in the agent, after a system call of the guest
	atLookup                   // the same, at the table lookup of the address after it
	atAccess                   // in the agent, where it accesses the arguments of rt_sigprocmask
)

// faults reports whether an instruction there may raise a signal that is not a defect of xv.
func (p position) faults() bool { return p != atOther && p != atCallEnd }

// original returns the state of the original program from which the thread was interrupted.
func (th *thread) original(f frame) (registers, position, error) {
	regs := f.registers()
	rip, home := regs.rip, th.home()
	switch {
	case rip == 0:
		target := regs.gpr[rcx]
		if target < translate.HashSize { // none with a table: the branch has used the hash
			target = th.ctx.u64(abi.T)
		}
		if regs.gpr[rcx] == translate.ReturnMark {
			pos := th.returned(&regs)
			return regs, pos, nil
		}
		pos := th.missed(&regs, target)
		return regs, pos, nil
	case home.InCache(rip):
		regs, pos, err := th.originalInCache(f, regs)
		if pos == atMiss { // in a stub of the hash
			th.missed(&regs, th.ctx.u64(abi.T))
			pos = atOther
		}
		return regs, pos, err
	case home.InAgent(rip):
		return th.originalInAgent(regs, rip-home.Agent())
	case th.p.as.leavesCode():
		pos := th.returned(&regs)
		return regs, pos, nil
	}
	return regs, atOther, fmt.Errorf("process %d: signal %d at %#x, which is no code of xv", th.p.pid, th.ctx.u32(abi.SigNo), rip)
}

// missed makes regs the state at the target of the indirect branch in flight, which found no entry for it.
func (th *thread) missed(regs *registers, target uint64) position {
	regs.rip = target
	regs.gpr[rcx] = th.ctx.u64(abi.S)
	if orig, ok := th.p.as.originalReturn(target); ok {
		regs.rip = orig
		th.jumpedBack()
		return atMiss
	}
	if !th.lastWasCall(regs) {
		return atMiss
	}
	regs.rip -= translate.CallBias
	regs.gpr[rsp] += 8
	return atCallMiss
}

// lastWasCall tells a missed indirect call from a jump or return to regs.rip: the target of a call is biased, and the
// cache address that the call pushed is a return site of the cache with the original one above. A function that has moved its stack
// pointer but stored nothing there yet may find what its own call has left.
func (th *thread) lastWasCall(regs *registers) bool {
	_, jumps := th.p.as.executable(regs.rip)
	if _, calls := th.p.as.executable(regs.rip - translate.CallBias); jumps && !calls {
		return false
	}
	var b [16]byte
	if th.read(regs.gpr[rsp], b[:]) < len(b) {
		return false
	}
	site := binary.LittleEndian.Uint64(b[:])
	c := th.p.as.enter()
	defer th.p.as.exit()
	if c.native || !c.home.InCache(site) {
		return false
	}
	orig, ok := c.space.ReturnsTo(c.home.CacheOffset(site))
	return ok && orig == binary.LittleEndian.Uint64(b[8:])
}

func (th *thread) originalInCache(f frame, regs registers) (registers, position, error) {
	pos := atCode
	c := th.p.as.enter()
	defer th.p.as.exit()
	space := c.space
	off := c.home.CacheOffset(regs.rip)
	trapped := unix.Signal(th.ctx.u32(abi.SigNo)) == unix.SIGTRAP && f.reg(frTrap) == trapBP &&
		off > 0 && off <= uint32(len(c.cache.view)) && c.cache.view[off-1] == 0xcc // not int n
	if trapped { // after the int3
		off--
		if space.IsStale(off) {
			pos = atStale
		}
	}
	rec, ok := space.Recover(off)
	if !ok {
		return regs, atOther, fmt.Errorf("defect of xv: no original state for cache address %#x of process %d", regs.rip, th.p.pid)
	}
	switch {
	case rec.Kind == translate.KindTable && rec.Hashed:
		pos = atHash
	case rec.Kind == translate.KindTable:
		pos = atTable
	case rec.Kind == translate.KindMiss:
		return regs, atMiss, nil
	case rec.Vectors:
		pos = atCheck
	}
	target := regs.gpr[rcx]
	if rec.Hashed {
		target = th.ctx.u64(abi.T)
	}
	regs.rip = rec.RIP
	if trapped && pos != atStale {
		regs.rip++ // the guest's own int3: the processor points behind it
	}
	if rec.RIPFromRCX {
		regs.rip = target
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

// originalInAgent is original for a thread at an offset in the agent.
func (th *thread) originalInAgent(regs registers, off uint64) (registers, position, error) {
	place := agent.PlaceOf(off)
	switch place {
	case agent.AtMiss, agent.AtSpecial:
		stub := th.exitStub()
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
	case agent.Raising:
		regs = th.resuming
	case agent.BeforeCall, agent.BeforeCallRAX, agent.BeforeCallFlags:
		if place == agent.BeforeCallFlags {
			regs.rflags = statusFlags(regs.rflags, regs.gpr[r11])
		}
		if place != agent.BeforeCall {
			regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
		}
		regs.rip = th.ctx.u64(abi.Next) - syscallLen
		th.clobbered(&regs)
	case agent.BeforeMask, agent.AtMaskAccess:
		th.savedForMask(&regs)
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
		regs.rip = th.ctx.u64(abi.Next) - syscallLen
		th.clobbered(&regs)
		if place == agent.AtMaskAccess {
			return regs, atAccess, nil
		}
	case agent.AfterMask, agent.AfterOwn:
		th.savedForMask(&regs)
		if place == agent.AfterMask {
			th.ctx.setU64(abi.Mask, th.ctx.u64(abi.NewMask))
			th.ctx.setU64(abi.Blocked, th.ctx.u64(abi.NewBlock))
		}
		regs.gpr[rax] = 0
		regs.rip = th.ctx.u64(abi.Next)
		th.clobbered(&regs)
	case agent.AfterCall, agent.AfterCallX0, agent.AtLookup:
		if place == agent.AfterCallX0 {
			regs.gpr[rax] = th.ctx.u64(abi.X0)
		}
		regs.rip = th.ctx.u64(abi.Next)
		th.clobbered(&regs)
		if place == agent.AtLookup {
			return regs, atLookup, nil
		}
		if r := int64(regs.gpr[rax]); openCalls[th.ctx.u64(abi.GateRAX)] && r >= 0 {
			th.substitute(r)
		}
		return regs, atCallEnd, nil
	case agent.Resuming: // with the result of a system call, if there was one
		regs = th.resuming
		regs.gpr[rax] = th.ctx.u64(abi.RAX)
	case agent.BeforeGate2:
		regs = th.resuming
		regs.rip -= syscallLen
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
		th.passed = nil
	case agent.AfterGate2:
		result := regs.gpr[rax]
		regs = th.resuming
		regs.gpr[rax] = result
		th.passed = nil
		return regs, atCallEnd, nil
	case agent.StoredGate2:
		regs = th.resuming
		regs.gpr[rax] = th.ctx.u64(abi.Call + callResult)
		th.passed = nil
		return regs, atCallEnd, nil
	default:
		return regs, atOther, fmt.Errorf("defect of xv: signal %d at %#x of the agent in process %d", th.ctx.u32(abi.SigNo), regs.rip, th.p.pid)
	}
	return regs, atOther, nil
}

// clobbered sets what a syscall instruction at rip overwrites. So it is when a system call is restarted,
// and the agent needs the registers before one, too.
func (th *thread) clobbered(regs *registers) {
	regs.gpr[rcx] = th.ctx.u64(abi.Next)
	regs.gpr[r11] = regs.rflags &^ flagRF
}

// savedForMask restores the registers that the gate uses in rt_sigprocmask.
func (th *thread) savedForMask(regs *registers) {
	for _, r := range [...]int{rdx, rsi, rdi, r10} {
		regs.gpr[r] = th.ctx.u64(abi.RAX + 8*r)
	}
	regs.rflags = statusFlags(regs.rflags, th.ctx.u64(abi.R11))
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
