//go:build linux && amd64

package virt

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// pin keeps the calling OS thread, and processes that it forks, on the CPU where it is: two that wait for each other in turn take a tenth
// of the time if they need not wake another CPU, and the kernel does not look for a better one at an execve. It returns the CPUs for
// unpin, nil if it can't.
func pin() *unix.CPUSet {
	var before, wide, here unix.CPUSet
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 || unix.SchedGetaffinity(0, &before) != nil {
		return nil
	}
	// If all CPUs are no more than before, nobody has restricted the thread itself, and a cpuset that grows later gives it more.
	after := new(unix.CPUSet)
	after.Fill()
	if unix.SchedSetaffinity(0, after) != nil || unix.SchedGetaffinity(0, &wide) != nil {
		return nil
	}
	if wide != before {
		*after = before
	}
	here.Set(int(cpu))
	if unix.SchedSetaffinity(0, &here) != nil {
		unpin(0, after)
		return nil
	}
	return after
}

// unpin lets a thread use the CPUs that pin has returned.
func unpin(tid int, cpus *unix.CPUSet) {
	if cpus != nil {
		unix.SchedSetaffinity(tid, cpus)
	}
}
