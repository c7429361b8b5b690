//go:build linux && amd64

package virt

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xvrun/xv/agent/abi"
	"xvrun/xv/trap"
)

// jobs is work that the host wants done by some thread of an address space, since only its own threads can change it. A
// thread that waits for a callback of the host can do it at once; others at their next request, for which they are
// kicked.
type jobs struct {
	pending atomic.Int32 // length of list
	mu      sync.Mutex
	list    []*job
	hosted  map[*thread]*sync.Mutex // threads that wait for callbacks; the mutex is held while one is used
}

type job struct {
	do   func(th *thread) error
	done chan error
}

// onThread lets a thread of the address space do f. It waits until one is not asleep in a system call. The error is
// os.ErrProcessDone if none is left.
func (as *addressSpace) onThread(f func(th *thread) error) error {
	js := &as.tools.jobs
	j := &job{do: f, done: make(chan error, 1)}
	js.mu.Lock()
	for th, mu := range js.hosted {
		mu.Lock()
		js.mu.Unlock()
		defer mu.Unlock()
		return survive(func() error { return f(th) })
	}
	js.list = append(js.list, j)
	js.pending.Add(1)
	js.mu.Unlock()
	for {
		as.kickSome()
		select {
		case err := <-j.done:
			return err
		case <-time.After(time.Millisecond):
		}
		if as.users.Load() == 0 && js.cancel(j) {
			return os.ErrProcessDone
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

// cancel takes a job back. It reports whether nobody has begun with it.
func (js *jobs) cancel(j *job) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	for i := range js.list {
		if js.list[i] == j {
			js.list = append(js.list[:i], js.list[i+1:]...)
			js.pending.Add(-1)
			return true
		}
	}
	return false
}

// doJobs does what waits for a thread of its address space.
func (th *thread) doJobs() {
	js := &th.p.as.tools.jobs
	for js.pending.Load() > 0 {
		js.mu.Lock()
		if len(js.list) == 0 {
			js.mu.Unlock()
			return
		}
		j := js.list[0]
		js.list = js.list[1:]
		js.pending.Add(-1)
		js.mu.Unlock()
		err := survive(func() error { return j.do(th) })
		j.done <- err
		if th.dead.Load() || th.p.dead.Load() {
			panic(gone{})
		}
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

// host takes note that the thread waits for a callback, until the function that it returns is called.
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
	if err := t.as.onThread(func(th *thread) error { return t.install(th, lo, hi) }); err != nil {
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
func (s *Session) Watch(pid int, addr, length uint64, access trap.Access, f func(*trap.Context) trap.Action) (PageTool, error) {
	return s.tool(pid, addr, length, &pageTool{kind: watchTool, access: access, watch: f})
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
	err := t.as.onThread(func(th *thread) error {
		t.as.tools.mu.Lock()
		defer t.as.tools.mu.Unlock()
		return t.remove(th)
	})
	if err == os.ErrProcessDone {
		return nil
	}
	return err
}

// Dirty implements PageTool.
func (t *pageTool) Dirty() (list []uint64, err error) {
	err = t.as.onThread(func(th *thread) error {
		ts := &t.as.tools
		ts.mu.Lock()
		defer ts.mu.Unlock()
		for page := range t.dirty {
			list = append(list, page)
		}
		slices.Sort(list)
		clear(t.dirty)
		var again ranges
		for _, page := range list {
			if _, mapped := ts.shadow.find(page); mapped {
				t.armed = t.armed.put(page, page+pageSize, 0)
				again = again.put(page, page+pageSize, 0)
			}
		}
		for _, r := range again {
			if err := t.as.apply(th, r.lo, r.hi); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}
