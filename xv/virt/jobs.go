//go:build linux && amd64

package virt

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xvrun/xv/agent/abi"
	"xvrun/xv/trap"
)

// jobs is work that the host wants done by some thread of an address space, since only its own threads can change it: by one
// that waits for a callback of the host, by the next one that hands off, for which those that run are kicked, or by one
// that sleeps in a system call (see useSleeper).
type jobs struct {
	pending atomic.Int32 // length of list
	mu      sync.Mutex
	list    []*job
	ended   bool                    // no thread will come any more
	hosted  map[*thread]*sync.Mutex // threads that wait for callbacks, or their turn (see exclusive); the mutex is held while one is used
}

// job is one of them: do is called with a thread, and what performs system calls in it. If the thread dies meanwhile, do is called
// again with another one, and later if the error is errForks.
type job struct {
	do   func(th *thread, c caller) error
	done chan error // gets the result, or os.ErrProcessDone
}

// jobPatience is how long a job waits for a thread that runs until it is looked for again, and others are tried.
const jobPatience = time.Millisecond

// onThread lets a thread of the address space do f. The error is os.ErrProcessDone if no process is left there.
func (as *addressSpace) onThread(f func(th *thread, c caller) error) error {
	return as.byThread(f, func() bool { return false })
}

// byThread is onThread for a caller that knows of other threads: use does what waits through one, and reports whether there was one.
func (as *addressSpace) byThread(f func(th *thread, c caller) error, use func() bool) error {
	js := &as.tools.jobs
	j := &job{do: f, done: make(chan error, 1)}
	if !js.add(j) {
		return os.ErrProcessDone
	}
	var tried time.Time
	var took time.Duration
	for {
		if !use() && !as.useHosted() {
			as.kickSome()
		}
		select {
		case err := <-j.done:
			return err
		case <-time.After(jobPatience):
		}
		if time.Since(tried) > pausesApart*took {
			tried = time.Now()
			as.useSleeper()
			took = time.Since(tried)
		}
	}
}

// kickSome makes threads that run hand off.
func (as *addressSpace) kickSome() {
	for _, th := range as.s.threadsOf(as) {
		if th.ctx.u32(abi.State) == abi.StateRun && th.ctx.u32(abi.InGate) == 0 && !th.away.Load() {
			th.kick()
		}
	}
}

// add reports false if nobody will do the job.
func (js *jobs) add(j *job) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	if js.ended {
		return false
	}
	js.list = append(js.list, j)
	js.pending.Add(1)
	return true
}

// take returns the next job, nil if there is none.
func (js *jobs) take() *job {
	js.mu.Lock()
	defer js.mu.Unlock()
	if len(js.list) == 0 {
		return nil
	}
	j := js.list[0]
	js.list = js.list[1:]
	js.pending.Add(-1)
	return j
}

// end is called when no process of the address space is left.
func (js *jobs) end() {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.ended = true
	for _, j := range js.list {
		j.done <- os.ErrProcessDone
	}
	js.list = nil
	js.pending.Store(0)
}

// errForks says that a job must wait: the memory that a process is being made with must be that of the tools which it was given.
var errForks = errors.New("a process is being made")

// doAll does what waits through th, in which c performs system calls. It reports false if th is no longer: the rest is for others then.
func (js *jobs) doAll(th *thread, c caller) bool {
	for j := js.take(); j != nil; j = js.take() {
		err := survive(func() error { return j.do(th, c) })
		later := err == errForks
		if !later && (err == nil || !th.ended()) {
			j.done <- err
			continue
		}
		if !js.add(j) {
			j.done <- os.ErrProcessDone
		}
		return later
	}
	return true
}

// lockUnforked locks mu for a job that changes the tools. After an error it is not locked.
func (as *addressSpace) lockUnforked() error {
	as.tools.mu.Lock()
	if as.forks() {
		as.tools.mu.Unlock()
		return errForks
	}
	return nil
}

// ended reports whether the thread has ended or is about to.
func (th *thread) ended() bool { return th.dead.Load() || th.p.dead.Load() || ending(th.tid) }

// doJobs does what waits for a thread of its address space.
func (th *thread) doJobs() {
	if !th.p.as.tools.jobs.doAll(th, th) {
		panic(gone{})
	}
}

// survive turns the end of the thread or address space that f uses into os.ErrProcessDone.
func survive(f func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case gone:
			err = os.ErrProcessDone
		default:
			panic(r)
		}
	}()
	return f()
}

