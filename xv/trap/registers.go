//go:build !plan9

package trap

import "errors"

// Registers are the general registers of a thread in the original program. RIP is the instruction that
// faulted, of SIGTRAP the one after it.
type Registers struct {
	RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP                                    uint64
	RFLAGS                                 uint64 // only the flags that a program can set with popf are changed
}

// General returns the general register with a number from 0 to 15, in the order of their encoding: rax rcx rdx rbx
// rsp rbp rsi rdi r8 to r15. A pointer, so that it can be set.
func (r *Registers) General(n int) *uint64 {
	return [16]*uint64{
		&r.RAX, &r.RCX, &r.RDX, &r.RBX, &r.RSP, &r.RBP, &r.RSI, &r.RDI,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
	}[n]
}

// GeneralNames are the names of the general registers, by number.
var GeneralNames = [16]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// Segment is one of the segments with a base.
type Segment uint8

const (
	FS Segment = iota
	GS
)

// ErrDone is the error of a Context whose callback has returned.
var ErrDone = errors.New("xv: the context of a fault was used after its callback")

// Base returns the base of FS or GS. The error tells that the thread has died.
func (c *Context) Base(s Segment) (uint64, error) {
	if c.done {
		return 0, ErrDone
	}
	return c.thread.Base(s)
}

// SetBase changes the base of FS or GS to an address below 2^47.
func (c *Context) SetBase(s Segment, base uint64) error {
	if c.done {
		return ErrDone
	}
	return c.thread.SetBase(s, base)
}
