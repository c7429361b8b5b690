// Package inherited tells what a process was started with where the Go runtime hides it: the runtime
// opens /dev/null on standard descriptors that are closed (runtime.checkfds), puts handlers in place of
// ignored signals (runtime.initsig), and package syscall raises the limit on open files.
//
// The state is noted before the runtime does any of this. Only commands import this package: the note
// takes the runtime's hook for cgo, so it can't be linked together with package runtime/cgo, nor under
// the race detector, which needs that too; there nothing is known.
package inherited

import "syscall"

// Known reports whether the state was noted.
func Known() bool { return noted != 0 }

// Closed reports whether a standard descriptor, 0 to 2, was closed.
func Closed(fd int) bool { return Known() && descriptors[fd] < 0 }

// Ignored reports whether a signal, 1 to 64, was ignored.
func Ignored(sig syscall.Signal) bool { return Known() && actions[sig].handler == sigIgn }

// sigIgn is SIG_IGN (signal(7)).
const sigIgn = 1

// What note stored; noted is set at its end.
var (
	noted       uint64
	descriptors [3]int64   // results of fcntl(F_GETFD), by descriptor
	actions     [65]action // by signal

	// threadLocal holds the first thread's g, which is at -8(FS).
	threadLocal [2]uint64
)

// action is the kernel's struct sigaction (rt_sigaction(2)).
type action struct {
	handler, flags, restorer uint64
	mask                     uint64
}
