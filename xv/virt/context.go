//go:build linux && amd64

package virt

import (
	"xvrun/xv/agent/abi"
)

// context is the supervisor's view of one slot: the thread context, scratch memory, and the area for
// signal frames. The guest can write all of it at any time: a value is loaded once, then checked.
type context struct {
	mem  []byte // abi.SlotSize bytes
	addr uint64 // in the guest
}

func (c context) u32(off int) uint32       { return word32(c.mem, off).Load() }
func (c context) setU32(off int, v uint32) { word32(c.mem, off).Store(v) }
func (c context) u64(off int) uint64       { return word64(c.mem, off).Load() }
func (c context) setU64(off int, v uint64) { word64(c.mem, off).Store(v) }
func (c context) scratch() []byte          { return c.mem[abi.Scratch : abi.Scratch+abi.ScratchSize] }
func (c context) scratchAddr() uint64      { return c.addr + abi.Scratch }

// reset prepares the context of a new thread.
func (c context) reset(slot int) {
	clear(c.mem[:abi.Scratch])
	c.setU32(abi.Slot, uint32(slot))
	c.setU32(abi.InAgent, 1)
	c.setU32(abi.Fuel, fuel)
	c.locate()
}

// locate stores the addresses in the context of a thread that has not run yet.
func (c context) locate() {
	c.setU64(abi.Self, c.addr)
	c.setU64(abi.AgentSP, c.addr+abi.AgentStack)
	// stack_t: ss_sp, ss_flags, ss_size (sigaltstack(2))
	c.setU64(abi.SigStack, c.addr+abi.AltStack)
	c.setU64(abi.SigStack+8, ssAutodisarm)
	c.setU64(abi.SigStack+16, abi.AltStackEnd-abi.AltStack)
}

// registers are the general registers of a thread in the original program.
type registers struct {
	gpr    [16]uint64 // in the order of their encoding: rax rcx rdx rbx rsp rbp rsi rdi r8..r15
	rip    uint64
	rflags uint64
}

// Encodings of registers.
const (
	rax = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
	r8
	r9
	r10
	r11
	r12
)

// deferred is the siginfo of the signal that the agent has put off.
func (c context) deferred() (si siginfo) {
	copy(si[:], c.mem[abi.Deferred:])
	return si
}

// registers loads the registers that the agent saved. rip is not among them.
func (c context) registers() (r registers) {
	for i := range r.gpr {
		r.gpr[i] = c.u64(abi.RAX + 8*i)
	}
	r.rflags = c.u64(abi.RFLAGS)
	return r
}

// setRegisters stores what the agent will load, to continue at the cache address rip.
func (c context) setRegisters(r *registers, cache uint64) {
	for i := range r.gpr {
		c.setU64(abi.RAX+8*i, r.gpr[i])
	}
	c.setU64(abi.RFLAGS, r.rflags)
	c.setU64(abi.RIP, cache)
}

// call is one system call that the agent performs.
type call struct {
	nr   uintptr
	args [6]uint64
}

func (c context) setCall(off int, k call) {
	c.setU64(off, uint64(k.nr))
	for i, a := range k.args {
		c.setU64(off+8+8*i, a)
	}
}

// callResult is where the agent stores the result of the call at off.
const callResult = 56
