//go:build linux && amd64

package virt

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pin keeps the calling OS thread, and processes that it forks, on the CPU where it is: two that wait for each other in turn take a tenth
// of the time if they need not wake another CPU, and the kernel does not look for a better one at an execve. It returns the CPUs for
// unpin, nil if it can't.
func pin() *unix.CPUSet {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return nil
	}
	var before, wide, there unix.CPUSet
	if unix.SchedGetaffinity(0, &before) != nil {
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
	there.Set(int(cpu))
	if unix.SchedSetaffinity(0, &there) != nil {
		unpin(0, after)
		return nil
	}
	return after
}

// pinBeside keeps the calling OS thread on the CPU on which a thread has run last, which it traces, for good.
func pinBeside(tid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return
	}
	// The fields from the third on, see proc_pid_stat(5).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const processor = 39 - 3
	if len(fields) <= processor {
		return
	}
	if cpu, err := strconv.Atoi(fields[processor]); err == nil {
		var there unix.CPUSet
		there.Set(cpu)
		unix.SchedSetaffinity(0, &there)
	}
}

// unpin lets a thread use the CPUs that pin has returned.
func unpin(tid int, cpus *unix.CPUSet) {
	if cpus != nil {
		unix.SchedSetaffinity(tid, cpus)
	}
}
