//go:build linux && amd64

package virt

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/trap"
)

// Two system calls write to memory of any process: process_vm_writev(2), which respects the protection of pages, and so fails
// where one is read-only for the translator's sake; and a write to /proc/PID/mem, which does not, and so may change what code was
// translated from. The supervisor sees the first always, and the second once a guest has opened such a file for writing.

// processVMWritev handles process_vm_writev.
func (th *thread) processVMWritev(regs *registers) {
	k := call{unix.SYS_PROCESS_VM_WRITEV, th.args(regs)}
	p := th.processOf(int(int32(k.args[0])))
	if p == nil {
		th.gateCall(*regs, k)
		return
	}
	if !th.admitCall(regs, k) {
		return
	}
	to := th.vector(k.args[3], k.args[4], trap.Write)
	as := p.space()
	r := th.remote(k)[0]
	if as == th.p.as {
		// Pages may settle again at any time, and another thread may have made them writable since.
		for tries := 0; tries < 3 && incomplete(r, to); tries++ {
			th.releaseSpans(to)
			r = th.remote(k)[0]
		}
	} else if incomplete(r, to) {
		r = th.writeOn(p, as, th.vector(k.args[1], k.args[2], trap.Read), to, uint64(max(r, 0)))
	}
	left := uint64(max(r, 0))
	for _, s := range to {
		n := min(left, s.hi-s.lo)
		as.changed(s.lo, s.lo+n)
		left -= n
	}
	th.result(regs, r)
}

// incomplete reports whether the result of process_vm_writev says that memory could not be written.
func incomplete(r int64, to []span) bool {
	total := uint64(0)
	for _, s := range to {
		total += s.hi - s.lo
	}
	return r == -int64(unix.EFAULT) || r >= 0 && uint64(r) < total
}

// releaseSpans makes pages writable that are read-only for the translator's sake.
func (th *thread) releaseSpans(list []span) {
	for _, s := range list {
		if lo, hi, ok := pages(s.lo, s.hi-s.lo); ok {
			th.p.as.unprotectAny(th, lo, hi)
		}
	}
}

// writeOn goes on with a process_vm_writev of th to p, which the kernel has permitted and ended after done bytes, at pages that
// may be read-only for the translator's sake: these are written past their protection. It returns the result of the system call.
func (th *thread) writeOn(p *process, as *addressSpace, from, to []span, done uint64) int64 {
	tid := p.anyThread()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", tid), os.O_WRONLY, 0)
	if err != nil {
		return -int64(unix.ESRCH)
	}
	defer mem.Close()
	th.server.yield()
	source, target := cursor{from, 0}.skip(done), cursor{to, 0}.skip(done)
	buf := make([]byte, pageSize)
	for {
		src, dst := source.next(), target.next()
		n := min(src.hi-src.lo, dst.hi-dst.lo, pageSize-dst.lo%pageSize)
		if n == 0 {
			break // the shorter list ends
		}
		b := buf[:n]
		if uint64(th.read(src.lo, b)) < n || !as.pokeInto(tid, mem, dst.lo, b) {
			break
		}
		done += n
		source, target = source.skip(n), target.skip(n)
	}
	if done == 0 {
		return -int64(unix.EFAULT)
	}
	return int64(done)
}

// pokeInto writes b to memory of a process, all in one page, past its protection if that is the translator's.
func (as *addressSpace) pokeInto(tid int, mem *os.File, addr uint64, b []byte) bool {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	for range 3 { // whether the page is read-only for the translator's sake may change meanwhile
		if as.isProtected(addr) {
			_, err := mem.WriteAt(b, int64(addr))
			return err == nil
		}
		if n, err := unix.ProcessVMWritev(tid, local, remote, 0); err == nil && n == len(b) {
			return true
		}
	}
	return false
}

// cursor is a place in a list of spans: off bytes into the first.
type cursor struct {
	list []span
	off  uint64
}

// skip returns the place n bytes further.
func (c cursor) skip(n uint64) cursor {
	for len(c.list) > 0 && n >= c.list[0].hi-c.list[0].lo-c.off {
		n -= c.list[0].hi - c.list[0].lo - c.off
		c = cursor{c.list[1:], 0}
	}
	c.off += n
	return c
}

