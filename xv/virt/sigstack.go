//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// signalStack is the guest's alternate signal stack (sigaltstack(2)).
type signalStack struct {
	sp    uint64
	flags uint32
	size  uint64 // 0: there is none
}

// Flags of a signal stack.
const (
	ssOnStack = 1
	ssDisable = 2

	// ssAutodisarm is SS_AUTODISARM. The agent's own stack has it: the kernel forgets the stack while a
	// handler runs on it, so that a guest's handler, which leaves it for its own stack, can be interrupted
	// onto it again.
	ssAutodisarm = 1 << 31
)

// contains reports whether sp is on the stack; an autodisarmed one is never taken to be in use.
func (a *signalStack) contains(sp uint64) bool {
	return a.flags&ssAutodisarm == 0 && sp > a.sp && sp-a.sp <= a.size
}

// state is what sigaltstack tells of a thread's stack, whose stack pointer is sp.
func (a *signalStack) state(sp uint64) uint32 {
	switch {
	case a.size == 0:
		return ssDisable | a.flags&ssAutodisarm
	case a.contains(sp):
		return ssOnStack
	}
	return a.flags & ssAutodisarm
}

// minSigStack is MINSIGSTKSZ, the least size that the kernel takes for an alternate stack.
const minSigStack = 2048

func (th *thread) sigaltstack(regs *registers) {
	a := th.args(regs)
	old := th.alt
	if a[0] != 0 {
		var b [24]byte
		if th.read(a[0], b[:]) < len(b) {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
		next := signalStack{
			sp:    binary.LittleEndian.Uint64(b[0:]),
			flags: binary.LittleEndian.Uint32(b[8:]),
			size:  binary.LittleEndian.Uint64(b[16:]),
		}
		if errno := th.setAltStack(next, regs.gpr[rsp]); errno != 0 {
			th.result(regs, -int64(errno))
			return
		}
	}
	if a[1] != 0 {
		out := le64(old.sp)
		out = binary.LittleEndian.AppendUint64(out, uint64(old.state(regs.gpr[rsp])))
		out = binary.LittleEndian.AppendUint64(out, old.size)
		if !th.write(a[1], out) {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
	}
	th.result(regs, 0)
}

// setAltStack does what sigaltstack(2) says about changing the stack while on it and about flags.
func (th *thread) setAltStack(next signalStack, sp uint64) unix.Errno {
	if th.alt.contains(sp) {
		return unix.EPERM
	}
	switch mode := next.flags &^ ssAutodisarm; {
	case mode != ssDisable && mode != ssOnStack && mode != 0:
		return unix.EINVAL
	case next == th.alt:
		return 0
	case mode == ssDisable:
		next.sp, next.size = 0, 0
	case next.size < minSigStack:
		return unix.ENOMEM
	}
	th.alt = next
	return 0
}

// beneathLimit bounds thread.beneath: handlers may leave without a return.
const beneathLimit = 4

// noteBeneath notes that a handler begins on the alternate stack while the stack pointer is sp: return addresses above that are used too.
func (th *thread) noteBeneath(sp uint64) {
	th.beneath = append(slices.Clip(th.beneath[max(0, len(th.beneath)-beneathLimit+1):]), sp)
}

// backOn notes that a handler returns to where the stack pointer is sp.
func (th *thread) backOn(sp uint64) {
	if last := len(th.beneath) - 1; last >= 0 && th.beneath[last] == sp {
		th.beneath = th.beneath[:last]
	}
}
