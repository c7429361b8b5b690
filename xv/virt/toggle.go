//go:build linux && amd64

package virt

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// A program that generates code may make its memory writable and executable in turn, by two mprotects for each function that it
// writes. A range of volatile code of which that is often done is a toggle: from then on the agent does these mprotects
// itself (package agent/abi), and keeps the protection where the supervisor reads it when it needs to know, and where the
// checks of translations of the range look (tcache.Config.Word). Everything else that changes the range, or rests on it not being
// changed, ends the toggle first. The range must mean the same for all that the agent does: so it is private memory in an address
// space that shares its translations with no other, and neither page tools nor prctl(2) or personality(2) have a say in it.

// toggle is one toggle, or the place of one. Its fields are guarded by rangesMu.
type toggle struct {
	lo, hi uint64
	mem    []byte // abi.ToggleSize bytes that the agent shares; the guest can write them
	index  int    // of these, in the session
	prot   int    // as addressSpace.ranges has it
	moves  uint32 // the agent's count when a sample was last taken
	used   bool   // it is in use, or translations may still look at it
}

// toggles are the toggles of an address space. All but n is guarded by rangesMu.
type toggles struct {
	all       []*toggle // in the order in which the agent looks through them
	first     uint64    // abi.Toggle of all threads
	live      []*toggle // those in use
	n         atomic.Int32
	turns     map[[2]uint64]turns // by range
	forbidden bool
}

// turns is how often a range lost the permission to be executed, and how often it must until it becomes a toggle.
type turns struct{ done, need int }

const (
	maxToggles = 32 // of an address space
	minTurns   = 8  // turns.need at first; it doubles when an mprotect of a toggle comes to the supervisor
	maxTurns   = 1 << 10
	maxCounted = 1 << 10 // ranges
)

// togglePool gives out the places of toggles, by index.
type togglePool struct {
	mu   sync.Mutex
	free []int
	next int
}

func (p *togglePool) get() (index int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		index, p.free = p.free[last], p.free[:last]
		return index, true
	}
	if p.next == (abi.TogglesEnd-abi.Toggles)/abi.ToggleSize {
		return 0, false
	}
	p.next++
	return p.next - 1, true
}

func (p *togglePool) put(index int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, index)
}

// addr is the address of t in the guest.
func (t *toggle) addr(home abi.Home) uint64 {
	return home.Contexts() + abi.Toggles + uint64(t.index)*abi.ToggleSize
}

// set stores a protection as the agent does.
func (t *toggle) set(prot int) {
	bits := uint64(prot)
	if prot&unix.PROT_EXEC != 0 {
		bits |= abi.ToggleExec
	}
	for off := 0; off < 16; off += 8 {
		word64(t.mem, abi.ToggleProt+off).Store(bits * everyByte)
	}
}

// everyByte times a byte is that byte eight times.
const everyByte = 0x0101_0101_0101_0101

// get is the protection that the agent has stored. The range may be executed if the translations say so.
func (t *toggle) get() int {
	a, b := word64(t.mem, abi.ToggleProt).Load(), word64(t.mem, abi.ToggleProt+8).Load()
	prot := int(a) & (unix.PROT_READ | unix.PROT_WRITE)
	if a&b&(abi.ToggleExec*everyByte) == abi.ToggleExec*everyByte {
		prot |= unix.PROT_EXEC
	}
	return prot
}

// catchUp makes as.ranges say what the agent has done to t. The caller holds rangesMu.
func (as *addressSpace) catchUp(t *toggle) {
	prot := t.get()
	if prot == t.prot {
		return
	}
	t.prot = prot
	as.ranges = as.ranges.without(t.lo, t.hi)
	if prot&unix.PROT_EXEC != 0 {
		as.ranges = as.ranges.put(t.lo, t.hi, prot)
	}
}

// readRanges locks rangesMu for reading, with as.ranges up to date.
func (as *addressSpace) readRanges() {
	if as.toggles.n.Load() > 0 {
		as.rangesMu.RLock()
		moved := slices.ContainsFunc(as.toggles.live, func(t *toggle) bool { return t.get() != t.prot })
		as.rangesMu.RUnlock()
		if moved {
			as.rangesMu.Lock()
			for _, t := range as.toggles.live {
				as.catchUp(t)
			}
			as.rangesMu.Unlock()
		}
	}
	as.rangesMu.RLock()
}

