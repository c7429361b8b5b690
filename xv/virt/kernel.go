//go:build linux && amd64

package virt

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getSigMask reads the signal mask of a stopped tracee.
func getSigMask(tid int, mask *uint64) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSigMask, uintptr(tid), 8, uintptr(unsafe.Pointer(mask)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// seize makes the calling OS thread the tracer of tid, which goes on running and stops when it has
// executed a program.
func seize(tid int) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, unix.PTRACE_O_TRACEEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// ptraceGetSigMask is PTRACE_GETSIGMASK.
const ptraceGetSigMask = 0x420a

// listenOrCont continues a tracee after a PTRACE_EVENT_STOP: a group stop must last.
func listenOrCont(tid int, ws unix.WaitStatus) {
	switch ws.StopSignal() {
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(tid), 0, 0, 0, 0)
	default:
		unix.PtraceCont(tid, 0)
	}
}

// rusage converts between the two types of the same struct.
func rusage(u *unix.Rusage) *syscall.Rusage { return (*syscall.Rusage)(unsafe.Pointer(u)) }

// childStatus is si_status of a SIGCHLD's siginfo (offset 24, sigaction(2)).
func childStatus(info *unix.Siginfo) int32 {
	return *(*int32)(unsafe.Add(unsafe.Pointer(info), 24))
}

// systemCallName names a system call for messages.
func systemCallName(nr uintptr) string {
	if name := names[nr]; name != "" {
		return name
	}
	return fmt.Sprintf("syscall_%d", nr)
}

// names are those of the system calls that the supervisor handles or makes.
var names = map[uintptr]string{
	unix.SYS_MMAP: "mmap", unix.SYS_MUNMAP: "munmap", unix.SYS_MPROTECT: "mprotect", unix.SYS_MREMAP: "mremap",
	unix.SYS_PKEY_MPROTECT: "pkey_mprotect", unix.SYS_RT_SIGACTION: "rt_sigaction",
	unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask", unix.SYS_RT_SIGRETURN: "rt_sigreturn",
	unix.SYS_SIGALTSTACK: "sigaltstack", unix.SYS_CLONE: "clone", unix.SYS_CLONE3: "clone3",
	unix.SYS_FORK: "fork", unix.SYS_VFORK: "vfork", unix.SYS_EXECVE: "execve", unix.SYS_EXECVEAT: "execveat",
	unix.SYS_EXIT: "exit", unix.SYS_ARCH_PRCTL: "arch_prctl", unix.SYS_PRCTL: "prctl", unix.SYS_RSEQ: "rseq",
	unix.SYS_PTRACE: "ptrace", unix.SYS_SECCOMP: "seccomp", unix.SYS_OPENAT: "openat", unix.SYS_CLOSE: "close",
}
