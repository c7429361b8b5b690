//go:build linux && amd64

package virt

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/trap"
)

// Page tools let the host see uses of a guest's memory: they take permissions of pages away from the guest, and the fault
// tells of the use. The kernel's protection of a page is what the guest means (shadow), without what the tools forbid and,
// where code was translated, without writing. It is always set with pageTools.mu held, so that it stays so.

// pageTools are the page tools of an address space.
type pageTools struct {
	active  atomic.Bool   // there are some
	armings atomic.Uint32 // how often memory was armed
	jobs    jobs

	exclusive exclusive

	mu     sync.Mutex
	list   []*pageTool
	shadow ranges // the guest's protections of all memory that a tool is or was about
}

type toolKind uint8

const (
	watchTool toolKind = iota // each access is told
	pagerTool                 // the first one fills the page
	dirtyTool                 // the first write is noted
)

// pageTool is one page tool. The fields behind mu of pageTools are guarded by that.
type pageTool struct {
	as     *addressSpace
	kind   toolKind
	access trap.Access // that traps where it is armed; reads can't be forbidden alone
	watch  func(*trap.Context) trap.Action
	fill   func(pid int, page uint64, b []byte) error

	filling sync.Mutex // held while a page is filled

	armed ranges
	left  ranges              // what was armed when the tool ended, until the guest has its protections again
	open  map[uint64]int      // armed pages that threads are let through to, and how many
	loose bool                // accesses of other threads to these are not told
	dirty map[uint64]struct{} // pages written since they were last asked for
}

// forbids is what the tool takes from the protection of a page.
func (t *pageTool) forbids(page uint64) int {
	if _, ok := t.armed.find(page); !ok || t.open[page] > 0 {
		return 0
	}
	if t.access&trap.Read != 0 {
		return unix.PROT_READ | unix.PROT_WRITE
	}
	return unix.PROT_WRITE
}

// permitted is the part of the guest's protection prot for a page that the tools leave. Code stays readable for the
// supervisor, unless it has to be filled. The caller holds mu.
func (as *addressSpace) permitted(page uint64, prot int) int {
	_, code := as.executable(page)
	for _, t := range as.tools.list {
		forbidden := t.forbids(page)
		if code && t.kind != pagerTool {
			forbidden &^= unix.PROT_READ
		}
		prot &^= forbidden
	}
	return prot
}

// pagerOf returns the tool that has to fill a page, nil if there is none.
func (as *addressSpace) pagerOf(page uint64) *pageTool {
	if !as.tools.active.Load() {
		return nil
	}
	as.tools.mu.Lock()
	defer as.tools.mu.Unlock()
	for _, t := range as.tools.list {
		if t.kind == pagerTool && t.forbids(page) != 0 {
			return t
		}
	}
	return nil
}

// protections are the calls that make the kernel's protections of what the tools know of in [lo, hi) right. The caller holds mu.
func (as *addressSpace) protections(lo, hi uint64) []call {
	var calls []call
	for _, r := range as.tools.shadow.within(lo, hi) {
		for at := r.lo; at < r.hi; {
			prot := as.kernelPermits(at, r.prot)
			end := at + pageSize
			for end < r.hi && as.kernelPermits(end, r.prot) == prot {
				end += pageSize
			}
			calls = append(calls, call{unix.SYS_MPROTECT, [6]uint64{at, end - at, uint64(prot)}})
			at = end
		}
	}
	return calls
}

// kernelPermits is permitted with regard to pages that code was translated from.
func (as *addressSpace) kernelPermits(page uint64, prot int) int {
	prot = as.permitted(page, prot)
	if as.isProtected(page) {
		prot &^= unix.PROT_WRITE
	}
	return prot
}

// apply sets the protections in [lo, hi). The caller holds mu.
func (as *addressSpace) apply(c caller, lo, hi uint64) error {
	return perform(c, as.protections(lo, hi)...)
}

// errNotMapped is the error of a page tool for memory that the guest does not have.
var errNotMapped = errors.New("not all of it is memory of the guest")

