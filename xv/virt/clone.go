//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

func (th *thread) clone(regs *registers) {
	a := th.args(regs)
	th.cloneWith(regs, call{unix.SYS_CLONE, a}, a[0]&^0xff, a[1])
}

func (th *thread) fork(regs *registers) { th.cloneWith(regs, call{nr: unix.SYS_FORK}, 0, 0) }

func (th *thread) vfork(regs *registers) {
	th.cloneWith(regs, call{nr: unix.SYS_VFORK}, unix.CLONE_VM|unix.CLONE_VFORK, 0)
}

// Offsets in struct clone_args (clone(2)).
const (
	cloneArgsFlags     = 0
	cloneArgsStack     = 40
	cloneArgsStackSize = 48
	cloneArgsMin       = 64
)

func (th *thread) clone3(regs *registers) {
	a := th.args(regs)
	var b [cloneArgsMin]byte
	switch {
	case a[1] > pageSize:
		th.result(regs, -int64(unix.E2BIG))
		return
	case a[1] < cloneArgsMin:
		th.result(regs, -int64(unix.EINVAL))
		return
	case th.read(a[0], b[:]) < len(b):
		th.result(regs, -int64(unix.EFAULT))
		return
	}
	w := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	stack := w(cloneArgsStack)
	if stack != 0 {
		stack += w(cloneArgsStackSize)
	}
	th.cloneWith(regs, call{unix.SYS_CLONE3, a}, w(cloneArgsFlags), stack)
}

// cloneWith makes a thread or process by k, a system call of the clone family with the given flags.
// The child starts in the agent on a context of its own; stack is its stack pointer, 0 for the
// caller's.
func (th *thread) cloneWith(regs *registers, k call, flags, stack uint64) {
	s, p := th.p.s, th.p
	ownID := th.admitTIDs(k, flags) // may call the host, which must find tools that can be changed
	th.forking.Store(flags&unix.CLONE_VM == 0)
	child, err := th.newChild(flags)
	if err != nil {
		th.forking.Store(false)
		th.closeAdmitted()
		s.trace("%d: clone: %v", th.tid, err)
		th.result(regs, -int64(unix.EAGAIN))
		return
	}
	state := *regs
	state.gpr[rax] = 0
	if stack != 0 {
		state.gpr[rsp] = stack
	}
	child.starting = func() {
		th.forking.Store(false) // also if the parent waits for its end (CLONE_VFORK)
		child.begun(p, state, flags, ownID)
	}
	child.p.as.inherit(child)
	child.ctx.setU64(abi.GuestGS, th.ctx.u64(abi.GuestGS))
	child.setGuestMask(th.guestMask())
	child.trap = th.trap
	p.confining.Lock()
	child.confined.Store(th.confined.Load())
	p.confining.Unlock()
	if flags&(unix.CLONE_VM|unix.CLONE_VFORK) != unix.CLONE_VM { // sas_ss_reset(): kept, except by threads
		child.alt, child.beneath = th.alt, th.beneath
	} else {
		child.alt.flags = ssDisable
	}
	th.passed = &passed{child: child}
	th.cloning.Store(true)
	th.resuming = *regs
	th.ctx.setU64(abi.Child, child.ctx.addr)
	th.ctx.setCall(abi.Call, k)
	th.reply(abi.OpClone, 0)
}

// cloned is called when the clone of child is done, with its result: an error or the child's id, as its
// parent sees it.
func (th *thread) cloned(child *thread, r int64) {
	s := th.p.s
	switch {
	case child.p == th.p:
		if r < 0 {
			s.drop(child)
		}
	// While the parent waits here a child can't have been reaped, so it is surely its own.
	case r < 0 || errors.Is(s.settle(child.p, th.p, int(r)), errEnded):
		s.miscarried(child.p)
	}
}

// newChild makes the thread, and unless it is one of the same process, the process.
func (th *thread) newChild(flags uint64) (*thread, error) {
	s, p := th.p.s, th.p
	if flags&unix.CLONE_THREAD != 0 {
		return s.newThread(p)
	}
	if err := s.reaper.ready(); err != nil {
		return nil, err
	}
	as := p.as
	if flags&unix.CLONE_VM != 0 {
		as.users.Add(1)
	} else {
		as = as.fork(th)
	}
	actions := p.actions
	if flags&unix.CLONE_SIGHAND == 0 {
		actions = actions.copy()
	}
	if flags&unix.CLONE_CLEAR_SIGHAND != 0 {
		actions = actions.afterExec()
	}
	child := s.newProcess(0, as, actions)
	child.undumpable.Store(p.undumpable.Load())
	child.limits.inherit(&p.limits)
	t, err := s.newThread(child)
	if err != nil {
		as.leave()
		return nil, err
	}
	child.parent = p
	child.borrows = flags&(unix.CLONE_VM|unix.CLONE_VFORK) == unix.CLONE_VM|unix.CLONE_VFORK
	s.expect(t)
	return t, nil
}