// isTurn counts the mprotect k if it takes the permission to be executed from r, which has the new protection. It reports whether r is to
// become a toggle.
func (as *addressSpace) isTurn(k call, r codeRange) bool {
	plain := r.prot == unix.PROT_READ || r.prot == unix.PROT_READ|unix.PROT_WRITE
	if !plain || k.nr != unix.SYS_MPROTECT || as.s.cfg.Trace != nil || as.unpassed.Load() || as.tools.active.Load() {
		return false
	}
	volatile, shared := as.enter().volatile.covers(r.lo, r.hi)
	as.exit()
	as.rangesMu.Lock()
	defer as.rangesMu.Unlock()
	code, _ := as.ranges.find(r.lo)
	ts := &as.toggles
	if !volatile || shared || ts.forbidden || as.mdwe.Load() != 0 || as.readExec.Load() || code.lo > r.lo || code.hi < r.hi {
		return false
	}
	if ts.turns == nil || len(ts.turns) == maxCounted {
		ts.turns = map[[2]uint64]turns{}
	}
	turns := ts.turns[r.key()]
	turns.done++
	turns.need = max(turns.need, minTurns)
	due := turns.done >= turns.need
	if due {
		turns.done = 0
	}
	ts.turns[r.key()] = turns
	return due
}

func (r codeRange) key() [2]uint64 { return [2]uint64{r.lo, r.hi} }

// startToggle makes r a toggle, if that is possible. The thread has just taken the permission to be executed from it.
func (th *thread) startToggle(r codeRange) {
	as := th.p.as
	c := as.enter()
	defer as.exit()
	as.rangesMu.Lock()
	t := as.freeToggle()
	as.rangesMu.Unlock()
	if t == nil {
		as.endUnused(c, 0, userLimit)
		return
	}
	c.volatile.setWord(r.lo, r.hi, c.home.CacheOffset(t.addr(c.home)+abi.ToggleProt))
	c.space.Invalidate(r.lo, r.hi)
	if !as.publish(c, t, r) {
		as.dispose(c, []*toggle{t})
	}
}

// freeToggle returns a place that is not in use and marks it used, nil if there is none. The caller holds rangesMu.
func (as *addressSpace) freeToggle() *toggle {
	ts := &as.toggles
	for _, t := range ts.all {
		if !t.used && word32(t.mem, abi.ToggleState).Load() == abi.ToggleFree {
			t.used = true
			return t
		}
	}
	if len(ts.all) == maxToggles {
		return nil
	}
	index, ok := as.s.togglePool.get()
	if !ok {
		return nil
	}
	off := abi.Toggles + index*abi.ToggleSize
	t := &toggle{mem: as.s.contexts.view[off : off+abi.ToggleSize], index: index, used: true}
	clear(t.mem)
	ts.all = append(ts.all, t)
	return t
}

// publish lets the agent use t for r, if nothing has changed since startToggle was called that speaks against it. Translations
// of r look at t already.
func (as *addressSpace) publish(c *codeSpace, t *toggle, r codeRange) bool {
	as.rangesMu.Lock()
	defer as.rangesMu.Unlock()
	ts := &as.toggles
	t.lo, t.hi = r.lo, r.hi
	volatile, shared := c.volatile.covers(r.lo, r.hi)
	if !volatile || shared || ts.forbidden || c.users.Load() != 1 || as.ranges.overlaps(r.lo, r.hi) {
		return false
	}
	if slices.ContainsFunc(ts.live, func(t *toggle) bool { return t.lo < r.hi && r.lo < t.hi }) {
		return false
	}
	t.prot = r.prot
	t.set(r.prot)
	t.moves = word32(t.mem, abi.ToggleCount).Load()
	word64(t.mem, abi.ToggleLo).Store(r.lo)
	word64(t.mem, abi.ToggleLen).Store(r.hi - r.lo)
	ts.live = append(ts.live, t)
	ts.n.Store(int32(len(ts.live)))
	for i, t := range ts.all[:len(ts.all)-1] {
		word64(t.mem, abi.ToggleNext).Store(ts.all[i+1].addr(c.home))
	}
	word32(t.mem, abi.ToggleState).Store(abi.ToggleIdle)
	ts.first = ts.all[0].addr(c.home)
	for _, th := range as.s.threadsOf(as) {
		th.ctx.setU64(abi.Toggle, ts.first)
	}
	return true
}

