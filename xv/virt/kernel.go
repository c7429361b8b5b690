//go:build linux && amd64

package virt

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setSigMask sets the signal mask of the calling OS thread and stores the one before into old, unless that is nil.
func setSigMask(mask, old *uint64) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// seize makes the calling OS thread the tracer of tid, which goes on running.
func seize(tid int, options uintptr) error { return ptrace(unix.PTRACE_SEIZE, tid, 0, options) }

// onOwnThread calls f in a goroutine of its own, on an OS thread that has no children and ends with it. So what the thread waits
// for is what f makes its child or tracee, and its end is the parent's death for no other child (PR_SET_PDEATHSIG(2const)):
// the host program's threads may have any.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // with f never unlocked
		if fresh() {
			f()
			return
		}
		found := make(chan struct{})
		onOwnThread(func() {
			close(found)
			f()
		})
		<-found // until then no other goroutine gets this thread
		runtime.UnlockOSThread()
	}()
}

// fresh reports whether the calling OS thread has no children and is not the main thread, which the Go runtime keeps.
func fresh() bool {
	if unix.Gettid() == unix.Getpid() {
		return false
	}
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
	return err == unix.ECHILD
}

// isEventStop reports whether a stop is a PTRACE_EVENT_STOP: of PTRACE_INTERRUPT, of a group stop, whose signal it then has, or of
// the end of one. (TrapCause knows that of SIGTRAP only.)
func isEventStop(ws unix.WaitStatus) bool { return ws.Stopped() && ws>>16 == unix.PTRACE_EVENT_STOP }

// listenOrCont continues a tracee after a PTRACE_EVENT_STOP: a group stop must last.
func listenOrCont(tid int, ws unix.WaitStatus) {
	switch ws.StopSignal() {
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(tid), 0, 0, 0, 0)
	default:
		unix.PtraceCont(tid, 0)
	}
}

// waitTracee waits for the next stop of a tracee of the calling OS thread. The error is ESRCH if it has ended, which is left to
// its parent to find out: the tracer's process may be that.
func waitTracee(tid int) (unix.WaitStatus, error) {
	for {
		id, ended, err := peek(unix.P_ALL, 0, unix.WEXITED|unix.WSTOPPED)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD || err == nil && ended && id == tid: // a thread that is not its process's first leaves nothing to wait for
			return 0, unix.ESRCH
		case err != nil:
			return 0, err
		case ended && bury(id):
			continue
		}
		switch ws, err := takeStop(tid); {
		case ws != 0:
			return ws, nil
		case err == unix.ECHILD:
			return 0, unix.ESRCH
		case err != nil && err != unix.EINTR:
			return 0, err
		}
		if id != tid { // another process has ended
			nap(10 * time.Microsecond)
		}
	}
}

// bury takes the end of a tracee that was a thread, but not its process's first one; it reports whether it was. Nobody else waits for it, and
// until then nobody is told of the end of the first one (delay_group_leader in the kernel), so that who waits for that would wait for ever.
func bury(tid int) bool {
	if unix.Tgkill(tid, tid, 0) == nil {
		return false
	}
	var info unix.Siginfo
	return unix.Waitid(unix.P_PID, tid, &info, unix.WEXITED|unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil) == nil
}

// buryAll does that for all tracees.
func buryAll() {
	for {
		if tid, ended, err := peek(unix.P_ALL, 0, unix.WEXITED|unix.WNOHANG); err != nil || !ended || !bury(tid) {
			return
		}
	}
}

// peek waits for a change of a child or tracee without taking it. It reports which it is, and whether that has ended.
func peek(idType, id, what int) (pid int, ended bool, err error) {
	var info unix.Siginfo
	err = unix.Waitid(idType, id, &info, what|unix.WNOWAIT|unix.WALL|unix.WNOTHREAD, nil)
	return childPID(&info), info.Code == cldExited || info.Code == cldKilled || info.Code == cldDumped, err
}

// takeStop returns the stop of a tracee, 0 if it has not stopped.
func takeStop(tid int) (unix.WaitStatus, error) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, tid, &info, unix.WSTOPPED|unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
	if err != nil || childPID(&info) == 0 {
		return 0, err
	}
	return unix.WaitStatus(uint32(childStatus(&info))<<8 | 0x7f), nil // as wait4(2) encodes it
}

// rusage converts between the two types of the same struct.
func rusage(u *unix.Rusage) *syscall.Rusage { return (*syscall.Rusage)(unsafe.Pointer(u)) }

// childStatus is si_status of a SIGCHLD's siginfo (offset 24, sigaction(2)).
func childStatus(info *unix.Siginfo) int32 {
	return *(*int32)(unsafe.Add(unsafe.Pointer(info), 24))
}

// childPID is si_pid of a SIGCHLD's siginfo (offset 16).
func childPID(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}

// nap lets the calling OS thread sleep for some microseconds, and as much longer as its timer slack. In time.Sleep it is a
// millisecond if the process does nothing else: the Go runtime then waits by epoll_wait(2), which counts in these.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	unix.Nanosleep(&ts, nil)
}