// next is what is left of the span at the place, empty at the end.
func (c cursor) next() span {
	if len(c.list) == 0 {
		return span{}
	}
	return span{lo: c.list[0].lo + c.off, hi: c.list[0].hi}
}

// changed is told that [from, to) has been written past the protection of its pages: what was translated from it is
// dropped. Pages that are read-only for the translator's sake stay so. Another process may call it.
func (as *addressSpace) changed(from, to uint64) {
	lo, hi, ok := pages(from, to-from)
	if !ok {
		return
	}
	as.mu.RLock()
	defer as.mu.RUnlock()
	if as.closed {
		return
	}
	c := as.code
	as.readRanges()
	code := as.ranges.within(lo, hi)
	var others []uint64 // pages of code that have another mapping in [lo, hi)
	for page, list := range as.aliases {
		if lo <= page && page < hi {
			others = append(others, list...)
		}
	}
	as.rangesMu.RUnlock()
	if c.users.Load() > 1 {
		// What the processes that share the cache have there is not the same from now on: only checks tell which it is.
		for _, r := range code {
			c.volatile.add(r.lo, r.hi, true)
		}
	}
	if len(code) > 0 {
		c.warm.forgetFiles(lo, hi)
		c.space.Invalidate(from, to)
	}
	for _, page := range others {
		c.space.Invalidate(page, page+pageSize)
	}
}

// memFileCalls are the system calls by which files in /proc/PID/mem are written: they can't be spliced.
var memFileCalls = map[uint64]bool{
	unix.SYS_WRITE: true, unix.SYS_PWRITE64: true, unix.SYS_WRITEV: true, unix.SYS_PWRITEV: true, unix.SYS_PWRITEV2: true,
}

// watchWrites has the gate hand off what may write to the memory of a process from now on: the thread has opened such a file.
func (th *thread) watchWrites() {
	s := th.p.s
	if !s.agent.readOnly {
		for nr := range memFileCalls {
			agent.HandOff(s.agent.view, int(nr))
		}
		return
	}
	if err := th.unpass(); err != nil { // after a handover
		s.fail(th.p, fmt.Errorf("process %d: watching writes to memory: %w", th.p.pid, err))
		panic(gone{})
	}
}

// writeMemFile does the write k if it is to the memory of a guest; it reports whether it was.
func (th *thread) writeMemFile(regs *registers, k call) bool {
	file := fmt.Sprintf("/proc/%d/fd/%d", th.tid, int32(k.args[0]))
	name, err := os.Readlink(file)
	if err != nil || path.Base(name) != memFile {
		return false
	}
	var fs unix.Statfs_t
	if unix.Statfs(file, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	p := th.processOf(procOwner(name))
	if p == nil {
		return false
	}
	size := k.args[2]
	if k.nr != unix.SYS_WRITE && k.nr != unix.SYS_PWRITE64 {
		size = 0
		for _, s := range th.vector(k.args[1], k.args[2], trap.Read) {
			size += s.hi - s.lo
		}
	}
	addr := k.args[3]
	if k.nr == unix.SYS_WRITE || k.nr == unix.SYS_WRITEV || k.nr == unix.SYS_PWRITEV2 && addr == ^uint64(0) {
		if addr, err = strconv.ParseUint(th.fdInfo(int64(int32(k.args[0])), "pos"), 10, 64); err != nil {
			return false
		}
	}
	if !th.admitCall(regs, k) {
		return true
	}
	as := p.space()
	if as == th.p.as {
		th.releaseSpans([]span{{lo: addr, hi: addr + size}}) // memory that is mapped shared can't be written past its protection
	}
	r := th.remote(k)[0]
	if r > 0 {
		as.changed(addr, addr+uint64(r))
	}
	th.result(regs, r)
	return true
}

// memFile is the name of a process's memory in /proc/PID.
const memFile = "mem"

// fdInfo is a number of the descriptor of the guest, as text (proc_pid_fdinfo(5)); "" if there is none.
func (th *thread) fdInfo(fd int64, what string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", th.tid, fd))
	if err != nil {
		return ""
	}
	_, rest, _ := bytes.Cut(text, []byte(what+":\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(line)
}

// anyThread is the number of one of the threads of a process, which may have outlived the first.
func (p *process) anyThread() int {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for th := range p.threads {
		return th.tid
	}
	return p.pid
}
