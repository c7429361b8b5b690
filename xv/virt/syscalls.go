//go:build linux && amd64

package virt

import (
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
	"xvrun/xv/seccomp"
)

// handlers are the system calls that the supervisor handles; all others go from the gate straight to
// the kernel. A handler gets the original registers with rip behind the system call, and answers the
// thread.
var handlers map[uint64]func(th *thread, regs *registers)

func init() {
	handlers = map[uint64]func(th *thread, regs *registers){
		unix.SYS_MMAP:           (*thread).mmap,
		unix.SYS_BRK:            (*thread).brk, // only from countSpace on
		unix.SYS_MUNMAP:         (*thread).munmap,
		unix.SYS_MPROTECT:       (*thread).mprotect,
		unix.SYS_PKEY_MPROTECT:  (*thread).mprotect,
		unix.SYS_MREMAP:         (*thread).mremap,
		unix.SYS_MADVISE:        (*thread).madvise,
		unix.SYS_RT_SIGACTION:   (*thread).rtSigaction,
		unix.SYS_RT_SIGPROCMASK: (*thread).rtSigprocmask,
		unix.SYS_RT_SIGRETURN:   (*thread).rtSigreturn,
		unix.SYS_SIGALTSTACK:    (*thread).sigaltstack,
		unix.SYS_CLONE:          (*thread).clone,
		unix.SYS_CLONE3:         (*thread).clone3,
		unix.SYS_FORK:           (*thread).fork,
		unix.SYS_VFORK:          (*thread).vfork,
		unix.SYS_EXECVE:         (*thread).execve,
		unix.SYS_EXECVEAT:       (*thread).execveat,
		unix.SYS_EXIT:           (*thread).exit,
		unix.SYS_ARCH_PRCTL:     (*thread).archPrctl,
		unix.SYS_PRCTL:          (*thread).prctl,
		unix.SYS_MLOCKALL:       (*thread).mlockall,
		unix.SYS_MUNLOCKALL:     (*thread).munlockall,
		unix.SYS_GETRLIMIT:      (*thread).getrlimit,
		unix.SYS_SETRLIMIT:      (*thread).setrlimit,
		unix.SYS_PRLIMIT64:      (*thread).prlimit64,
		unix.SYS_PERSONALITY:    (*thread).personality,
		sysMapShadowStack:       refuse(unix.EOPNOTSUPP),
		unix.SYS_RSEQ:           refuse(unix.ENOSYS),
		unix.SYS_MEMBARRIER:     (*thread).membarrier,
		unix.SYS_PTRACE:         refuse(unix.EPERM),
		unix.SYS_SECCOMP:        (*thread).seccomp,
		unix.SYS_MODIFY_LDT:     refuse(unix.ENOSYS),

		unix.SYS_PROCESS_VM_WRITEV: (*thread).processVMWritev,
		unix.SYS_IO_URING_SETUP:    (*thread).asynchronous,
		unix.SYS_IO_SETUP:          (*thread).asynchronous,
		unix.SYS_USERFAULTFD:       (*thread).userfaultfd,
		unix.SYS_SHMAT:             (*thread).shmat,
		unix.SYS_SHMDT:             (*thread).shmdt,
	}
}

// passes says what the gate does with a system call. A trace shows all.
func (s *Session) passes(nr int) byte {
	switch {
	case s.cfg.Trace != nil || handlers[uint64(nr)] != nil && nr != unix.SYS_BRK:
		return abi.PassNever
	case openCalls[uint64(nr)]:
		return abi.PassOpen
	}
	switch nr {
	case unix.SYS_READV, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PROCESS_VM_READV, unix.SYS_RECVMSG, unix.SYS_RECVMMSG:
		return abi.PassGuarded
	case unix.SYS_IOCTL:
		return abi.PassIoctl
	}
	return abi.Pass
}

// refuse is a handler that fails.
func refuse(errno unix.Errno) func(*thread, *registers) {
	return func(th *thread, regs *registers) { th.result(regs, -int64(errno)) }
}

// membarrier does not offer the commands for restartable sequences: there are none without rseq(2), and a program may take the
// one for a sign of the other. What asks for all threads to see code as it is now brings them there: a thread may be behind a
// check, but not yet behind what was checked.
func (th *thread) membarrier(regs *registers) {
	const (
		query         = 0
		expeditedSync = 1 << 5
		expeditedRseq = 1 << 7
		registerRseq  = 1 << 8
	)
	k := call{unix.SYS_MEMBARRIER, th.args(regs)}
	switch uint32(k.args[0]) {
	case query:
		r := th.remote(k)[0]
		if r > 0 {
			r &^= expeditedRseq | registerRseq
		}
		th.result(regs, r)
	case expeditedRseq, registerRseq:
		th.result(regs, -int64(unix.EINVAL))
	case expeditedSync:
		th.p.as.enter().space.InvalidateChecked()
		th.p.as.exit()
		fallthrough
	default:
		th.gateCall(*regs, k)
	}
}

