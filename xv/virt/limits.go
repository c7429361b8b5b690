//go:build linux && amd64

package virt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// limit is a resource limit (getrlimit(2)).
type limit struct{ soft, hard uint64 }

// infinite is RLIM_INFINITY.
const infinite = ^uint64(0)

// limits are the resource limits of a process that the kernel doesn't hold for the guest: its own would
// count what xv needs in the process.
type limits struct {
	mu    sync.Mutex
	space limit  // RLIMIT_AS; the kernel has that of xvrun
	files uint64 // RLIMIT_NOFILE: the hard limit; the kernel has that of xvrun, see borrower.allowFiles
}

func (l *limits) get() (space limit, files uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.space, l.files
}

// inherit copies the limits of a process that forks or executes.
func (l *limits) inherit(from *limits) { l.space, l.files = from.get() }

// setLimits gives the first process its limits.
func (s *Session) setLimits(p *process) error {
	var files unix.Rlimit
	if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, nil, &files); err != nil {
		return fmt.Errorf("prlimit: %w", err)
	}
	p.limits.space, p.limits.files = limit{infinite, infinite}, files.Max
	for _, l := range s.cfg.Limits {
		to := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		switch l.Resource {
		case unix.RLIMIT_AS:
			p.limits.space = limit{l.Soft, l.Hard}
			s.countSpace(p.limits.space)
			continue
		case unix.RLIMIT_NOFILE:
			p.limits.files = l.Hard
			to.Max = max(files.Max, l.Hard)
		}
		if err := unix.Prlimit(p.pid, l.Resource, &to, nil); err != nil {
			return fmt.Errorf("limit %d of resource %d: %w", l.Soft, l.Resource, err)
		}
	}
	return nil
}

// countSpace has the supervisor look at changes of the program break once a process is limited. What maps
// memory it sees anyway.
func (s *Session) countSpace(l limit) {
	if l.soft != infinite {
		s.watchBreak()
	}
}

// watchBreak has the supervisor look at changes of the program break. After a handover it looks at all of them, and can't write
// the agent's memory.
func (s *Session) watchBreak() {
	if !s.agent.readOnly {
		agent.HandOff(s.agent.view, unix.SYS_BRK)
	}
}

func (th *thread) getrlimit(regs *registers) {
	a := th.args(regs)
	th.limit(regs, 0, a[0], 0, a[1])
}

func (th *thread) setrlimit(regs *registers) {
	a := th.args(regs)
	th.limit(regs, 0, a[0], a[1], 0)
}

func (th *thread) prlimit64(regs *registers) {
	a := th.args(regs)
	th.limit(regs, a[0], a[1], a[2], a[3])
}

