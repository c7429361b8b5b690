//go:build linux && amd64

package virt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/seccomp"
)

// A filter that a guest installs must see the guest's system calls and none of xv's, and the instruction pointers
// of the original program: so the kernel knows nothing of it, and the supervisor runs it. In an address space with
// such a thread the gate hands every system call off.

// confined is what a thread has given up by seccomp(2). It never changes.
type confined struct {
	strict bool            // SECCOMP_MODE_STRICT
	filter *seccomp.Filter // else
}

// Operations and flags of seccomp(2).
const (
	setModeStrict  = 0
	setModeFilter  = 1
	getActionAvail = 2

	filterTSync      = 1 << 0
	filterLog        = 1 << 1
	filterSpecAllow  = 1 << 2
	filterTSyncESRCH = 1 << 4
	// There are no listeners: what runs a filter here could not let another process answer.
	filterFlags = filterTSync | filterLog | filterSpecAllow | filterTSyncESRCH
)

func (th *thread) seccomp(regs *registers) {
	a := th.args(regs)
	op, flags := uint32(a[0]), uint32(a[1])
	switch op {
	case setModeStrict:
		if flags != 0 || a[2] != 0 {
			th.result(regs, -int64(unix.EINVAL))
			return
		}
		th.result(regs, th.confineStrictly())
	case setModeFilter:
		th.result(regs, th.confine(flags, a[2]))
	case getActionAvail:
		var b [4]byte
		switch {
		case flags != 0:
			th.result(regs, -int64(unix.EINVAL))
		case th.read(a[2], b[:]) < len(b):
			th.result(regs, -int64(unix.EFAULT))
		default:
			th.result(regs, -int64(actionAvailable(seccomp.Result(binary.LittleEndian.Uint32(b[:])))))
		}
	default:
		th.result(regs, -int64(unix.EINVAL))
	}
}

func actionAvailable(r seccomp.Result) unix.Errno {
	switch r {
	case seccomp.KillProcess, seccomp.KillThread, seccomp.Trap, seccomp.Errno, seccomp.Trace, seccomp.Log, seccomp.Allow:
		return 0
	}
	return unix.EOPNOTSUPP
}

// Modes of prctl(PR_SET_SECCOMP) and PR_GET_SECCOMP.
const (
	modeStrict = 1
	modeFilter = 2
)

// setSeccomp does prctl(PR_SET_SECCOMP).
func (th *thread) setSeccomp(mode, prog uint64) int64 {
	switch mode {
	case modeStrict:
		return th.confineStrictly()
	case modeFilter:
		return th.confine(0, prog)
	}
	return -int64(unix.EINVAL)
}

// getSeccomp does prctl(PR_GET_SECCOMP).
func (th *thread) getSeccomp() int64 {
	if th.confined.Load() != nil {
		return modeFilter // in the strict mode there is no prctl
	}
	return 0
}

func (th *thread) confineStrictly() int64 {
	if c := th.confined.Load(); c != nil && !c.strict {
		return -int64(unix.EINVAL)
	}
	if err := th.unpass(); err != nil {
		return -int64(unix.ENOMEM)
	}
	th.confined.Store(&confined{strict: true})
	return 0
}

// confine installs the filter at the address prog (struct sock_fprog).
func (th *thread) confine(flags uint32, prog uint64) int64 {
	if flags&^filterFlags != 0 {
		return -int64(unix.EINVAL)
	}
	var b [16]byte
	if th.read(prog, b[:]) < len(b) {
		return -int64(unix.EFAULT)
	}
	n, addr := int(binary.LittleEndian.Uint16(b[:])), binary.LittleEndian.Uint64(b[8:])
	switch {
	case addr == 0 || n == 0 || n > seccomp.MaxLen:
		return -int64(unix.EINVAL)
	case !th.mayConfine():
		return -int64(unix.EACCES)
	}
	code := make([]byte, n*seccomp.InstSize)
	if th.read(addr, code) < len(code) {
		return -int64(unix.EFAULT)
	}
	insts := seccomp.Parse(code)
	th.p.confining.Lock() // one thread at a time changes what others have
	defer th.p.confining.Unlock()
	var prev *seccomp.Filter
	if c := th.confined.Load(); c != nil {
		if c.strict {
			return -int64(unix.EINVAL)
		}
		prev = c.filter
	}
	f, err := seccomp.New(insts, prev)
	switch {
	case errors.Is(err, seccomp.ErrTooLong):
		return -int64(unix.ENOMEM)
	case err != nil:
		return -int64(unix.EINVAL)
	}
	if err := th.unpass(); err != nil {
		return -int64(unix.ENOMEM)
	}
	if flags&filterTSync == 0 {
		th.confined.Store(&confined{filter: f})
		return 0
	}
	return th.confineAll(f, prev, flags)
}

// confineAll gives f to all threads of the process, if what they have is prev or lies below; else it returns one
// that has something else.
func (th *thread) confineAll(f, prev *seccomp.Filter, flags uint32) int64 {
	s := th.p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range th.p.threads {
		c := other.confined.Load()
		if c == nil || !c.strict && prev.Above(c.filter) {
			continue
		}
		if flags&filterTSyncESRCH != 0 {
			return -int64(unix.ESRCH)
		}
		return int64(other.ctx.u32(abi.TID))
	}
	for other := range th.p.threads {
		other.confined.Store(&confined{filter: f})
	}
	return 0
}

// mayConfine reports whether the thread may install a filter: it can gain no privilege by execve, or has
// CAP_SYS_ADMIN in its user namespace.
func (th *thread) mayConfine() bool {
	caps, status := th.capabilities()
	return caps>>unix.CAP_SYS_ADMIN&1 != 0 || bytes.Contains(status, []byte("\nNoNewPrivs:\t1\n"))
}

