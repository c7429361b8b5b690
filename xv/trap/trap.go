//go:build !plan9

// Package trap is what a host program sees of a guest at a fault: the state of the original program, which
// the host may change, and what is to happen then. It knows nothing of processes: package virt fills a
// Context, calls the host's function and does what that answers.
package trap

import (
	"slices"
	"syscall"
)

// Action is what happens after a callback.
type Action uint8

const (
	// Deliver lets the fault take its course: the guest's handler is called, or the guest dies of it.
	// Changes of the Context take effect before.
	Deliver Action = iota
	// Retry continues the guest with the state in the Context: the instruction at RIP is executed (again).
	// Where nothing was changed, the same fault comes again, without end.
	Retry
	// Skip continues behind the instruction at RIP. Of SIGTRAP RIP is behind the instruction already, and the
	// guest continues there. If the length of the instruction is not known, since RIP cannot be executed or
	// the bytes are no instruction, the fault is delivered.
	Skip
	// Proceed lets an access to watched memory happen, and keeps watching. It is Retry at other faults.
	Proceed
	// Kill ends the guest's process by the default action of the signal, whatever handlers it has.
	Kill
)

// Access is how an instruction wanted to use memory. Values of a Filter are or'ed.
type Access uint8

const (
	Read  Access = 1 << iota // data was read
	Write                    // data was written, or read and written
	Fetch                    // an instruction was fetched
)

// String is "read", "write", "fetch", several with "|" between them, or "none".
func (a Access) String() string {
	text := ""
	for i, name := range []string{"read", "write", "fetch"} {
		if a&(1<<i) == 0 {
			continue
		}
		if text != "" {
			text += "|"
		}
		text += name
	}
	if text == "" {
		return "none"
	}
	return text
}

// Range is the addresses from Lo up to and without Hi.
type Range struct{ Lo, Hi uint64 }

// Contains reports whether addr is in r.
func (r Range) Contains(addr uint64) bool { return r.Lo <= addr && addr < r.Hi }

// Filter says which faults a callback is for. Conditions that are not set hold always.
type Filter struct {
	Signals   []syscall.Signal // SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP
	Addresses []Range          // of Context.Addr
	Access    Access           // Context.Access is one of these; a fault that is no access of memory is not
}

// Matches reports whether the callback is for c.
func (f *Filter) Matches(c *Context) bool {
	if len(f.Signals) > 0 && !slices.Contains(f.Signals, c.Signal) {
		return false
	}
	if f.Access != 0 && f.Access&c.Access == 0 {
		return false
	}
	return len(f.Addresses) == 0 || slices.ContainsFunc(f.Addresses, func(r Range) bool { return r.Contains(c.Addr) })
}

// Event is what happened.
type Event struct {
	Pid int // of the process, as the host sees it
	Tid int // of the thread

	Signal syscall.Signal
	Code   int32 // si_code (sigaction(2))

	// Addr is si_addr: the address of the access, or of SIGILL and SIGFPE the instruction, and of SIGTRAP where
	// RIP points to. It is 0 where the kernel knows no address: of a general protection fault.
	Addr uint64

	// Access is how memory at Addr was used, 0 if the fault is not about that.
	Access Access

	// SystemCall tells that it is a system call that is about to use watched memory, at Addr and perhaps behind it: RIP
	// is behind the syscall instruction. It may do what Access says; some calls are not known so well, and may
	// leave it. Vector registers are not known.
	SystemCall bool
}

// Context is a thread of a guest that has stopped at a fault, and the state of the original program: no
// address or value of the translation shows. What the callback changes in the registers is the thread's
// state after it; Event is for reading only.
//
// A Context may be used until its callback returns, by one goroutine at a time. The thread does not run
// meanwhile; the other threads of the guest do.
type Context struct {
	Event
	Registers

	thread Thread
	vector *extendedState // nil: not asked for yet
	done   bool
}

// Thread is the guest's side of a Context.
type Thread interface {
	// ReadMemory reads memory of the guest to p; it returns how much could be read.
	ReadMemory(addr uint64, p []byte) int
	// WriteMemory writes p to memory of the guest, whole or not at all.
	WriteMemory(addr uint64, p []byte) error
	// Base returns the base of FS or GS.
	Base(s Segment) (uint64, error)
	// SetBase changes it.
	SetBase(s Segment, base uint64) error
	// ExtendedState returns a copy of the XSAVE area of the thread in standard format (Intel SDM vol. 1, 13.4), nil
	// if there is none, and a function that tells where a component lies in it, 0 if the processor has none such.
	ExtendedState() (area []byte, offset func(component uint32) uint32, err error)
}

// New returns the Context of a thread.
func New(t Thread, e Event, r Registers) *Context {
	return &Context{Event: e, Registers: r, thread: t}
}

// End makes c useless: its callback has returned. It returns the extended state if that was changed, else nil.
func (c *Context) End() []byte {
	c.done = true
	if c.vector == nil || !c.vector.changed {
		return nil
	}
	return c.vector.area
}