// begun is the first request of a thread that parent cloned.
// ownID is where its id goes if page tools may have kept the kernel from storing it, else 0.
func (th *thread) begun(parent *process, state registers, flags, ownID uint64) {
	s := th.p.s
	if flags&unix.CLONE_THREAD != 0 {
		tid, err := th.p.identifyThread(int(th.ctx.u32(abi.TID)))
		if err != nil {
			s.trace("%d: a new thread: %v", th.p.pid, err)
			return
		}
		th.tid = tid
	} else {
		err := s.settle(th.p, parent, int(th.ctx.u32(abi.PID)))
		if errors.Is(err, errEnded) || errors.Is(err, unix.ESRCH) {
			s.trace("%d: a new process: %v", parent.pid, err)
			return
		}
		if err != nil {
			s.fail(parent, err)
			if th.p.pidfd >= 0 {
				s.fail(th.p, err)
			}
			return
		}
		th.tid = th.p.pid
		if flags&unix.CLONE_VM == 0 && th.p.as.writableCode() {
			// Its copies of pages that code is generated into will change on their own.
			if err := th.p.as.privatize(th); err != nil {
				s.fail(th.p, err)
				return
			}
		}
		if flags&unix.CLONE_CLEAR_SIGHAND != 0 {
			if err := th.installFaultHandlers(); err != nil {
				s.fail(th.p, err)
				return
			}
		}
		if flags&unix.CLONE_VM == 0 {
			if err := th.settleTools(); err != nil {
				s.fail(th.p, err)
				return
			}
		}
	}
	if ownID != 0 {
		th.write(ownID, le64(uint64(th.ctx.u32(abi.TID)))[:4])
	}
	th.resumeAt(state)
}

func (th *thread) execve(regs *registers) {
	a := th.args(regs)
	th.exec(regs, call{unix.SYS_EXECVE, a}, atFDCWD, a[0], 0)
}

func (th *thread) execveat(regs *registers) {
	a := th.args(regs)
	th.exec(regs, call{unix.SYS_EXECVEAT, a}, a[0], a[1], a[4])
}

// exec executes a program by k. Files that the kernel would run outside of translation are refused.
func (th *thread) exec(regs *registers, k call, dirfd, pathAddr, flags uint64) {
	s := th.p.s
	if errno := th.refusesExec(dirfd, pathAddr, flags); errno != 0 {
		th.result(regs, -int64(errno))
		return
	}
	as, err := s.newAddressSpace()
	if err != nil {
		s.trace("%d: execve: %v", th.tid, err)
		th.result(regs, -int64(unix.ENOMEM))
		return
	}
	next, err := s.newThread(s.newProcess(th.p.pid, as, nil))
	if err != nil {
		as.leave()
		th.result(regs, -int64(unix.EAGAIN))
		return
	}
	th.resuming = *regs
	th.passed = &passed{}
	th.tracedExec(next, k)
}

// refusesExec looks at a file as execve would, and returns the error for one that xv cannot run. What
// the kernel refuses too is left to it.
func (th *thread) refusesExec(dirfd, pathAddr, flags uint64) unix.Errno {
	path, ok := th.readString(pathAddr)
	if !ok {
		return 0
	}
	if !strings.HasPrefix(path, "/") && (path == "" && flags&unix.AT_EMPTY_PATH != 0 || int32(dirfd) != unix.AT_FDCWD) {
		path = strings.TrimSuffix(fmt.Sprintf("/proc/self/fd/%d/%s", int32(dirfd), path), "/")
	}
	info, err := loader.Origin{PID: th.tid}.Check(path)
	var e *loader.Error
	if errors.As(err, &e) && e.Errno == 0 {
		th.p.s.trace("%d: execve: %v", th.tid, err)
		return unix.ENOEXEC
	}
	if err == nil {
		th.p.s.warnPrivilege(info, fmt.Sprintf("/proc/%d/status", th.tid))
	}
	return 0
}

// readString reads a C string of at most PATH_MAX bytes.
func (th *thread) readString(addr uint64) (string, bool) {
	var b [pageSize]byte
	n := th.read(addr, b[:])
	for i, c := range b[:n] {
		if c == 0 {
			return string(b[:i]), true
		}
	}
	return "", false
}

// exit ends the thread. Its slot is used again once the kernel no longer knows the thread.
func (th *thread) exit(regs *registers) {
	// The kernel stores into robust futexes and where the id of the thread is (set_tid_address(2)).
	th.p.as.unprotectAny(th, 0, userLimit)
	th.clearTID()
	th.openRobust()
	th.p.s.drop(th)
	th.ctx.setCall(abi.Call, call{unix.SYS_EXIT, th.args(regs)})
	th.reply(abi.OpExit, 0)
}