// systemCall answers a system call of the guest.
func (th *thread) systemCall() {
	s := th.p.s
	s.counters.systemCalls.Add(1)
	regs := th.afterCall()
	nr := regs.gpr[rax]
	if s.cfg.Trace != nil {
		s.trace("%d: %s%#x", th.tid, systemCallName(uintptr(nr)), th.args(&regs))
	}
	if !th.permits(&regs, seccomp.ArchX86_64, th.args(&regs)) {
		return
	}
	if h := handlers[nr]; h != nil {
		h(th, &regs)
		return
	}
	k := call{uintptr(nr), th.args(&regs)}
	th.noteIoctl(k)
	if memFileCalls[nr] && th.writeMemFile(&regs, k) {
		return
	}
	th.releaseBuffers(k)
	if th.admitCall(&regs, k) {
		th.gateCall(regs, k)
	}
}

// afterCall are the registers behind the system call in the gate, with rax as the agent saved it.
func (th *thread) afterCall() registers {
	regs := th.ctx.registers()
	regs.rip = th.ctx.u64(abi.Next)
	regs.gpr[rcx] = regs.rip
	regs.gpr[r11] = regs.rflags
	return regs
}

// args are the arguments of a system call.
func (th *thread) args(regs *registers) [6]uint64 {
	g := &regs.gpr
	return [6]uint64{g[rdi], g[rsi], g[rdx], g[r10], g[r8], g[r9]}
}

// result ends a system call with its result.
func (th *thread) result(regs *registers, r int64) {
	if th.p.s.cfg.Trace != nil {
		th.p.s.trace("%d: = %#x", th.tid, r)
	}
	regs.gpr[rax] = uint64(r)
	th.resumeAt(*regs)
}

// finish ends a system call with the result of k, which doesn't sleep.
func (th *thread) finish(regs *registers, k call) {
	cache, err := th.jump(regs.rip)
	if err != nil {
		r := th.remote(k)
		th.result(regs, r[0])
		return
	}
	th.resuming = *regs
	th.ctx.setRegisters(regs, cache)
	th.ctx.setCall(abi.Call, k)
	th.reply(abi.OpFinish, 0)
}

// gateCall ends a system call with the result of k, which may sleep and be interrupted.
func (th *thread) gateCall(regs registers, k call) {
	th.pass(regs, passed{call: k, opens: openCalls[uint64(k.nr)]})
}

func (th *thread) pass(regs registers, p passed) {
	th.resuming, th.passed = regs, &p
	th.ctx.setU64(abi.GateRAX, uint64(p.call.nr))
	k := p.call
	if th.bounce != nil {
		k = th.bounce.call(k)
	}
	th.ctx.setCall(abi.Call, k)
	th.reply(abi.OpGate, th.lendHeld())
}

// callDone ends a system call that the thread was let do with the result in Call.
func (th *thread) callDone() {
	if th.op == abi.OpAttempt {
		regs := th.resuming
		th.attempted(&regs, int64(th.ctx.u64(abi.Call+callResult)))
		return
	}
	k := th.passed
	th.passed = nil
	th.cloning.Store(false)
	th.forking.Store(false)
	if k == nil {
		th.p.s.fail(th.p, fmt.Errorf("process %d: answer without a question: the guest damaged its thread context", th.p.pid))
		return
	}
	regs, r := th.resuming, int64(th.ctx.u64(abi.Call+callResult))
	switch {
	case th.op == abi.OpExec && r == -erestartsys: // a signal was put off before: it comes first
		regs.rip -= syscallLen
		regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
		th.resumeAt(regs)
		return
	case k.child != nil:
		th.cloned(k.child, r)
	case th.op == abi.OpGate && r == -int64(unix.EFAULT) && (th.p.as.unprotectAny(th, 0, userLimit) || th.barred(k.call)): // see retryAfterFault
		if th.admitCall(&regs, k.call) {
			th.gateCall(regs, k.call)
		}
		return
	case th.op == abi.OpGate && r == -int64(unix.EFAULT) && th.lent == lendOver:
		if th.admitAgain(&regs, k.call) {
			th.gateCall(regs, k.call)
		}
		return
	case th.op == abi.OpGate && r == -int64(unix.EINTR):
		th.interrupted(regs, *k)
		return
	case k.opens && r >= 0:
		th.substitute(r)
	}
	th.takeHeldBack()
	th.result(&regs, r)
}

// erestartsys is the error by which the kernel tells itself, and the agent the supervisor, that a system call was not done
// because of a signal (include/linux/errno.h).
const erestartsys = 512

// begin is the first request of a thread.
func (th *thread) begin() {
	start := th.starting
	th.starting = nil
	if start == nil {
		th.p.s.fail(th.p, fmt.Errorf("process %d: second start of a thread: the guest damaged its thread context", th.p.pid))
		return
	}
	start()
}

// callFailed answers a system call that failed with EFAULT or EINTR in the gate.
func (th *thread) callFailed() {
	regs := th.afterCall()
	k := call{uintptr(th.ctx.u64(abi.GateRAX)), th.args(&regs)}
	if int64(regs.gpr[rax]) == -int64(unix.EINTR) {
		th.interrupted(regs, passed{call: k, opens: openCalls[uint64(k.nr)]})
		return
	}
	th.retryAfterFault(&regs, k)
}

// retryAfterFault answers a system call that failed with EFAULT: it may have met a page that xv made
// read-only. All of them become writable, and the call is done once more.
func (th *thread) retryAfterFault(regs *registers, k call) {
	if !th.p.as.unprotectAny(th, 0, userLimit) && !th.touchesTools(k) {
		th.result(regs, -int64(unix.EFAULT))
		return
	}
	if th.admitCall(regs, k) {
		th.gateCall(*regs, k)
	}
}