// learn adds the guest's protections of [lo, hi) to the shadow. The caller holds mu.
func (as *addressSpace) learn(th *thread, lo, hi uint64, private bool) error {
	vmas, err := th.maps()
	if err != nil {
		return err
	}
	if len(vmas) == 0 { // the thread has left its memory: it ends
		panic(gone{})
	}
	shadow, at, home := as.tools.shadow, lo, as.home()
	for _, v := range vmas {
		if v.End <= at || v.Start >= hi {
			continue
		}
		switch {
		case v.Start > at || isOurs(home, v):
			return errNotMapped
		case private && v.Shared:
			return fmt.Errorf("memory at %#x is shared, which cannot be paged", at)
		}
		for ; at < min(v.End, hi); at += pageSize {
			if _, known := shadow.find(at); !known {
				shadow = shadow.with(at, at+pageSize, as.meant(v, at))
			}
		}
	}
	if at < hi {
		return errNotMapped
	}
	as.tools.shadow = shadow // only now: what a tool that does not start learns would not be kept up to date
	return nil
}

// meant is the protection that the guest has given to a page of v, as the kernel would have it.
func (as *addressSpace) meant(v loader.VMA, page uint64) int {
	if code, ok := as.executable(page); ok {
		return int(kernelProt(uint64(code.prot)))
	}
	prot := v.Prot &^ loader.ProtExec
	if as.isProtected(page) {
		prot |= loader.ProtWrite
	}
	return prot
}

// install starts a tool for [lo, hi) by th, in which c performs system calls. The address space must not be entered: th may be one that
// reads code. If th dies meanwhile, install is called again.
func (t *pageTool) install(th *thread, c caller, lo, hi uint64) error {
	as, ts := t.as, &t.as.tools
	as.forbidToggles()
	if t.kind == watchTool && !t.loose {
		if err := canExclude(c); err != nil {
			return err
		}
	}
	if err := as.lockUnforked(); err != nil {
		return err
	}
	defer ts.mu.Unlock()
	if !slices.Contains(ts.list, t) {
		if err := as.learn(th, lo, hi, t.kind == pagerTool); err != nil {
			return err
		}
		t.armed = ranges{{lo, hi, 0}}
		ts.list = append(ts.list, t)
		ts.active.Store(true)
		ts.armings.Add(1)
	}
	err := as.apply(c, lo, hi)
	if err == nil && t.kind == pagerTool {
		err = th.mayForce(lo)
	}
	if err != nil {
		t.remove(c)
		return err
	}
	as.guard(lo)
	as.guard(hi - pageSize)
	return nil
}

// mayForce reports why memory without permissions cannot be filled. It must be that of a pager.
func (th *thread) mayForce(addr uint64) error {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", th.tid))
	if err != nil {
		return err
	}
	defer mem.Close()
	if _, err := mem.ReadAt(make([]byte, 1), int64(addr)); err != nil {
		return fmt.Errorf("the kernel does not let xv fill pages (proc_mem.force_override): %w", err)
	}
	return nil
}

// remove ends a tool. If the thread of c dies meanwhile, it is called again. The caller holds mu.
func (t *pageTool) remove(c caller) error {
	as, ts := t.as, &t.as.tools
	if i := slices.Index(ts.list, t); i >= 0 {
		t.left, t.armed = t.armed, nil
		ts.list = slices.Delete(ts.list, i, i+1)
	}
	var err error
	for _, r := range t.left {
		err = errors.Join(err, as.apply(c, r.lo, r.hi))
	}
	t.left = nil
	if len(ts.list) == 0 {
		ts.shadow = nil
		ts.active.Store(false)
	}
	return err
}

// disarm takes pages out of a tool. If the kernel does not let it, they stay. The caller holds mu.
func (t *pageTool) disarm(c caller, lo, hi uint64) error {
	was := t.armed.within(lo, hi)
	t.armed = t.armed.cut(lo, hi)
	err := t.as.apply(c, lo, hi)
	if err != nil {
		for _, r := range was {
			t.armed = t.armed.put(r.lo, r.hi, 0)
		}
	}
	return err
}

