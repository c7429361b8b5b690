//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// Codes of arch_prctl(2).
const (
	archSetGS       = 0x1001
	archSetFS       = 0x1002
	archGetFS       = 0x1003
	archGetGS       = 0x1004
	archMapVDSOX32  = 0x2001
	archMapVDSO64   = 0x2003
	archShstkEnable = 0x5001

	userLimit = abi.UserEnd
)

// sysMapShadowStack is map_shadow_stack: translated calls and returns would not match a shadow stack.
const sysMapShadowStack = 453

func (th *thread) archPrctl(regs *registers) {
	a := th.args(regs)
	switch a[0] {
	case archMapVDSOX32, archMapVDSOX32 + 1, archMapVDSO64: // would be executable
		th.result(regs, -int64(unix.EINVAL))
	case archShstkEnable:
		th.result(regs, -int64(unix.EOPNOTSUPP))
	case archSetGS:
		if a[1] >= userLimit {
			th.result(regs, -int64(unix.EPERM))
			return
		}
		th.ctx.setU64(abi.GuestGS, a[1])
		th.result(regs, 0)
	case archGetGS:
		if !th.write(a[1], le64(th.ctx.u64(abi.GuestGS))) {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
		th.result(regs, 0)
	default:
		th.finish(regs, call{unix.SYS_ARCH_PRCTL, a})
	}
}

// prSetSyscallUserDispatch is PR_SET_SYSCALL_USER_DISPATCH.
const prSetSyscallUserDispatch = 59

// Codes of PR_SET_MDWE.
const (
	prSetMDWE     = 65
	mdweRefuse    = 1 // PR_MDWE_REFUSE_EXEC_GAIN
	mdweNoInherit = 2 // PR_MDWE_NO_INHERIT
)

func (th *thread) prctl(regs *registers) {
	a := th.args(regs)
	switch a[0] {
	case prSetMDWE:
		r := th.remote(call{unix.SYS_PRCTL, a})[0]
		if r == 0 {
			th.p.as.mdwe.Store(uint32(a[1]))
			th.p.as.forbidToggles()
		}
		th.result(regs, r)
	case prSetSyscallUserDispatch: // would hit the agent's system calls
		th.result(regs, -int64(unix.EINVAL))
	case unix.PR_SET_SECCOMP:
		th.result(regs, th.setSeccomp(a[1], a[2]))
	case unix.PR_GET_SECCOMP:
		th.result(regs, th.getSeccomp())
	case unix.PR_SET_DUMPABLE: // would shut the supervisor out of the memory
		if a[1] > 1 {
			th.result(regs, -int64(unix.EINVAL))
			return
		}
		th.p.undumpable.Store(a[1] == 0)
		if a[1] == 0 {
			th.result(regs, 0)
			return
		}
		th.finish(regs, call{unix.SYS_PRCTL, a}) // the kernel makes a process undumpable that gives up a privilege
	case unix.PR_GET_DUMPABLE:
		if th.p.undumpable.Load() {
			th.result(regs, 0)
			return
		}
		th.finish(regs, call{unix.SYS_PRCTL, a})
	case unix.PR_SET_MM: // perhaps the program break
		th.p.s.watchBreak()
		th.finish(regs, call{unix.SYS_PRCTL, a})
	case unix.PR_SET_PDEATHSIG, unix.PR_GET_PDEATHSIG:
		th.untie()
		th.finish(regs, call{unix.SYS_PRCTL, a})
	default:
		th.finish(regs, call{unix.SYS_PRCTL, a})
	}
}

// untie takes the signal from the first thread of a guest that it was started with; the reaper has to do then.
func (th *thread) untie() {
	s := th.p.s
	if th.p != s.first || th.tid != th.p.pid || s.untied.Swap(true) {
		return
	}
	if err := s.reaper.ready(); err != nil {
		s.fail(th.p, err)
		panic(gone{})
	}
	th.remote(call{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_PDEATHSIG, 0}})
}

// personality keeps READ_IMPLIES_EXEC from the kernel.
func (th *thread) personality(regs *registers) {
	const query = 0xffffffff
	as := th.p.as
	next := uint32(th.args(regs)[0])
	k := call{unix.SYS_PERSONALITY, [6]uint64{query}}
	if next != query {
		k.args[0] = uint64(next &^ readImpliesExec)
	}
	r := th.remote(k)[0]
	if !failed(r) {
		if as.readExec.Load() {
			r |= readImpliesExec
		}
		if next != query {
			as.readExec.Store(next&readImpliesExec != 0)
			as.forbidToggles()
		}
	}
	th.result(regs, r)
}

// inheritMDWE is called when a process with the address space from has forked or executed (PR_SET_MDWE(2const)).
func (as *addressSpace) inheritMDWE(from *addressSpace) {
	if m := from.mdwe.Load(); m&mdweNoInherit == 0 {
		as.mdwe.Store(m)
	}
}

// refusesGain reports whether the guest has forbidden itself to make [lo, hi) executable, or mappings that
// are writable too. The kernel doesn't see that they would be executable.
func (as *addressSpace) refusesGain(lo, hi, prot uint64) bool {
	if as.mdwe.Load()&mdweRefuse == 0 || prot&unix.PROT_EXEC == 0 {
		return false
	}
	if prot&unix.PROT_WRITE != 0 {
		return true
	}
	as.readRanges()
	defer as.rangesMu.RUnlock()
	for at := lo; at < hi; {
		r, ok := as.ranges.find(at)
		if !ok {
			return true
		}
		at = r.hi
	}
	return false
}
