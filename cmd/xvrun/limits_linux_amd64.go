package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"xvrun/cmd/xvrun/internal/inherited"
	"xvrun/xv"
)

// What package syscall doesn't name (getrlimit(2)).
const (
	rlimitNproc = 6
	infinite    = ^uint64(0) // RLIM_INFINITY
)

// demand is what xvrun takes of a resource itself.
type demand struct {
	resource int
	min      uint64
	name     string
}

// demands are the resources of which xvrun takes more than a program may have. Package inherited sees to
// those that the runtime needs before.
var demands = []demand{
	{syscall.RLIMIT_NOFILE, 32, "open files (ulimit -n) is below 32"},
	{syscall.RLIMIT_FSIZE, 9 << 30, "the file size (ulimit -f) is below 9 GiB, the size of the lookup tables"},
	{syscall.RLIMIT_CPU, 1, "the processor time (ulimit -t) is 0"},
}

// lifted are those that package inherited has lifted already.
var lifted = []int{syscall.RLIMIT_AS, syscall.RLIMIT_DATA, rlimitNproc}

// limits lifts the resource limits that xvrun would meet itself, and returns them as they were, for the
// program. The error says which of them xvrun may not lift far enough.
func limits() ([]xv.Limit, error) {
	var list []xv.Limit
	restore := func(resource int) (finite bool) {
		l, ok := inherited.Limit(resource)
		if ok && l.Cur != infinite {
			list = append(list, xv.Limit{Resource: resource, Soft: l.Cur, Hard: l.Max})
		}
		return !ok || l.Cur != infinite
	}
	for _, r := range lifted {
		restore(r)
	}
	for _, n := range demands {
		if restore(n.resource) && raiseLimit(n.resource) < n.min {
			return nil, fmt.Errorf("the hard limit of %s, which xvrun needs itself", n.name)
		}
	}
	return list, enoughTasks()
}

// raiseLimit lifts a limit altogether, or where this takes privilege as far as it goes. It returns what
// the limit is now.
func raiseLimit(resource int) uint64 {
	var now syscall.Rlimit
	syscall.Getrlimit(resource, &now)
	for _, to := range []uint64{infinite, max(now.Max, 4096), now.Max} {
		if syscall.Setrlimit(resource, &syscall.Rlimit{Cur: to, Max: to}) == nil {
			return to
		}
	}
	return now.Cur
}

// enoughTasks checks a low limit of the user's threads and processes. The Go runtime would end xvrun
// where it can't start a thread.
func enoughTasks() error {
	var l syscall.Rlimit
	const low = 1024
	if syscall.Getrlimit(rlimitNproc, &l) != nil || l.Cur >= low || syscall.Getuid() == 0 {
		return nil
	}
	need := 12 + 2*runtime.NumCPU()
	if used := tasksOf(syscall.Getuid()); uint64(used+need) > l.Cur {
		return fmt.Errorf("the hard limit of processes (ulimit -u) is %d, the user has %d, and xvrun needs %d itself", l.Cur, used, need)
	}
	return nil
}

// tasksOf counts the threads of a user (proc_pid_status(5)).
func tasksOf(uid int) (count int) {
	want := []byte("\nUid:\t" + strconv.Itoa(uid) + "\t")
	names, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, want) {
			continue
		}
		_, rest, _ := bytes.Cut(text, []byte("\nThreads:\t"))
		number, _, _ := bytes.Cut(rest, []byte("\n"))
		n, _ := strconv.Atoi(string(number))
		count += n
	}
	return count
}