// passNothing is what the gate's table is replaced by in address spaces with a confined thread.
type passNothing struct {
	mu    sync.Mutex
	table *shared // nil: not needed yet
}

func (s *Session) tableOfNothing() (*shared, error) {
	n := &s.nothing
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.table == nil {
		o, err := newShared("xv-pass", abi.PageSize, true)
		if err != nil {
			return nil, err
		}
		agent.PassNothing(o.view)
		n.table = o
	}
	return n.table, nil
}

// unpass has the gate hand off every system call in the address space of th.
func (th *thread) unpass() error {
	as := th.p.as
	if as.unpassed.Load() {
		return nil
	}
	o, err := th.p.s.tableOfNothing()
	if err != nil {
		return err
	}
	if err := th.mapShared(mapping{o, th.home().Agent() + abi.PassPage, abi.PageSize, 0, unix.PROT_READ, unix.MAP_FIXED}); err != nil {
		return err
	}
	as.unpassed.Store(true)
	return nil
}

// judge returns what becomes of a system call of the thread, which has its number in rax and rip behind it.
func (th *thread) judge(regs *registers, arch uint32, args [6]uint64) seccomp.Result {
	c := th.confined.Load()
	if c == nil {
		return seccomp.Allow
	}
	nr := int32(regs.gpr[rax])
	if c.strict {
		if strictCall(arch, nr) {
			return seccomp.Allow
		}
		return seccomp.KillThread
	}
	r := c.filter.Run(&seccomp.Data{Nr: nr, Arch: arch, IP: regs.rip, Args: args})
	if th.p.s.cfg.Trace != nil && r.Action() != seccomp.Allow {
		th.p.s.trace("%d: filter: %#x", th.tid, uint32(r))
	}
	return r
}

// permits reports whether the thread may do a system call; otherwise the thread was answered. regs are its state
// behind the call, with the number in rax.
func (th *thread) permits(regs *registers, arch uint32, args [6]uint64) bool {
	r := th.judge(regs, arch, args)
	switch r.Action() {
	case seccomp.Allow, seccomp.Log:
		return true
	case seccomp.Errno:
		th.result(regs, errnoOf(r))
	case seccomp.Trace, seccomp.UserNotif: // there is no tracer, and no listener
		th.result(regs, -int64(unix.ENOSYS))
	case seccomp.Trap:
		if ft, ok := th.trapped(regs, arch, r); ok {
			th.raiseLater(ft, *regs)
		}
	case seccomp.KillThread:
		th.endConfined()
	default:
		th.killBy(int(unix.SIGSYS))
	}
	return false
}

// permitsVsyscall is permits for a call of the vsyscall page, from which the thread returns with the state after.
func (th *thread) permitsVsyscall(f frame, nr uint64, after registers) bool {
	at := after
	at.gpr[rax] = nr
	r := th.judge(&at, seccomp.ArchX86_64, th.args(&at))
	switch r.Action() {
	case seccomp.Allow, seccomp.Log:
		return true
	case seccomp.Errno:
		after.gpr[rax] = uint64(errnoOf(r))
		th.returnTo(f, after)
	case seccomp.Trap:
		if ft, ok := th.trapped(&at, seccomp.ArchX86_64, r); ok {
			th.raise(f, ft, at)
		}
	default:
		th.killBy(int(unix.SIGSYS))
	}
	return false
}

// errnoOf is the result of a system call for which a filter has returned Errno.
func errnoOf(r seccomp.Result) int64 { return -min(int64(r.Data()), maxErrno) }

// maxErrno is MAX_ERRNO.
const maxErrno = 4095

// strictCall reports whether a call is allowed in the strict mode: read, write, exit and sigreturn.
func strictCall(arch uint32, nr int32) bool {
	if arch == seccomp.ArchI386 {
		return nr == 3 || nr == 4 || nr == 1 || nr == 119
	}
	return nr == unix.SYS_READ || nr == unix.SYS_WRITE || nr == unix.SYS_EXIT || nr == unix.SYS_RT_SIGRETURN
}

// endConfined ends the thread for a call that is not permitted, and the process if it is the only one.
func (th *thread) endConfined() {
	s := th.p.s
	s.mu.Lock()
	only := len(th.p.threads) == 1
	s.mu.Unlock()
	switch {
	case only && th.confined.Load().strict:
		th.killBy(int(unix.SIGKILL))
	case only:
		th.killBy(int(unix.SIGSYS))
	default:
		s.drop(th)
		th.ctx.setCall(abi.Call, call{nr: unix.SYS_EXIT})
		th.reply(abi.OpExit, 0)
	}
}

// sysSeccomp is SYS_SECCOMP, the si_code of a call that a filter has trapped.
const sysSeccomp = 1

// trapped returns the SIGSYS for a call that was not done; ok is false when it has killed the process instead.
func (th *thread) trapped(regs *registers, arch uint32, r seccomp.Result) (_ fault, ok bool) {
	sig := int(unix.SIGSYS)
	if th.p.actions.get(sig).handler <= sigIgn || th.guestMask()&bit(sig) != 0 { // force_sig(9)
		th.killBy(sig)
		return fault{}, false
	}
	var si siginfo
	le := binary.LittleEndian
	le.PutUint32(si[0:], uint32(sig))
	le.PutUint32(si[4:], uint32(r.Data())) // si_errno
	le.PutUint32(si[8:], sysSeccomp)
	le.PutUint64(si[16:], regs.rip) // si_call_addr
	le.PutUint32(si[24:], uint32(regs.gpr[rax]))
	le.PutUint32(si[28:], arch)
	return fault{info: si, words: th.trap}, true
}
