//go:build unix

// Package inherited tells what a process was started with where the Go runtime hides it: the runtime
// opens /dev/null on standard descriptors that are closed (runtime.checkfds), puts handlers in place of
// ignored signals (runtime.initsig), and package syscall raises the limit on open files. It also raises
// the limits below which the runtime itself cannot start.
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

// Limit returns the limit of a resource (getrlimit(2)), 0 to 15; ok is false where it isn't known.
func Limit(resource int) (limit syscall.Rlimit, ok bool) {
	return limits[resource], Known() && limitResults[resource] == 0
}

// What the process needs itself, in bytes, and in threads. The address space has to hold the lookup tables of a guest, of
// which few pages exist.
const (
	minSpace = 12 << 30
	minData  = 128 << 20
	minTasks = 8 // without the user's others; those of the Go runtime's start
)

// What note stored; noted is set at its end.
var (
	noted       uint64
	descriptors [3]int64   // results of fcntl(F_GETFD), by descriptor
	actions     [65]action // by signal

	limits       [16]syscall.Rlimit
	limitResults [16]int64 // what prlimit(2) said of them

	infinity = syscall.Rlimit{Cur: ^uint64(0), Max: ^uint64(0)} // RLIM_INFINITY
	highest  syscall.Rlimit
	lowSpace = "xvrun: the hard limit of the address space (ulimit -v) is below 12 GiB, which xvrun needs itself\n"
	lowData  = "xvrun: the hard limit of the data size (ulimit -d) is below 128 MiB, which xvrun needs itself\n"
	lowTasks = "xvrun: the hard limit of processes (ulimit -u) is below 8, which xvrun needs itself\n"

	// threadLocal holds the first thread's g, which is at -8(FS).
	threadLocal [2]uint64
)

// action is the kernel's struct sigaction (rt_sigaction(2)).
type action struct {
	handler, flags, restorer uint64
	mask                     uint64
}
