//go:build linux && amd64

package virt

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// Natively nothing is where xv is in a guest. What the guest maps there has xv move elsewhere first: the thread's request is put back,
// as if it had not been looked at, a relocation takes place, and the request is handled again. What only looks for memory there,
// or takes it away, finds none.

// way is the relocation that threads of an address space wait for, because they want to map memory where the region is, or may read
// return addresses (see mayRead).
type way struct {
	mu      sync.Mutex
	working bool  // clearWay is at work
	failed  error // why it could not do it, which stays so
}

// failure returns why no relocation is possible, nil if it may be.
func (w *way) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// claim says what becomes of a mapping when other memory is at its place.
type claim uint8

const (
	hint    claim = iota // it goes elsewhere
	unless               // it fails
	replace              // it replaces that
)

// inRegion reports whether [lo, hi) touches the region.
func (as *addressSpace) inRegion(lo, hi uint64) bool {
	home := as.home()
	return lo < home.End() && hi > home.Base
}

// makeWay has xv leave [lo, hi), where the guest's request wants to map memory. It reports whether the handler can go on. Otherwise the request
// is handled again later: the handler has changed nothing yet, and must end. It goes on too where the memory can't be had and need not.
func (th *thread) makeWay(lo, hi uint64, c claim) bool {
	as := th.p.as
	if !as.inRegion(lo, hi) {
		return true
	}
	maps, err := th.maps()
	if err != nil {
		return true
	}
	home := as.home()
	theirs := slices.DeleteFunc(slices.Clone(maps), func(v loader.VMA) bool { return isOurs(home, v) })
	if _, taken := mappingIn(theirs, lo, hi); taken && c != replace || as.inTables(lo, hi) {
		return true
	}
	if err = th.leave(maps, lo, hi); err == nil || c != replace {
		return err != nil
	}
	th.p.s.fail(th.p, fmt.Errorf("process %d maps memory at %#x-%#x, where xv is: %w", th.p.pid, lo, hi, err))
	panic(gone{})
}

// leave puts the request back until xv has left [lo, hi), if that is possible. maps are the mappings of the process.
func (th *thread) leave(maps []loader.VMA, lo, hi uint64) error {
	as := th.p.as
	failed := as.way.failure()
	c := as.enter()
	home, form := c.home, c.form
	as.exit()
	_, room := th.p.s.awayFrom(as.besideLookups(maps, form), home, lo, hi)
	switch {
	case !room:
		return errNoRoom
	case failed != nil:
		return failed
	case th.p.borrows:
		return errors.New("it can't be moved while the parent of the process is in vfork(2)")
	}
	th.askForMove(func() error { return th.p.s.moveAway(th.p, as, lo, hi) })
	return nil
}

// makeWayForCode has xv leave where code at [lo, hi) is looked up, which the guest's request makes executable. It reports whether the
// handler can go on, as makeWay. Where the guest has memory there, and the code has no other place
// (fixed), xv does without lookup tables from then on.
func (th *thread) makeWayForCode(lo, hi uint64, fixed bool) bool {
	if th.p.as.isHashed() {
		return true
	}
	at := lookups(lo, hi)
	if len(at) > 0 && th.p.as.inRegion(at[0].lo, at[len(at)-1].hi) {
		maps, err := th.maps()
		return err != nil || th.leave(maps, at[0].lo, at[len(at)-1].hi) != nil
	}
	if !fixed {
		return true
	}
	_, found := th.lookedUpIn(lo, hi)
	return !found || th.dropTables() != nil
}

// spareImages ends the guest where memory at [lo, hi) would replace the code at rip that has asked for it: natively its image is elsewhere.
func (th *thread) spareImages(lo, hi, rip uint64) {
	if rip < max(lo, nearImages) || rip >= min(hi, abi.LowEnd) {
		return
	}
	th.p.s.fail(th.p, fmt.Errorf("process %d maps memory at %#x-%#x and replaces the code that does so: xv has placed images there, from %#x on; "+
		"xvrun -high-images places them elsewhere", th.p.pid, lo, hi, uint64(nearImages)))
	panic(gone{})
}