// host takes note that the thread waits for a callback, or its turn, until the function that it returns is called.
func (th *thread) host() (leave func()) {
	js := &th.p.as.tools.jobs
	mu := &th.hostMu
	js.mu.Lock()
	defer js.mu.Unlock()
	if _, nested := js.hosted[th]; nested {
		return func() {}
	}
	if js.hosted == nil {
		js.hosted = map[*thread]*sync.Mutex{}
	}
	js.hosted[th] = mu
	return func() {
		js.mu.Lock()
		delete(js.hosted, th)
		js.mu.Unlock()
		mu.Lock() // whoever uses the thread has done
		mu.Unlock()
	}
}

// useHosted does what waits through a thread that waits for a callback. It reports whether there was one that nobody else used.
func (as *addressSpace) useHosted() bool {
	js := &as.tools.jobs
	js.mu.Lock()
	for th, mu := range js.hosted {
		if mu.TryLock() {
			js.mu.Unlock()
			defer mu.Unlock()
			return js.doAll(th, th)
		}
	}
	js.mu.Unlock()
	return false
}

// tool starts a page tool for memory of a process.
func (s *Session) tool(pid int, addr, length uint64, t *pageTool) (PageTool, error) {
	lo, hi, ok := pages(addr, length)
	if !ok || hi > userLimit {
		return nil, fmt.Errorf("%#x bytes at %#x are no memory of a program", length, addr)
	}
	s.mu.Lock()
	p := s.first
	if pid != 0 {
		p = s.processes[pid]
	}
	if p == nil || p.dead.Load() {
		s.mu.Unlock()
		return nil, os.ErrProcessDone
	}
	t.as = p.as
	s.mu.Unlock()
	t.open = map[uint64]int{}
	if reserved, err := t.as.isReserved(lo, hi); err != nil || reserved {
		return nil, cmp.Or(err, errNotMapped)
	}
	if err := t.as.onThread(func(th *thread, c caller) error { return t.install(th, c, lo, hi) }); err != nil {
		return nil, fmt.Errorf("memory %#x-%#x of process %d: %w", lo, hi, p.pid, err)
	}
	return t, nil
}

// isReserved is reserved for callers that are no handlers. The error is os.ErrProcessDone.
func (as *addressSpace) isReserved(lo, hi uint64) (yes bool, err error) {
	err = survive(func() error {
		yes = as.reserved(lo, hi)
		return nil
	})
	return yes, err
}

// Watch calls f at accesses of memory; see package xv for this and the following.
func (s *Session) Watch(pid int, addr, length uint64, access trap.Access, f func(*trap.Context) trap.Action, loose bool) (PageTool, error) {
	return s.tool(pid, addr, length, &pageTool{kind: watchTool, access: access, watch: f, loose: loose})
}

// Page calls fill for the contents of pages.
func (s *Session) Page(pid int, addr, length uint64, fill func(pid int, page uint64, b []byte) error) (PageTool, error) {
	return s.tool(pid, addr, length, &pageTool{kind: pagerTool, access: trap.Read | trap.Write, fill: fill})
}

// TrackDirty notes what pages are written.
func (s *Session) TrackDirty(pid int, addr, length uint64) (PageTool, error) {
	return s.tool(pid, addr, length, &pageTool{kind: dirtyTool, access: trap.Write, dirty: map[uint64]struct{}{}})
}

// Close implements PageTool.
func (t *pageTool) Close() error {
	err := t.as.onThread(func(_ *thread, c caller) error {
		if err := t.as.lockUnforked(); err != nil {
			return err
		}
		defer t.as.tools.mu.Unlock()
		return t.remove(c)
	})
	if err == os.ErrProcessDone {
		return nil
	}
	return err
}

// Dirty implements PageTool.
func (t *pageTool) Dirty() (list []uint64, err error) {
	taken := false
	var again ranges
	err = t.as.onThread(func(_ *thread, c caller) error {
		if err := t.as.lockUnforked(); err != nil {
			return err
		}
		defer t.as.tools.mu.Unlock()
		if !taken {
			taken = true
			list, again = t.rearm()
		}
		for _, r := range again {
			if err := t.as.apply(c, r.lo, r.hi); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// rearm takes the pages that were written, and has the next writes to them noted, once their protection is set. The caller holds mu.
func (t *pageTool) rearm() (written []uint64, again ranges) {
	for page := range t.dirty {
		written = append(written, page)
	}
	slices.Sort(written)
	clear(t.dirty)
	t.as.tools.armings.Add(1)
	for _, page := range written {
		if _, mapped := t.as.tools.shadow.find(page); mapped {
			t.armed = t.armed.put(page, page+pageSize, 0)
			again = again.put(page, page+pageSize, 0)
		}
	}
	return written, again
}
