//go:build linux && amd64

package virt

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// process is one process of the guest.
type process struct {
	s          *Session
	pid        int
	pidfd      int
	parent     *process // that made it; nil: the first
	dead       atomic.Bool
	undumpable atomic.Bool          // prctl(PR_SET_DUMPABLE, 0), which is not passed on
	threads    map[*thread]struct{} // guarded by Session.mu
	as         *addressSpace        // changed by execve only, by the thread that executes
	actions    *actionTable
	limits     limits
	executing  atomic.Bool // a thread is in an execve
	borrows    bool        // its parent is in vfork(2) until it executes a program or ends
	confining  sync.Mutex  // held while a filter is installed
	ignoredSet bool        // Config.Ignored was done
}

// thread is one thread of the guest. Its fields belong to the handler of its request, of which there
// is one at a time.
type thread struct {
	p      *process
	slot   int
	ctx    context
	tid    int
	dead   atomic.Bool
	left   bool    // it executes elsewhere, after an execve; guarded by Session.mu
	server *server // that answers the request

	alt      signalStack
	beneath  []uint64     // stack pointers of the guest where handlers began on another stack, see noteBeneath; never written in place
	resuming registers    // what the agent was last told to continue with, rip original
	parked   atomic.Bool  // its handler waits, holding the original state and nothing of the cache
	away     atomic.Bool  // in a system call that the supervisor passed on
	cloning  atomic.Bool  // of the clone family
	forking  atomic.Bool  // making a process with a copy of the memory, in which the translation cache must be the one that it is given
	busy     atomic.Bool  // a server is at work on its request
	waits    atomic.Bool  // with its request, see drain
	halted   atomic.Bool  // by ptrace, since its last system call that ended with EINTR; see interrupted
	zeroed   atomic.Bool  // it was last sent to address 0, see drain
	target   uint64       // of the jump that it then seems to have made
	kicked   atomic.Int64 // when kick last sent a signal, in nanoseconds since the session began
	kicking  atomic.Bool  // a kick is on its way
	trapKick atomic.Bool  // the last one is a SIGTRAP
	kickMu   sync.Mutex   // held while one is sent
	absent   uint64       // page of code that is not there, see hasPages
	weight   int          // samples that the fuel it was last given stands for; 0: one

	wantsRoom atomic.Bool // the cache was full when it last asked

	confined atomic.Pointer[confined] // nil: all system calls are permitted

	op         uint32    // last answer but OpRemote
	raising    *raising  // to be delivered by the trap at address 0 that was asked for
	undo       *undo     // state before the system call that was just answered
	passed     *passed   // the system call that it was let do, nil: none
	attempting attempt   // the mprotect in OpAttempt
	starting   func()    // what the first request of the thread does
	held       []siginfo // signals of SyncMask that processes sent and the guest blocks
	trap       trapWords // of the last fault that the guest saw
	arrived    bool      // the guest is in single steps, and has done an instruction
	skipStep   bool      // it is, and the next instruction that starts comes without a trap
	stepAt     uint64    // where it was when the last trap of a step was none for the guest, 0: it was one

	step     *step         // an instruction that it is let do, nil: none; see letThrough
	admitted []toolPage    // what is open for its system call
	armings  uint32        // of the tools when that was admitted
	bounce   *bounce       // memory that its system call uses instead, nil: none
	lent     lending       // how the memory that its system call uses is open
	runs     atomic.Bool   // it has an answer with which it executes code of the guest until its next request
	answered atomic.Uint32 // how many answers it has got
	hostMu   sync.Mutex    // held by whoever uses the thread while it waits for a callback of the host
	inHost   bool          // a callback uses the thread
}

// passed is a system call that a thread does in OpGate, OpClone or OpExec. Its result ends the guest's
// system call, whose original state is in thread.resuming.
type passed struct {
	call  call    // of OpGate
	child *thread // that it makes, nil: none
	opens bool    // it opens a file by name

	// Of one that was ended with EINTR: how often it was begun again, and when that was first; see interrupted.
	restarts int
	since    time.Time
}

// thread returns the thread of a slot, nil if it is free or out of range.
func (s *Session) thread(slot uint32) *thread {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot == 0 || int(slot) >= len(s.slots) {
		return nil
	}
	return s.slots[slot]
}

// newThread gives a slot to a new thread of p.
func (s *Session) newThread(p *process) (*thread, error) {
	home, hashed := p.as.home(), p.as.isHashed()
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := 0
	for i, f := range s.free {
		if !s.slots[f].lingers() && !s.rung(f) {
			slot = f
			s.free = append(s.free[:i], s.free[i+1:]...)
			break
		}
	}
	if slot == 0 {
		if s.nextSlot > abi.MaxSlots-1 {
			return nil, fmt.Errorf("more than %d threads at once", abi.MaxSlots-1)
		}
		slot = s.nextSlot
		s.nextSlot++
	}
	th := s.threadIn(slot, p, home)
	th.ctx.reset(slot)
	th.setNoTables(hashed)
	return th, nil
}

// rung reports whether a slot is on the list of a doorbell.
func (s *Session) rung(slot int) bool {
	return slices.ContainsFunc(s.bells, func(b *bell) bool { return b.lists(slot) })
}

// lingers reports whether the slot of a thread that has ended cannot be used yet: a thread that exits still executes
// the agent's last instructions, and a server may still be at work on a last request. One without an id has never begun: its clone
// or execve has failed.
func (th *thread) lingers() bool {
	if th == nil {
		return false
	}
	return th.busy.Load() || th.tid != 0 && !th.left && !th.p.dead.Load() && unix.Tgkill(th.p.pid, th.tid, 0) != unix.ESRCH
}