// wrote notes a write to a page that a tracker is about. If the kernel has no room for more mappings (vm.max_map_count), the
// pages around it that were not written either count as written too: they join their neighbours. The caller holds mu.
func (t *pageTool) wrote(th *thread, page uint64) error {
	r, armed := t.armed.find(page)
	if !armed {
		return nil
	}
	lo, hi := page, page+pageSize
	err := t.disarm(th, lo, hi)
	if errors.Is(err, unix.ENOMEM) {
		lo, hi = r.lo, r.hi
		err = t.disarm(th, lo, hi)
	}
	for ; err == nil && lo < hi; lo += pageSize {
		t.dirty[lo] = struct{}{}
	}
	return err
}

// letIn opens pages of a tool by the calls of c, or with n < 0 closes them again. The caller holds mu.
func (t *pageTool) letIn(c caller, lo, hi uint64, n int) error {
	t.reopen(lo, hi, n)
	return t.as.apply(c, lo, hi)
}

// reopen is letIn without the protections in the kernel.
func (t *pageTool) reopen(lo, hi uint64, n int) {
	for page := lo; page < hi; page += pageSize {
		if t.open[page] += n; t.open[page] <= 0 { // below: it is other memory now, see forget
			delete(t.open, page)
		}
	}
}

// forget is called when [lo, hi) is no longer what it was: no tool is about it any more.
func (as *addressSpace) forget(lo, hi uint64) {
	ts := &as.tools
	if !ts.active.Load() {
		return
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.shadow = ts.shadow.without(lo, hi)
	for _, t := range ts.list {
		t.armed = t.armed.without(lo, hi)
		for page := range t.open {
			if lo <= page && page < hi {
				delete(t.open, page)
			}
		}
	}
}

// shadowOf are the guest's protections of memory that page tools are about.
func (as *addressSpace) shadowOf() ranges {
	if !as.tools.active.Load() {
		return nil
	}
	as.tools.mu.Lock()
	defer as.tools.mu.Unlock()
	return as.tools.shadow.clone()
}

// inherit gives the tools of a process to its copy, whose memory is to be made by fork: paging goes on there, on its own,
// other tools don't. settle completes it. Until the copy is made the host changes no tools (see lockUnforked).
func (ts *pageTools) inherit(parent *addressSpace, child *addressSpace) {
	from := &parent.tools
	from.mu.Lock()
	defer from.mu.Unlock()
	if !from.active.Load() {
		return
	}
	ts.shadow = from.shadow.clone()
	for _, t := range from.list {
		if t.kind == pagerTool {
			ts.list = append(ts.list, &pageTool{as: child, kind: t.kind, access: t.access, fill: t.fill, armed: t.armed.clone(), open: map[uint64]int{}})
		}
	}
	ts.active.Store(true)
}

// settleTools sets the protections in a forked process, whose first thread is th. A page that was filled since inherit is
// accessible in the copy.
func (th *thread) settleTools() error {
	as, ts := th.p.as, &th.p.as.tools
	if !ts.active.Load() {
		return nil
	}
	vmas, err := th.maps()
	if err != nil {
		return err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var known ranges // but for what another thread of the parent unmapped in between
	for _, v := range vmas {
		known = append(known, ts.shadow.within(v.Start, v.End)...)
		if v.Prot&loader.ProtRead != 0 {
			for _, t := range ts.list {
				t.armed = t.armed.without(v.Start, v.End)
			}
		}
	}
	ts.shadow = known
	err = as.apply(th, 0, userLimit)
	if len(ts.list) == 0 {
		ts.shadow = nil
		ts.active.Store(false)
	}
	return err
}

// toolsInUse reports whether some process has page tools.
func (s *Session) toolsInUse() bool {
	return slices.ContainsFunc(s.alive(), func(p *process) bool { return p.as.tools.active.Load() })
}