// askForMove puts the request back, to be handled again when move has moved xv.
func (th *thread) askForMove(move func() error) {
	w := &th.p.as.way
	w.mu.Lock()
	defer w.mu.Unlock()
	th.setAside()
	if !w.working {
		w.working = true
		go th.p.s.clearWay(th.p, th.p.as, move)
	}
}

// setAside makes a request that was taken one that waits: serveAgain has it handled.
func (th *thread) setAside() {
	word32(th.ctx.mem, abi.State).Store(abi.StateRequest)
	th.waits.Store(true)
}

// clearWay calls move for the threads of an address space that wait for it.
func (s *Session) clearWay(p *process, as *addressSpace, move func() error) {
	defer s.guard(p)
	err := move()
	w := &as.way
	w.mu.Lock()
	w.working = false
	w.failed = err
	w.mu.Unlock()
	if err != nil {
		s.trace("%d: moving xv: %v", p.pid, err)
	}
	// Also those that have asked since. Others may have brought the threads to a halt meanwhile: not before these are done.
	s.handing.Lock()
	defer s.handing.Unlock()
	if !s.closed.Load() {
		s.serveAgain(s.threadsOf(as))
	}
}

// errWayClear says that there is nothing to be moved.
var errWayClear = errors.New("the region is elsewhere")

// moveAway tries until the region of an address space, in which p is, is out of [lo, hi).
func (s *Session) moveAway(p *process, as *addressSpace, lo, hi uint64) error {
	away := func(maps []loader.VMA, from abi.Home) (abi.Home, error) {
		if p.space() != as || lo >= from.End() || hi <= from.Base {
			return from, errWayClear
		}
		to, ok := s.awayFrom(maps, from, lo, hi)
		if !ok {
			return from, errWayClear // no longer; makeWay says why
		}
		return to, nil
	}
	return s.tryUntilMoved(p, away, Relocation{}, time.Time{})
}

// tryUntilMoved is tryRelocate, again and again while threads can't be brought to known points, or until a deadline if there is one. It is no
// error if there is nothing to be moved, or the process has ended.
func (s *Session) tryUntilMoved(p *process, to chooser, r Relocation, deadline time.Time) error {
	for start := time.Now(); ; {
		try := time.Now()
		_, err := s.tryRelocate(p.pid, to, r)
		switch {
		case err == nil || errors.Is(err, errWayClear) || errors.Is(err, os.ErrProcessDone):
			return nil
		case !errors.Is(err, errBusy) || !deadline.IsZero() && time.Now().After(deadline) || errors.Is(err, unix.EPERM) && time.Since(start) > deniedLimit:
			return err
		}
		time.Sleep(time.Millisecond + time.Since(try))
	}
}

// extent is the memory from lo to hi.
type extent struct{ lo, hi uint64 }

// without lists the parts of e that are not in other.
func (e extent) without(other extent) (list []extent) {
	if below := (extent{e.lo, min(e.hi, other.lo)}); below.lo < below.hi {
		list = append(list, below)
	}
	if above := (extent{max(e.lo, other.hi), e.hi}); above.lo < above.hi {
		list = append(list, above)
	}
	return list
}

// holes lists where the guest has no memory in [lo, hi) because xv has: the region, and lookup tables.
func (as *addressSpace) holes(lo, hi uint64) (list []extent) {
	c := as.enter()
	defer as.exit()
	add := func(start, end uint64) {
		if start < hi && end > lo {
			list = append(list, extent{max(start, lo), min(end, hi)})
		}
	}
	add(c.home.Base, c.home.End())
	for _, e := range c.tablePlaces() {
		add(e.lo, e.hi)
	}
	slices.SortFunc(list, func(a, b extent) int { return cmp.Compare(a.lo, b.lo) })
	return list
}

// around lists the parts of [lo, hi) that are not xv's.
func (as *addressSpace) around(lo, hi uint64) (list []extent) {
	for _, h := range as.holes(lo, hi) {
		if lo < h.lo {
			list = append(list, extent{lo, h.lo})
		}
		lo = max(lo, h.hi)
	}
	if lo < hi {
		list = append(list, extent{lo, hi})
	}
	return list
}
