//go:build !plan9

package xv

import (
	"context"

	"xvrun/xv/virt"
)

// Relocation says how Process.Relocate moves xv's state in the memory of a process.
type Relocation = virt.Relocation

// Keeping says which translations move along.
type Keeping = virt.Keeping

// The values of Keeping. Hot is what was executed since the move before, or since the cache was three quarters full, to the granularity of
// the kernel (64 KiB of translations); of that KeepHot takes at most half of the cache, and at most 32 MiB. A cache that is full is collected so. KeepAll
// does the same where the place that the guest leaves has room for a cache of another size only.
const (
	KeepAll     = virt.KeepAll
	KeepHot     = virt.KeepHot
	KeepNothing = virt.KeepNothing
)

// Relocated says how xv's state in the memory of a process has moved.
type Relocated = virt.Relocated

// Relocate moves all that xv has in the memory of guest processes to another address while they run: agent, thread contexts, code
// cache and lookup tables. Processes whose memory is one (vfork(2), CLONE_VM) move together; a forked one has its own.
//
// All threads of the memory stand still for Relocated.Pause. System calls that they sleep in go on afterwards with the time that
// is left, and no signal is lost. Relocation.Keep says which translations move along; the program translates again what else it
// executes.
//
// With PID 0 it moves the state of every process that there is now; processes that end meanwhile are left out. It waits, until ctx is
// done, for threads that can't be moved at once, as in vfork(2) and execve(2). A process that is stopped can be moved
// if its threads stand in system calls. It may be called by any goroutine, but not by a callback of the guest's own: the thread
// that waits for the answer can't be moved. The error is os.ErrProcessDone if the process has ended.
func (p *Process) Relocate(ctx context.Context, r Relocation) ([]Relocated, error) {
	list, err := p.s.Relocate(ctx, r)
	return list, prefixed(err)
}
