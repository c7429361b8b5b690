//go:build !plan9

package xv

import (
	"errors"
	"fmt"
	"slices"

	"xvrun/xv/trap"
	"xvrun/xv/virt"
)

// Memory is a range of the memory of one process of a guest. Page tools work on whole pages of 4096 bytes: all that
// the range touches.
//
// A tool is about addresses: what other mappings of the same memory, or other processes, do to it is not told.
//
// Page tools take permissions away in the kernel and give the guest the memory that it means to have: its own protections,
// also those that it changes later, and its /proc/PID/maps stay as they would be. They end for memory that the guest unmaps,
// maps anew or moves, and with an execve. A forked process has memory without tools; only paging goes on in it, on its own.
//
// A tool can be started and closed by any goroutine. A thread of the process has to help: at once if one waits for a callback,
// which may be the caller's own, otherwise as soon as one hands off, and where all sleep one is interrupted by ptrace(2) for it. Where that
// can't be (it is denied, or the thread is in vfork(2)) the caller waits. Memory that is not mapped is an
// error, os.ErrProcessDone the end of the process, and of all others that share its memory. Tools cannot be handed over (Process.HandOver).
//
// The kernel's own accesses, in system calls, count as the guest's. They are told before the call is done,
// by its arguments; what is known of a call's use of memory may be more than it does in the end. A call that finds a buffer by other
// structures than iovec and msghdr fails with EFAULT where a tool would have to be told, and so does io_uring.
type Memory struct {
	Pid  int    // as the host sees it; 0: the first process
	Addr uint64 // of the first byte
	Len  uint64 // in bytes, more than 0
}

// Watch is a tool that Process.Watch or Process.Page has started.
type Watch struct{ tool virt.PageTool }

// Close ends the tool. The memory is as if it had never been; pages that were not filled yet hold what they held before.
func (w *Watch) Close() error { return w.tool.Close() }

// Watch makes f be called before each access of the given kinds, trap.Read, trap.Write or both, to memory. Memory that the
// guest may execute is watched for writes only. f answers:
//
//   - trap.Proceed: the access happens, the memory stays watched;
//   - trap.Retry: the thread goes on with the state in the Context, with the access again, if f has not changed RIP;
//   - trap.Skip: the instruction is left out;
//   - trap.Deliver: the guest gets a SIGSEGV with code SEGV_ACCERR, as if it had no permission;
//   - trap.Kill.
//
// The Context is that of the fault, with SIGSEGV as its signal. In a system call (Context.SystemCall) Proceed lets the call use
// the memory; after all other answers but Kill it fails with EFAULT, and changed registers have no effect.
//
// f is called by several goroutines at a time if several threads use the memory. Each access of each thread is told, and told once: while one
// thread is let through, for one instruction or one system call, no other one executes code of the guest. What they do
// to the pages of a system call that sleeps is not always told (docs/supported.md). An instruction that uses
// several pages is told for each, and one that reads and writes in a page once. Accesses that
// xv makes for the guest are not told: signal frames, and what system calls like sigaction, clone and execve read and write.
func (p *Process) Watch(m Memory, access trap.Access, f func(*trap.Context) trap.Action, options ...WatchOption) (*Watch, error) {
	if access == 0 || access&^(trap.Read|trap.Write) != 0 {
		return nil, errors.New("xv: only reads and writes can be watched")
	}
	return started(p.s.Watch(m.Pid, m.Addr, m.Len, access, f, slices.Contains(options, Loose)))
}

// WatchOption changes what Process.Watch does.
type WatchOption uint8

// Loose lets the other threads go on while one is let through. What they do to its page in that time is not told. A thread that is let through is
// faster by what it takes to keep the others from running, and they by what they wait, see docs/performance.md.
const Loose WatchOption = 1

// Protect takes the permission for the given kinds of access from the guest: each gives it a SIGSEGV with code SEGV_ACCERR, or a
// system call EFAULT. It is Watch with a callback that answers trap.Deliver, so that functions of OnFault see the fault.
func (p *Process) Protect(m Memory, access trap.Access) (*Watch, error) {
	return p.Watch(m, access, func(*trap.Context) trap.Action { return trap.Deliver })
}

// Page makes fill be called at the first access to each page of private memory, for its contents: page is its address,
// b its 4096 bytes, zeros at first. The thread that wants the page waits, as do others that want it; pages are filled one
// at a time. An error of fill gives the guest a SIGBUS, or a system call EFAULT, and the next access
// asks again. fill may use page tools. What the guest throws away by madvise(2) is zero then, and not filled again. Page works by faults alone, without userfaultfd(2), but needs a kernel that lets a
// tracer write to memory without permissions (proc_mem.force_override); else it is an error.
func (p *Process) Page(m Memory, fill func(pid int, page uint64, b []byte) error) (*Watch, error) {
	return started(p.s.Page(m.Pid, m.Addr, m.Len, fill))
}

// prefixed is an error of package virt as one of this package.
func prefixed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("xv: %w", err)
}

func started(t virt.PageTool, err error) (*Watch, error) {
	if err != nil {
		return nil, prefixed(err)
	}
	return &Watch{t}, nil
}

// DirtyTracker is a tool that Process.TrackDirty has started.
type DirtyTracker struct{ tool virt.PageTool }

// TrackDirty begins to note which pages of memory are written. The first write to a page costs a trap.
func (p *Process) TrackDirty(m Memory) (*DirtyTracker, error) {
	t, err := p.s.TrackDirty(m.Pid, m.Addr, m.Len)
	if err != nil {
		return nil, prefixed(err)
	}
	return &DirtyTracker{t}, nil
}

// Pages returns the addresses, in ascending order, of the pages that were written since the last call, or since the
// tracker was started, and begins anew: a write that happens at the time of the call is in this answer or in the next one. Pages
// that a system call could have written may be in it too, and pages next to written ones once the kernel has no room for more
// mappings (vm.max_map_count).
func (d *DirtyTracker) Pages() ([]uint64, error) {
	pages, err := d.tool.Dirty()
	return pages, prefixed(err)
}

// Close ends the tool.
func (d *DirtyTracker) Close() error { return d.tool.Close() }
