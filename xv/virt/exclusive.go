//go:build linux && amd64

package virt

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// exclusive lets one thread of an address space, the owner, use pages that are open for it only: no other thread executes code of the guest
// meanwhile. None is stopped, or waited for:
//
//   - The answers to requests, after which threads go on with the guest's code, are put off.
//   - A thread in a system call that the gate does is handed off when it comes back, since Hold is set in its context: it stores
//     InGate and then loads Hold, while acquire stores Hold, has all processors do a memory barrier, and then loads InGate.
//     A thread that is about to begin one does the same, and so never gets a kick in it.
//   - All others are kicked. When membarrier(2) returns, each processor has been in the kernel since, and delivers the signal before
//     it goes on in user mode. The handler hands off.
//
// What the owner does may take long: it is stopped, or waits for memory that another thread has to fill. After a time the others go on.
type exclusive struct {
	turn  sync.Mutex             // held from acquire to release, by different goroutines
	owner atomic.Pointer[thread] // nil: none

	mu      sync.Mutex
	pages   []toolPage // that are open for the owner, and closed when its time ends
	timer   *time.Timer
	answers []answer // that are put off
	waiting int      // threads that want a turn
	debts   []debt   // of the last time

	unwanted bool // the time of the owner is up when another thread wants to go on
}

// answer is one that a thread gets later.
type answer struct {
	th     *thread
	op     uint32
	count  int
	vector []byte // the system calls
}

// debt is a thread that was kept from running when it had been given so many answers.
type debt struct {
	th    *thread
	after uint32
}

// nobody is the owner when the time of the real one is up, until its pages are closed.
var nobody = new(thread)

// How long the others wait if they want to go on: at least patience, and then while the owner is at work, but no longer than most.
const (
	patience = time.Millisecond
	most     = 100 * time.Millisecond
)

// How long the threads that were kept from running may run before they are again, and are waited for until they do.
const (
	turnLength = 40 * time.Microsecond
	fairness   = time.Millisecond
)

// Commands of membarrier(2).
const (
	membarrierGlobalExpedited         = 1 << 1
	membarrierRegisterGlobalExpedited = 1 << 2
)

// barrier makes each processor that runs a thread of a process with page tools enter the kernel, and do a memory barrier there.
func barrier() error {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobalExpedited, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// canExclude reports why barrier does not work in the address space of c. What it tells the kernel holds until an execve.
func canExclude(c caller) error {
	err := barrier()
	if err == nil {
		err = perform(c, call{unix.SYS_MEMBARRIER, [6]uint64{membarrierRegisterGlobalExpedited}})
	}
	if err != nil {
		return fmt.Errorf("accesses of other threads would go unseen (xv.Loose permits that), since membarrier(2) fails: %w", err)
	}
	return nil
}

// acquire makes th the owner. It waits until no other thread is. The caller handles a request of th, holding nothing that others need to go on.
func (x *exclusive) acquire(th *thread) {
	if !x.turn.TryLock() {
		th.server.leave()
		unhost := th.host() // it may be needed to close the pages of the owner
		x.await()
		unhost()
		th.server.enter()
	}
	x.payDebts(th)
	x.owner.Store(th)
	others := slices.DeleteFunc(th.p.s.threadsOf(th.p.as), func(o *thread) bool { return o == th })
	if len(others) == 0 {
		return
	}
	for _, o := range others {
		o.ctx.setU32(abi.Hold, 1)
	}
	for kicked := []*thread(nil); ; {
		for _, o := range others {
			if !o.mayRun() {
				continue
			}
			o.kick()
			if !slices.Contains(kicked, o) {
				kicked = append(kicked, o)
				x.owe(o)
			}
		}
		if err := barrier(); err != nil { // install has tried it
			th.p.s.fail(th.p, err)
			panic(gone{})
		}
		escaped := func(o *thread) bool {
			return o.mayRun() && !(slices.Contains(kicked, o) && o.kicking.Load() && !o.kickBlocked())
		}
		if !slices.ContainsFunc(others, escaped) {
			return
		}
	}
}

// mayRun reports whether a thread may execute the guest's code before it comes with a request, if no kick is on its way to it.
func (th *thread) mayRun() bool {
	return th.runs.Load() && !th.dead.Load() && th.ctx.u32(abi.InGate) == 0 && th.ctx.u32(abi.State) != abi.StateRequest
}

// putOff reports whether an answer to th, after which it executes code of the guest, is given later.
func (x *exclusive) putOff(th *thread, op uint32, count int) bool {
	mine := func() bool {
		owner := x.owner.Load()
		return owner == nil || owner == th
	}
	if mine() {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if mine() {
		return false
	}
	a := answer{th: th, op: op, count: count}
	a.vector = slices.Clone(th.ctx.mem[abi.Vector : abi.Vector+count*abi.CallSize])
	x.answers = append(x.answers, a)
	x.want()
	return true
}

// owe notes that a thread is kept from running. Before it is again it must have run.
func (x *exclusive) owe(th *thread) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.debts = append(x.debts, debt{th, th.answered.Load()})
}

// payDebts lets the threads run that the last owner has kept from it, until they come with another request or for a while: others than th may
// wait for what they do.
func (x *exclusive) payDebts(th *thread) {
	x.mu.Lock()
	debts := x.debts
	x.debts = nil
	x.mu.Unlock()
	start := time.Now()
	unpaid := func(d debt) bool {
		if d.th == th || d.th.dead.Load() {
			return false
		}
		began := d.th.answered.Load() != d.after && d.th.ctx.u32(abi.State) != abi.StateReply
		return !began || d.th.mayRun() && time.Since(start) < turnLength
	}
	if !slices.ContainsFunc(debts, unpaid) {
		return
	}
	th.server.leave()
	defer th.server.enter()
	for slices.ContainsFunc(debts, unpaid) && time.Since(start) < fairness {
		unix.Nanosleep(&unix.Timespec{Nsec: int64(turnLength / 2)}, nil) // time.Sleep may take a millisecond
	}
}

// openFor notes that the owner th opens pages, and has the others go on if it takes long.
func (x *exclusive) openFor(th *thread, pages []toolPage) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pages = pages
	x.check(th, patience, time.Now().Add(most))
}