// threadIn makes the thread of p that has a slot. The caller holds mu.
func (s *Session) threadIn(slot int, p *process, home abi.Home) *thread {
	off := abi.SlotsStart + slot*abi.SlotSize
	th := &thread{p: p, slot: slot, ctx: context{mem: s.contexts.view[off : off+abi.SlotSize], addr: home.Slot(slot)}}
	s.slots[slot] = th
	p.threads[th] = struct{}{}
	s.counters.threads.Add(1)
	return th
}

// drop gives the slot of a thread that is ending back.
func (s *Session) drop(th *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := th.p.threads[th]; !ok {
		return
	}
	th.dead.Store(true)
	delete(th.p.threads, th)
	s.free = append(s.free, th.slot)
}

// maxBirth is how long a process whose parent has died meanwhile is waited for: the parent may have
// died before it made the child.
const maxBirth = 2 * time.Second

// expect notes that a process is about to be made, whose first thread is th; born is its inverse.
func (s *Session) expect(th *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.births[th.p] = th
	if th.p.parent.dead.Load() {
		s.expire(th.p)
	}
}

// expire ends the wait for a process whose parent has died.
func (s *Session) expire(p *process) { time.AfterFunc(maxBirth, func() { s.miscarried(p) }) }

// born reports whether p was expected until now.
func (s *Session) born(p *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.births[p]
	delete(s.births, p)
	s.fewer()
	return ok
}

// miscarried gives back what an expected process would have had.
func (s *Session) miscarried(p *process) {
	s.settling.Lock()
	defer s.settling.Unlock()
	s.mu.Lock()
	th := s.births[p]
	s.mu.Unlock()
	if th != nil && s.born(p) {
		s.drop(th)
		p.as.leave()
	}
}

// newProcess makes a process for pid, which must exist and not be reaped yet; 0: not known yet.
func (s *Session) newProcess(pid int, as *addressSpace, actions *actionTable) *process {
	return &process{s: s, pid: pid, pidfd: -1, as: as, actions: actions, threads: map[*thread]struct{}{}}
}

// adopt registers p once its pid is known.
func (s *Session) adopt(p *process, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open of process %d: %w", pid, err)
	}
	p.pid, p.pidfd = pid, fd
	s.mu.Lock()
	s.processes[pid] = p
	s.mu.Unlock()
	s.counters.processes.Add(1)
	s.reaper.add(pid)
	if p == s.first {
		return nil // await waits for it
	}
	return s.deaths.watch(p)
}

// endsWithin is how long a process that was killed may take to end, in milliseconds.
const endsWithin = 200

// ends reports whether a process has ended or is about to, which a signal that can't be handled makes it do
// at once.
func (p *process) ends() bool {
	if p.dead.Load() {
		return true
	}
	if p.pidfd < 0 {
		return false
	}
	for deadline := time.Now().Add(endsWithin * time.Millisecond); ; {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, endsWithin)
		if err != unix.EINTR || time.Now().After(deadline) {
			return n > 0
		}
	}
}

// forget frees what belongs to a process that is dead. It may be called twice.
func (s *Session) forget(p *process) {
	if p.dead.Swap(true) {
		return
	}
	s.reaper.remove(p.pid)
	s.mu.Lock()
	delete(s.processes, p.pid)
	for th := range p.threads {
		th.dead.Store(true)
		futexWake(word32(th.ctx.mem, abi.State))
		s.free = append(s.free, th.slot)
	}
	ended := slices.Collect(maps.Keys(p.threads))
	clear(p.threads)
	s.fewer()
	for child := range s.births {
		if child.parent == p {
			s.expire(child)
		}
	}
	s.mu.Unlock()
	p.as.leave()
	if p.as.users.Load() > 0 && p.as.tools.active.Load() {
		go p.as.closeFor(ended)
	}
	if p != s.first {
		unix.Close(p.pidfd)
	}
}

// deathWatch learns of the end of processes by their pidfds. It takes a thread once there is a process
// to watch.
type deathWatch struct {
	s     *Session
	epoll int
	wake  int // eventfd that ends the watch
	start sync.Once
	done  chan struct{} // closed when the watch has ended
	mu    sync.Mutex
	procs map[int32]*process // by pidfd
}

func newDeathWatch(s *Session) (*deathWatch, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	d := &deathWatch{s: s, epoll: ep, wake: wake, done: make(chan struct{}), procs: map[int32]*process{}}
	unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	return d, nil
}

func (d *deathWatch) watch(p *process) error {
	d.mu.Lock()
	d.procs[int32(p.pidfd)] = p
	d.mu.Unlock()
	err := unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, p.pidfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.pidfd)})
	if err != nil {
		return fmt.Errorf("watching process %d: %w", p.pid, err)
	}
	d.start.Do(func() { go d.run() })
	return nil
}

func (d *deathWatch) run() {
	defer close(d.done)
	defer unix.Close(d.wake)
	defer unix.Close(d.epoll)
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(d.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == int32(d.wake) {
				return
			}
			unix.EpollCtl(d.epoll, unix.EPOLL_CTL_DEL, int(e.Fd), nil)
			d.mu.Lock()
			p := d.procs[e.Fd]
			delete(d.procs, e.Fd)
			d.mu.Unlock()
			if p != nil {
				d.s.forget(p)
			}
		}
	}
}

func (d *deathWatch) close() {
	if d == nil {
		return
	}
	started := true
	d.start.Do(func() {
		started = false
		unix.Close(d.wake)
		unix.Close(d.epoll)
		close(d.done)
	})
	if started {
		unix.Write(d.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}
