// Package agent holds the machine code that runs inside a guest beside the translation cache, and the
// supervisor's view of the memory that both share. The assembly text is asm/agent.asm; package abi is
// the layout.
//
//go:generate go run ./gen
package agent

import (
	"fmt"

	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// Entries of the agent, as offsets from its start.
const (
	Start         = offStart
	GateAgain     = offGateAgain // a system call for the supervisor, with the guest's registers
	SignalHandler = offSighandler
	ExecFailed    = offExecFailed // the int3 after a failed execve
)

// Layout is what translated code must know of the agent and the tables: in all homes they are as far from the cache.
var Layout = translate.Layout{
	Table:   abi.Table,
	Hash:    abi.First.CacheOffset(abi.First.Hash()),
	Miss:    abi.First.CacheOffset(abi.First.Agent() + offMiss),
	Special: abi.First.CacheOffset(abi.First.Agent() + offSpecial),
	Gate:    abi.First.CacheOffset(abi.First.Agent() + offGate),
}

// Install writes the agent's code to mem, which is abi.AgentSize bytes and may be mapped at any home. pass says what the gate does with
// a system call of the guest, as abi.Pass.
func Install(mem []byte, pass func(nr int) byte) error {
	table := mem[abi.AgentSize-passSize:]
	if len(code) > abi.PassPage {
		return fmt.Errorf("agent: %d bytes of code", len(code))
	}
	copy(mem, code)
	for nr := range table {
		table[nr] = pass(nr)
	}
	return nil
}

// HandOff makes the gate of code that Install wrote hand a system call to the supervisor from now on.
func HandOff(mem []byte, nr int) { mem[abi.AgentSize-passSize+nr] = abi.PassNever }

// PassNothing makes a table for the page at abi.PassPage, which is abi.PageSize bytes, by which the gate hands off every system
// call.
func PassNothing(page []byte) {
	clear(page)
	page[abi.Filtered-abi.PassPage] = 1
}

// passSize is how many system call numbers the gate knows; larger ones are handed to the supervisor.
const passSize = 512

// Place says where in the agent a thread was when a signal arrived; it decides which state of the
// original program that is.
type Place uint8

const (
	// Elsewhere is not an address at which a signal reaches the supervisor.
	Elsewhere Place = iota
	// AtMiss: an exit stub was left, nothing changed but the stub's address in the context.
	AtMiss
	// AtSpecial is the same for an instruction that the supervisor emulates.
	AtSpecial
	// BeforeCall: the system call at Next-2 has not run. RAX is in the frame.
	BeforeCall
	// AtGate is BeforeCall, with the address after the system call still in rcx.
	AtGate
	// BeforeCallRAX is BeforeCall with rax in GateRAX.
	BeforeCallRAX
	// BeforeCallFlags is BeforeCallRAX with the status flags as lahf and seto gave them in r11.
	BeforeCallFlags
	// BeforeMask is BeforeCall of rt_sigprocmask, with registers in the context.
	BeforeMask
	// AtMaskAccess is BeforeMask where the arguments' memory is accessed.
	AtMaskAccess
	// AfterMask: rt_sigprocmask has run, NewMask and NewBlock in the context hold.
	AfterMask
	// AfterOwn: a system call that the agent does itself has run with the result 0. Registers are in the context, as in BeforeMask.
	AfterOwn
	// AfterCall: the system call has run, the result is in rax, the original rip is Next.
	AfterCall
	// AfterCallX0 is AfterCall with the result in X0.
	AfterCallX0
	// AtLookup is AfterCall where the address after the call is looked up in the table.
	AtLookup
	// Resuming: the guest's state is in the context, and all of it is original but RIP.
	Resuming
	// Raising: on the way to address 0.
	Raising
	// BeforeGate2: the system call that the supervisor passed on has not run.
	BeforeGate2
	// AfterGate2: it has run, the result is in rax.
	AfterGate2
	// StoredGate2: it has run, the result is in the context.
	StoredGate2
)

// SyscallAt is the offset of a syscall instruction.
const SyscallAt = offGateSyscall

// Calls is the offset where a traced thread makes the r12 system calls at r14, laid out like those at abi.Vector, and goes on at rbp, which may be at
// CallsTrap: then its tracer sees a SIGTRAP.
const (
	Calls     = offCalls
	CallsTrap = offCallsTrap
)

// InCall reports whether a thread at an offset in the agent is at or in a system call of the guest, which the instruction there or
// the one before it makes. Then the guest's registers are in the thread, or, where passed is true, in its context.
func InCall(off uint64) (passed, ok bool) {
	switch off {
	case offGateSyscall, offGateAfter:
		return false, true
	case offGate2Syscall, offGate2After:
		return true, true
	}
	return false, false
}

// PlaceOf classifies where a thread was interrupted, as an offset from the agent's start.
func PlaceOf(off uint64) Place {
	switch {
	case off == offMiss:
		return AtMiss
	case off == offSpecial:
		return AtSpecial
	case off >= offResumeBegin && off < offResumeEnd:
		return Resuming
	case off >= offGate2Begin && off <= offGate2Syscall:
		return BeforeGate2
	case off == offGate2After:
		return AfterGate2
	case off > offGate2After && off < offGate2Stored+24:
		return StoredGate2
	case off == offGate:
		return AtGate
	case off > offGate && off < offGateClobbered, off == offGateSyscall:
		return BeforeCall
	case off >= offGateClobbered && off <= offGateFlags, off >= offGateRestored && off < offGateSyscall:
		return BeforeCallRAX
	case off > offGateFlags && off < offGateRestored, off >= offGateSlow && off <= offGateHandoff,
		off >= offGateMask && off < offGateMaskSaved, off >= offGateProtect && off < offGateProtectTaken:
		return BeforeCallFlags
	case off == offGateLookup, off == offGateWorkedLookup:
		return AtLookup
	case off > offGateHashBase && off < offGateHashJump:
		return AfterCallX0
	case off >= offGateAfter && off < offGateSlow, off >= offGateWorked && off < offGateWorkedLookup:
		return AfterCall
	case off == offGateAgain:
		return BeforeCall
	case off == offGateMaskLoad, off == offGateMaskStore:
		return AtMaskAccess
	case off >= offGateMaskSaved && off <= offGateMaskSyscall:
		return BeforeMask
	case off >= offGateMaskAfter && off < offGateOwn:
		return AfterMask
	case off >= offGateOwn && off < offGateWorked, off == offGateProtectDone:
		return AfterOwn
	case off == offRaiseJump:
		return Raising
	}
	return Elsewhere
}
