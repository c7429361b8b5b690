//go:build linux && amd64

package virt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
	"xvrun/xv/trap"
)

// A system call that stores into a page which was made read-only because of its code fails there, and what it took from a
// socket is lost. So the gate hands a system call off when an argument points near such pages: into the guarded range of
// the address space, which every context holds. Their pages are made writable first.

// guardSlack is how far below the guarded range a pointer counts: a buffer may begin there.
const guardSlack = 1 << 20

// maxReach bounds the buffer that an argument is taken to point at.
const maxReach = 1 << 26

// guard adds a page to the guarded range.
func (as *addressSpace) guard(page uint64) {
	as.rangesMu.Lock()
	defer as.rangesMu.Unlock()
	lo, hi := page-min(page, guardSlack), page+pageSize
	if as.guardHi != 0 {
		lo, hi = min(lo, as.guardLo), max(hi, as.guardHi)
	}
	if lo == as.guardLo && hi == as.guardHi {
		return
	}
	as.guardLo, as.guardHi = lo, hi
	for _, th := range as.s.threadsOf(as) {
		// In between everything is guarded.
		th.ctx.setU64(abi.GuardSize, ^uint64(0))
		th.ctx.setU64(abi.GuardLo, lo)
		th.ctx.setU64(abi.GuardSize, hi-lo)
	}
}

// inherit gives a new thread the guarded range, and the toggles.
func (as *addressSpace) inherit(th *thread) {
	as.rangesMu.RLock()
	defer as.rangesMu.RUnlock()
	th.ctx.setU64(abi.GuardLo, as.guardLo)
	th.ctx.setU64(abi.GuardSize, as.guardHi-as.guardLo)
	th.ctx.setU64(abi.Toggle, as.toggles.first)
}

// threadsOf lists the threads that run in an address space.
func (s *Session) threadsOf(as *addressSpace) []*thread {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*thread
	for _, p := range s.processes {
		if p.as == as {
			for th := range p.threads {
				list = append(list, th)
			}
		}
	}
	return list
}

// inUse reports whether a system call that a thread is in may store into a page.
func (as *addressSpace) inUse(page uint64) bool {
	return slices.ContainsFunc(as.s.threadsOf(as), func(th *thread) bool {
		if th.ctx.u32(abi.InGate) == 0 && !th.away.Load() {
			return false
		}
		// The number of the system call, its arguments, rsp and rip (proc_pid_syscall(5)).
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", th.tid))
		words := bytes.Fields(text)
		if err != nil || len(words) < 7 {
			return true
		}
		return slices.ContainsFunc(words[1:7], func(w []byte) bool {
			v, err := strconv.ParseUint(string(w), 0, 64)
			return err != nil || v < page+pageSize && v+guardSlack > page
		})
	})
}

// asynchronous handles the system calls that make an instance of io_uring or of asynchronous I/O: from now on the kernel may store
// into any memory, at any time, so that no page is made read-only.
func (th *thread) asynchronous(regs *registers) {
	as := th.p.as
	c := as.enter()
	c.dropPages(c.volatile.setAsync())
	as.exit()
	as.unprotectAny(th, 0, userLimit)
	th.finish(regs, call{uintptr(regs.gpr[rax]), th.args(regs)})
}

// releaseBuffers makes the pages writable that the system call k may store into.
func (th *thread) releaseBuffers(k call) {
	as := th.p.as
	as.rangesMu.RLock()
	some := len(as.protected) > 0
	as.rangesMu.RUnlock()
	if !some {
		return
	}
	reach := uint64(pageSize)
	for _, v := range k.args {
		if v <= maxReach {
			reach = max(reach, v)
		}
	}
	for _, v := range k.args {
		th.release(v, reach)
	}
	switch k.nr {
	case unix.SYS_READV, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PROCESS_VM_READV:
		th.releaseVector(k.args[1], k.args[2])
	case unix.SYS_RECVMSG:
		th.releaseMessages(k.args[1], 1)
	case unix.SYS_RECVMMSG:
		th.releaseMessages(k.args[1], k.args[2])
	}
}

func (th *thread) release(addr, size uint64) {
	if lo, hi, ok := pages(addr, size); ok {
		th.p.as.unprotectAny(th, lo, hi)
	}
}

// maxVectors is UIO_MAXIOV, the greatest number of buffers or messages that the kernel takes.
const maxVectors = 1024

// releaseVector does it for the buffers of n struct iovec.
func (th *thread) releaseVector(addr, n uint64) {
	for _, b := range th.vector(addr, n, trap.Write) {
		th.release(b.lo, b.hi-b.lo)
	}
}

// mmsghdrSize is the size of struct mmsghdr, which begins with a struct msghdr (recvmsg(2)).
const mmsghdrSize = 64

// releaseMessages does it for n struct mmsghdr.
func (th *thread) releaseMessages(addr, n uint64) {
	for range min(n, maxVectors) {
		var b [56]byte
		if th.read(addr, b[:]) < len(b) {
			return
		}
		w := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
		th.release(w(0), uint64(uint32(w(8)))) // msg_name
		th.releaseVector(w(16), w(24))
		th.release(w(32), w(40)) // msg_control
		addr += mmsghdrSize
	}
}