// check looks after a while whether the others must go on, if one wants to: when the owner sleeps, and at the deadline in any case. The caller holds mu.
func (x *exclusive) check(th *thread, wait time.Duration, deadline time.Time) {
	var timer *time.Timer
	as := th.p.as
	x.unwanted = false
	timer = time.AfterFunc(wait, func() {
		defer as.s.guard(th.p)
		works := th.works() && time.Now().Before(deadline)
		x.mu.Lock()
		switch {
		case x.timer != timer:
		case works:
			x.check(th, patience, deadline)
		case len(x.answers) == 0 && x.waiting == 0:
			x.unwanted = true
		default:
			x.mu.Unlock()
			if pages, ok := x.take(th, timer); ok {
				as.s.trace("%d: the use of watched memory takes long", th.tid)
				as.closeByAny(pages)
				x.release(as)
			}
			return
		}
		x.mu.Unlock()
	})
	x.timer = timer
}

// want notes that another thread than the owner wants to go on. The caller holds mu.
func (x *exclusive) want() {
	if owner := x.owner.Load(); x.unwanted && owner != nil && owner != nobody {
		x.check(owner, 0, time.Now())
	}
}

// await waits for the turn of a thread.
func (x *exclusive) await() {
	x.mu.Lock()
	x.waiting++
	x.want()
	x.mu.Unlock()
	x.turn.Lock()
	x.mu.Lock()
	x.waiting--
	x.mu.Unlock()
}

// works reports whether the thread runs, or a server is to answer it: it does not sleep in the kernel, and is not stopped.
func (th *thread) works() bool {
	fields := statOf(th.tid)
	if len(fields) == 0 {
		return false
	}
	switch fields[0][0] {
	case 'R':
		return true
	case 'S':
		state := th.ctx.u32(abi.State)
		return state != abi.StateRun && state != abi.StateReply
	}
	return false
}

// take ends the time of the owner, if that is th, and the timer, unless that is nil, its last one. It reports whether it was, with the pages
// that the caller must close before release.
func (x *exclusive) take(th *thread, timer *time.Timer) (pages []toolPage, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.owner.Load() != th || timer != nil && timer != x.timer {
		return nil, false
	}
	x.owner.Store(nobody)
	x.timer.Stop()
	x.timer, x.unwanted = nil, false
	pages, x.pages = x.pages, nil
	return pages, true
}

// release lets the threads of the address space go on.
func (x *exclusive) release(as *addressSpace) {
	x.mu.Lock()
	x.owner.Store(nil)
	for _, th := range as.s.threadsOf(as) {
		th.ctx.setU32(abi.Hold, 0)
	}
	answers := x.answers
	x.answers = nil
	for _, a := range answers {
		x.debts = append(x.debts, debt{a.th, a.th.answered.Load()})
	}
	x.mu.Unlock()
	for _, a := range answers {
		copy(a.th.ctx.mem[abi.Vector:], a.vector)
		a.th.answer(a.op, a.count)
	}
	x.turn.Unlock()
}

// closeByAny closes pages that were open for an owner that can't do it.
func (as *addressSpace) closeByAny(pages []toolPage) {
	if len(pages) == 0 {
		return
	}
	ts := &as.tools
	ts.mu.Lock()
	for _, p := range pages {
		p.t.reopen(p.lo, p.hi, -1)
	}
	ts.mu.Unlock()
	err := as.byThread(func(_ *thread, c caller) error {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		for _, p := range pages {
			if err := as.apply(c, p.lo, p.hi); err != nil {
				return err
			}
		}
		return nil
	}, as.useHeld)
	if err != nil && err != os.ErrProcessDone {
		as.s.abort(nil, fmt.Errorf("watched memory can't be closed again: %w", err))
	}
}

// useHeld does the jobs that wait through a thread whose answer is put off. Nobody may end that meanwhile.
func (as *addressSpace) useHeld() bool {
	x := &as.tools.exclusive
	x.mu.Lock()
	answers := slices.Clone(x.answers)
	x.mu.Unlock()
	for _, a := range answers {
		if !a.th.ended() {
			return as.tools.jobs.doAll(a.th, heldThread{a.th})
		}
	}
	return false
}

// heldThread performs system calls in a thread whose request no server is at work on.
type heldThread struct{ *thread }

func (c heldThread) perform(calls ...call) ([]int64, error) { return c.vectors(calls), nil }