// endToggles takes the toggles out of use that have memory in [lo, hi). The caller holds rangesMu, and disposes of them
// before anything is executed that must not be.
func (as *addressSpace) endToggles(lo, hi uint64) (ended []*toggle) {
	ts := &as.toggles
	ts.live = slices.DeleteFunc(ts.live, func(t *toggle) bool {
		if t.hi <= lo || hi <= t.lo {
			return false
		}
		t.stop()
		as.catchUp(t)
		ended = append(ended, t)
		return true
	})
	ts.n.Store(int32(len(ts.live)))
	if len(ended) > 0 && len(ts.live) == 0 {
		ts.first = 0
		for _, th := range as.s.threadsOf(as) {
			th.ctx.setU64(abi.Toggle, 0)
		}
	}
	return ended
}

// stop keeps the agent from using t. A thread that is at work on it comes to the supervisor with its system call.
func (t *toggle) stop() {
	state := word32(t.mem, abi.ToggleState)
	for !state.CompareAndSwap(abi.ToggleIdle, abi.ToggleFree) {
		if busy := state.Load(); busy != abi.ToggleIdle && state.CompareAndSwap(busy, abi.ToggleBroken) {
			return
		}
	}
}

// dispose drops the translations that look at toggles which are no longer in use.
func (as *addressSpace) dispose(c *codeSpace, ended []*toggle) {
	for _, t := range ended {
		c.volatile.setWord(t.lo, t.hi, 0)
		c.space.Invalidate(t.lo, t.hi)
	}
	as.rangesMu.Lock()
	defer as.rangesMu.Unlock()
	for _, t := range ended {
		t.used = false
	}
}

// untoggle ends the toggles that have memory in [lo, hi). c is the translations of the address space.
func (as *addressSpace) untoggle(c *codeSpace, lo, hi uint64) {
	as.rangesMu.Lock()
	ended := as.endToggles(lo, hi)
	as.rangesMu.Unlock()
	as.dispose(c, ended)
}

// untoggleFor is untoggle for an mprotect of [lo, hi) that the agent has left to the supervisor: it may do so again.
func (as *addressSpace) untoggleFor(lo, hi uint64) {
	c := as.enter()
	defer as.exit()
	as.rangesMu.Lock()
	ended := as.endToggles(lo, hi)
	for _, t := range ended {
		key := [2]uint64{t.lo, t.hi}
		as.toggles.turns[key] = turns{need: min(2*as.toggles.turns[key].need, maxTurns)}
	}
	as.rangesMu.Unlock()
	as.dispose(c, ended)
}

// forbidToggles ends all toggles for good.
func (as *addressSpace) forbidToggles() {
	c := as.enter()
	defer as.exit()
	as.rangesMu.Lock()
	as.toggles.forbidden = true
	as.rangesMu.Unlock()
	as.untoggle(c, 0, userLimit)
}

// endUnused ends the toggles with memory in [lo, hi) that the agent has not used since it was last called. It reports whether there is
// one that it has used.
func (as *addressSpace) endUnused(c *codeSpace, lo, hi uint64) (used bool) {
	as.rangesMu.Lock()
	var ended []*toggle
	for _, t := range slices.Clone(as.toggles.live) {
		if t.hi <= lo || hi <= t.lo {
			continue
		}
		if moves := word32(t.mem, abi.ToggleCount).Load(); moves != t.moves {
			t.moves, used = moves, true
			continue
		}
		ended = append(ended, as.endToggles(t.lo, t.hi)...)
	}
	as.rangesMu.Unlock()
	as.dispose(c, ended)
	return used
}

// giveTogglesBack returns the places of the toggles of an address space that no process has any more.
func (as *addressSpace) giveTogglesBack() {
	as.rangesMu.Lock()
	defer as.rangesMu.Unlock()
	ts := &as.toggles
	for _, t := range ts.all {
		as.s.togglePool.put(t.index)
	}
	ts.all, ts.live = nil, nil
	ts.n.Store(0)
}
