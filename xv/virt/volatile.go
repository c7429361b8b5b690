//go:build linux && amd64

package virt

import (
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// Code that the guest may change without a system call, or has changed before, is volatile: its translations are checked
// whenever they are entered (package tcache). Checks take longer than what is checked, so that the code of a page that is
// executed much settles: it is translated as all other code, and the page is made read-only if the guest may write it. A
// write then traps and makes the page volatile again, and it must be executed twice as much before it settles anew. So
// neither many changes nor many executions cost more than a small factor.

// volatileCode knows what code of a cache is volatile.
type volatileCode struct {
	mu      sync.Mutex
	ranges  ranges             // volatile, but for the pages that are settled
	shared  ranges             // of these, what other processes or other mappings may change
	async   bool               // the kernel stores into memory at any time, by io_uring: what can be written does not settle
	settled map[uint64]bool    // by page
	heat    map[uint64]pageUse // by page
	words   []wordRange
}

// wordRange is memory of which translations look at the word of a toggle.
type wordRange struct {
	lo, hi uint64
	word   uint32 // cache offset of the vector, see tcache.Config.Word
}

// pageUse is how much the code of a page was executed.
type pageUse struct {
	samples int // since it became volatile
	need    int // when it settles
}

// fuel is how many times a thread enters checked code until it is looked at which page that was: so often that the checks
// have taken as long as a write trap.
const fuel = 1 << 14

// maxNeed bounds pageUse.need: a trap is nothing against so many samples.
const maxNeed = 1 << 10

// maxWeight bounds how many samples a thread takes at once: it gets so many times the fuel, as there is no need to look more often
// at code that is far from settling. Code that becomes hot elsewhere is seen after some milliseconds then.
const maxWeight = 64

func newVolatileCode() volatileCode {
	return volatileCode{settled: map[uint64]bool{}, heat: map[uint64]pageUse{}}
}

// clone copies what is known for another cache.
func (v *volatileCode) clone() volatileCode {
	v.mu.Lock()
	defer v.mu.Unlock()
	return volatileCode{ranges: v.ranges.clone(), shared: v.shared.clone(), async: v.async, settled: maps.Clone(v.settled), heat: maps.Clone(v.heat)}
}

// covers reports whether all of [lo, hi) is volatile, and whether any of it is shared.
func (v *volatileCode) covers(lo, hi uint64) (all, shared bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.ranges.find(lo)
	return ok && hi <= r.hi, v.shared.overlaps(lo, hi)
}

// isShared reports whether other processes or other mappings may change a page of volatile code, settled or not.
func (v *volatileCode) isShared(page uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.shared.find(page)
	return ok
}

// contains reports whether code of a page is volatile.
func (v *volatileCode) contains(page uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.ranges.find(page)
	return ok && !v.settled[page]
}

// add makes [lo, hi) volatile.
func (v *volatileCode) add(lo, hi uint64, shared bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ranges = v.ranges.with(lo, hi, unix.PROT_EXEC)
	if shared {
		v.shared = v.shared.with(lo, hi, unix.PROT_EXEC)
	}
	v.unsettle(lo, hi)
}

// remove forgets [lo, hi), which is unmapped.
func (v *volatileCode) remove(lo, hi uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ranges = v.ranges.without(lo, hi)
	v.shared = v.shared.without(lo, hi)
	v.unsettle(lo, hi)
	for page := range v.heat {
		if lo <= page && page < hi {
			delete(v.heat, page)
		}
	}
}

// unsettle makes settled pages of [lo, hi) volatile again.
func (v *volatileCode) unsettle(lo, hi uint64) {
	for page := range v.settled {
		if lo <= page && page < hi {
			v.change(page)
		}
	}
}

// change makes a settled page volatile because it changes.
func (v *volatileCode) change(page uint64) {
	delete(v.settled, page)
	v.heat[page] = pageUse{need: min(2*v.heat[page].need, maxNeed)}
}

// written notes a write to a page.
func (v *volatileCode) written(page uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.settled[page] {
		v.change(page)
	}
}

// cool forgets the samples of a page.
func (v *volatileCode) cool(page uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.heat[page] = pageUse{need: v.heat[page].need}
}

// setWord makes translations of [lo, hi) look at a word, 0: their own. The caller drops those that there are.
func (v *volatileCode) setWord(lo, hi uint64, word uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.words = slices.DeleteFunc(v.words, func(w wordRange) bool { return w.lo < hi && lo < w.hi })
	if word != 0 {
		v.words = append(v.words, wordRange{lo, hi, word})
	}
}

// word is the word of a page, 0 if there is none.
func (v *volatileCode) word(page uint64) uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, w := range v.words {
		if w.lo <= page && page < w.hi {
			return w.word
		}
	}
	return 0
}