// limit does prlimit64(2) for a process as the caller numbers it, 0 for its own.
func (th *thread) limit(regs *registers, pid, resource, newAt, oldAt uint64) {
	native := call{unix.SYS_PRLIMIT64, [6]uint64{pid, resource, newAt, oldAt}}
	p := th.p
	if int32(pid) != 0 {
		p = th.processOf(int(int32(pid)))
	}
	if p == nil || uint32(resource) != unix.RLIMIT_AS && uint32(resource) != unix.RLIMIT_NOFILE {
		th.finish(regs, native)
		return
	}
	var next *limit
	if newAt != 0 {
		var b [16]byte
		if th.read(newAt, b[:]) < len(b) {
			th.result(regs, -int64(unix.EFAULT))
			return
		}
		next = &limit{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
	}
	old, errno := th.exchangeLimit(p, int(pid), int(resource), next)
	if errno == 0 && oldAt != 0 && !th.write(oldAt, append(le64(old.soft), le64(old.hard)...)) {
		errno = unix.EFAULT
	}
	th.result(regs, -int64(errno))
}

// exchangeLimit sets a limit of p, whose number is pid for the caller, if next isn't nil. It returns the
// limit before.
func (th *thread) exchangeLimit(p *process, pid, resource int, next *limit) (old limit, _ unix.Errno) {
	// The kernel knows whether the caller may look at p, and the soft limit of open files.
	at := th.ctx.scratchAddr()
	if r := th.remote(call{unix.SYS_PRLIMIT64, [6]uint64{uint64(pid), uint64(resource), 0, at}})[0]; r < 0 {
		return old, unix.Errno(-r)
	}
	kernel := limit{binary.LittleEndian.Uint64(th.ctx.scratch()), binary.LittleEndian.Uint64(th.ctx.scratch()[8:])}
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	if resource == unix.RLIMIT_AS {
		old = p.limits.space
	} else {
		old = limit{min(kernel.soft, p.limits.files), p.limits.files}
	}
	switch {
	case next == nil:
		return old, 0
	case next.soft > next.hard:
		return old, unix.EINVAL
	case next.hard > old.hard && !th.hasCapability(unix.CAP_SYS_RESOURCE):
		return old, unix.EPERM
	}
	if resource == unix.RLIMIT_AS {
		p.limits.space = *next
		th.p.s.countSpace(*next)
		return old, 0
	}
	copy(th.ctx.scratch(), append(le64(next.soft), le64(max(next.hard, kernel.hard))...))
	if r := th.remote(call{unix.SYS_PRLIMIT64, [6]uint64{uint64(pid), unix.RLIMIT_NOFILE, at, 0}})[0]; r < 0 {
		return old, unix.Errno(-r)
	}
	p.limits.files = next.hard
	return old, 0
}

// hasCapability reports whether the thread has a capability in the initial user namespace, which maps all
// ids to themselves (capabilities(7), user_namespaces(7)).
func (th *thread) hasCapability(number int) bool {
	caps, _ := th.capabilities()
	ids, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", th.tid))
	return err == nil && caps>>number&1 != 0 && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// capabilities returns the effective capabilities of the thread in its user namespace, and the text of
// /proc/TID/status that they are from. Without that there are none.
func (th *thread) capabilities() (caps uint64, status []byte) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", th.tid))
	if err != nil {
		return 0, nil
	}
	_, rest, _ := bytes.Cut(status, []byte("\nCapEff:\t"))
	fmt.Sscanf(string(rest), "%x", &caps)
	return caps, status
}

// fits reports whether the address space of the thread's process may grow by size bytes, less what is
// mapped in [lo, hi) now (mm/mmap.c, may_expand_vm).
func (th *thread) fits(size, lo, hi uint64) bool {
	space, _ := th.p.limits.get()
	if space.soft == infinite {
		return true
	}
	maps, err := th.maps()
	if err != nil {
		return true
	}
	return spaceOf(th.home(), maps, lo, hi)+size <= space.soft
}

// spaceOf is the size of the guest's mappings outside [lo, hi), in bytes.
func spaceOf(home abi.Home, maps []loader.VMA, lo, hi uint64) (total uint64) {
	for _, v := range maps {
		if isOurs(home, v) || isVsyscall(v.Start) {
			continue
		}
		total += v.Len()
		if v.Start < hi && lo < v.End {
			total -= min(v.End, hi) - max(v.Start, lo)
		}
	}
	return total
}

// isOurs reports whether a mapping of a guest is xv's, which has its home there: its region, or a part of the lookup tables.
func isOurs(home abi.Home, v loader.VMA) bool {
	return v.Start >= home.Base && v.Start < home.End() && strings.HasPrefix(v.Path, "/memfd:xv-") ||
		v.Start >= abi.Table && strings.HasPrefix(v.Path, "/memfd:xv-tables")
}

// brk is handled while a process has a limit of its address space, or a program break that may meet xv.
func (th *thread) brk(regs *registers) {
	a := th.args(regs)
	now := th.remote(call{nr: unix.SYS_BRK})[0]
	old, next := pageUp(uint64(now)), pageUp(a[0])
	if next > old {
		if !th.fits(next-old, 0, 0) {
			th.result(regs, now)
			return
		}
		if !th.makeWay(old, next+pageSize, unless) { // the kernel keeps a page free (mm/mmap.c, brk)
			return
		}
	}
	th.finish(regs, call{unix.SYS_BRK, a})
}

func pageUp(addr uint64) uint64 { return (addr + pageSize - 1) &^ (pageSize - 1) }