// sample notes that code of a page, which the guest may write if writable is set, is executed much, by weight samples; alone
// says that there is no other process. It reports whether the page has settled now, or how many samples it is short of that.
func (v *volatileCode) sample(page uint64, weight int, writable, alone bool) (settled bool, short int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.ranges.find(page); !ok || v.settled[page] {
		return false, 1
	}
	if _, shared := v.shared.find(page); shared && (v.async || !alone) {
		return false, maxNeed
	}
	if v.async && writable {
		return false, maxNeed
	}
	use := v.heat[page]
	use.samples += weight
	use.need = max(use.need, 1)
	if use.samples >= use.need {
		use.samples = 0
		v.settled[page] = true
	}
	v.heat[page] = use
	return v.settled[page], use.need - use.samples
}

// unsettleShared makes the pages volatile that another process will be able to change, and returns them: their translations are to
// be dropped.
func (v *volatileCode) unsettleShared() []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unsettleIf(func(page uint64) bool {
		_, ok := v.shared.find(page)
		return ok
	})
}

// setAsync makes all pages volatile, and keeps those from settling that can be written. It returns as unsettleShared.
func (v *volatileCode) setAsync() []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.async = true
	return v.unsettleIf(func(uint64) bool { return true })
}

func (v *volatileCode) unsettleIf(f func(page uint64) bool) (list []uint64) {
	for page := range v.settled {
		if f(page) {
			delete(v.settled, page)
			list = append(list, page)
		}
	}
	return list
}

// stackReach is how far below the stack pointer and above it a page counts as one of the stack, which does not settle: it
// is written all the time, also by the kernel.
const stackReach = 1 << 18

// sampled is told the exit stub by which th, with this stack pointer, has left checked code because its fuel is used up.
func (th *thread) sampled(stub uint32, sp uint64) {
	short := th.sampledAt(stub, sp, max(th.weight, 1))
	th.weight = max(min(short/4, maxWeight), 1)
	th.ctx.setU32(abi.Fuel, uint32(fuel*th.weight))
}

// sampledAt counts what sampled is told as weight samples. It returns how many samples the page is short of settling.
func (th *thread) sampledAt(stub uint32, sp uint64, weight int) (short int) {
	as := th.p.as
	c := as.enter()
	defer as.exit()
	addr, ok := c.space.CheckAt(stub)
	page := addr &^ (pageSize - 1)
	if !ok {
		return 1
	}
	if page+stackReach > sp && page < sp+stackReach {
		return maxNeed
	}
	if as.endUnused(c, page, page+pageSize) { // it would not stay settled
		c.volatile.cool(page)
		return 1
	}
	cr, ok := as.executable(page)
	writable := ok && cr.prot&unix.PROT_WRITE != 0
	if writable { // the page may become read-only
		as.guard(page)
		if as.inUse(page) {
			return 1
		}
	}
	settled, short := c.volatile.sample(page, weight, writable, len(th.p.s.alive()) == 1)
	if settled {
		c.space.Invalidate(page, page+pageSize)
	}
	return short
}

// volatileRecord is volatileCode in the record of a handover.
type volatileRecord struct {
	Ranges, Shared [][3]uint64 // lo, hi, prot
	Async          bool
	Settled        []uint64
	Heat           map[uint64][2]int // samples, need
}

func (v *volatileCode) record() volatileRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := volatileRecord{Ranges: v.ranges.record(), Shared: v.shared.record(), Async: v.async, Heat: map[uint64][2]int{}}
	for page := range v.settled {
		r.Settled = append(r.Settled, page)
	}
	for page, use := range v.heat {
		r.Heat[page] = [2]int{use.samples, use.need}
	}
	return r
}

func (r *volatileRecord) restore() volatileCode {
	settled, heat := map[uint64]bool{}, map[uint64]pageUse{}
	for _, page := range r.Settled {
		settled[page] = true
	}
	for page, use := range r.Heat {
		heat[page] = pageUse{use[0], use[1]}
	}
	return volatileCode{ranges: rangesOf(r.Ranges), shared: rangesOf(r.Shared), async: r.Async, settled: settled, heat: heat}
}
