//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/reloc"
	"xvrun/xv/store"
	"xvrun/xv/tcache"
)

// When the cache is full it is collected: the address space moves, to the place where it is, or to one with room for a larger cache, and
// takes along what is hot. The thread that found no room is sent to address 0, and its missed branch waits until that is done.
//
// Where the threads can't be halted (the parent is in vfork(2), a callback of the host takes long, ptrace(2) is denied) the
// cache is emptied where it is as soon as no thread is in it.

// room is the collection that threads of an address space wait for.
type room struct {
	working atomic.Bool // makeRoom is at work
	own     atomic.Bool // it needs a cache that no other address space shares
}

// askForRoom has the cache c collected, in which th found no room.
func (th *thread) askForRoom(c *codeSpace) {
	as := th.p.as
	if as.room.own.Load() && c.users.Load() > 1 {
		if err := as.privatize(th); err != nil {
			th.p.s.trace("%d: the translation cache is full: %v", th.tid, err)
		}
	}
	th.wantsRoom.Store(true)
	if !as.room.working.Swap(true) {
		go th.p.s.makeRoom(th.p, as, c)
	}
}

// makeRoom collects c, the cache of an address space, in which p is, for the threads that wait for room.
func (s *Session) makeRoom(p *process, as *addressSpace, c *codeSpace) {
	defer s.guard(p)
	for {
		try := time.Now()
		err := s.collect(p, as, c)
		if err == nil || errors.Is(err, errShared) {
			break
		}
		s.trace("%d: collecting the translation cache: %v", p.pid, err)
		time.Sleep(time.Millisecond + time.Since(try))
	}
	as.room.working.Store(false)
	// Others may have brought the threads to a halt meanwhile: not before these are done.
	s.handing.Lock()
	defer s.handing.Unlock()
	if !s.closed.Load() {
		s.serveAgain(s.threadsOf(as))
	}
}

// errShared says that other address spaces share the cache. The threads that want room ask again, and copy it first.
var errShared = errors.New("other processes share the cache")

// errCollected says that there is nothing to be collected: the address space has another cache.
var errCollected = errors.New("the cache is another one")

// collect makes room in a cache, or fails where that may be possible later.
func (s *Session) collect(p *process, as *addressSpace, c *codeSpace) error {
	roomier := func(maps []loader.VMA, from abi.Home) (abi.Home, error) {
		if p.space() != as || as.code != c {
			return from, errCollected
		}
		if c.native { // not where return addresses lead to
			if to, err := s.anywhere(maps, s.roomier(maps, from), false); err == nil {
				return to, nil
			}
		}
		return s.roomier(maps, from), nil
	}
	_, err := s.tryRelocate(p.pid, roomier, Relocation{Keep: KeepHot})
	if errors.Is(err, errCollected) || errors.Is(err, os.ErrProcessDone) { // those who still want room ask again
		return nil
	}
	if err != nil {
		if other := s.tryEmpty(as, c); other != nil {
			return errors.Join(err, other)
		}
	}
	as.room.own.Store(false)
	s.counters.collections.Add(1)
	return nil
}

// roomier is the home for an address space with these mappings, whose cache is full: from, or one with a larger cache, where that is smaller
// than at the start of programs for lack of room.
func (s *Session) roomier(maps []loader.VMA, from abi.Home) abi.Home {
	want := from
	want.CacheSize = s.firstHome().CacheSize
	if want.CacheSize <= from.CacheSize {
		return from
	}
	end := uint64(abi.LowEnd) // of the free memory behind it
	if from.Base >= end {
		end = abi.UserEnd
	}
	if v, ok := mappingIn(maps, from.End(), end); ok {
		end = v.Start
	}
	larger := from
	larger.CacheSize = min(want.CacheSize, (end-from.Cache())&^(abi.PageSize-1))
	for _, z := range s.zones(false) {
		if away, ok := reloc.Away(maps, want, z, 0, 0); ok && away.CacheSize > larger.CacheSize {
			larger = away
		}
	}
	return larger
}

// keepMost bounds what is kept, in bytes, since no thread runs meanwhile: it takes a second for 64 MiB.
const keepMost = 32 << 20

// fragmentRoom is more than any fragment takes.
const fragmentRoom = 64 << 10

// collect makes the cache of another home, with what is kept of the old one.
func (m *mover) collect(old *codeSpace, to abi.Home) (*codeSpace, error) {
	next, err := old.successor(to, form{native: old.native && !m.transparent, hashed: old.hashed || m.hashed})
	if err != nil || m.keep == KeepNothing {
		return next, err
	}
	if st := old.space.Stats(); st.Regions+st.Restored == 0 { // what was kept before has left no room
		return next, nil
	}
	kept := tcache.Kept{
		Used:  func(lo, hi uint32) bool { return true },
		Limit: uint32(min(to.CacheSize/2, max(to.CacheSize, fragmentRoom)-fragmentRoom, keepMost)),
	}
	if m.keep == KeepHot {
		if kept.Used, err = m.usedCode(old); err != nil {
			m.s.trace("what is hot is not known: %v", err)
			return next, nil
		}
	}
	n := next.space.Keep(old.space, kept)
	m.s.trace("%d: %d regions are kept", m.leader().th.p.pid, n)
	return next, nil
}

// usedCode tells what of the cache is in use: the memory that is in the page table of the guest's kernel, which puts it there when it
// is first executed, a page or what lies in the same 64 KiB. Age and the move before have taken it out.
func (m *mover) usedCode(c *codeSpace) (used func(lo, hi uint32) bool, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", m.leader().tid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries := make([]byte, c.home.CacheSize/pageSize*8)
	if _, err := f.ReadAt(entries, int64(c.home.Cache()/pageSize*8)); err != nil {
		return nil, err
	}
	return func(lo, hi uint32) bool {
		for page := lo / pageSize; page <= (hi-1)/pageSize; page++ {
			if binary.LittleEndian.Uint64(entries[8*page:])&pagePresent != 0 {
				return true
			}
		}
		return false
	}, nil
}

// noteAge takes the cache out of the guest's page table when most of it is full, so that usedCode tells what is executed from then on. The
// handler has read and changed nothing that a remote call could.
func (th *thread) noteAge() {
	c := th.p.as.enter()
	ripe, home := c.space.Ripe(), c.home
	th.p.as.exit()
	if !ripe {
		return
	}
	if r := th.remote(call{unix.SYS_MADVISE, [6]uint64{home.Cache(), home.CacheSize, unix.MADV_DONTNEED}})[0]; r < 0 {
		th.p.s.trace("%d: what is hot will not be known: %v", th.tid, unix.Errno(-r)) // it is locked, say
		return
	}
	c.space.Age()
}

// unfill clears the table entries of a cache, if it is still that of the address space.
func (as *addressSpace) unfill(c *codeSpace) bool {
	as.mu.RLock()
	defer as.mu.RUnlock()
	if as.closed || as.code != c {
		return false // and its tables are gone
	}
	c.space.Unfill()
	return true
}

// tryEmpty empties a cache where it is, if all threads can be brought out of it now. The error is errBusy if not, errShared if the address
// space needs one of its own first.
func (s *Session) tryEmpty(as *addressSpace, c *codeSpace) error {
	s.handing.Lock()
	defer s.handing.Unlock()
	if s.closed.Load() {
		return nil
	}
	if c.users.Load() > 1 {
		as.room.own.Store(true)
		return errShared
	}
	as.moving.Store(true)
	defer func() {
		as.moving.Store(false)
		s.serveAgain(s.threadsOf(as))
	}()
	if !as.unfill(c) {
		return nil
	}
	quiet := 0
	for deadline := time.Now().Add(settleLimit); quiet < 2; {
		if s.outside(s.threadsOf(as)) {
			quiet++ // what a thread stored just before it read a table is seen now
		} else {
			quiet = 0
		}
		if time.Now().After(deadline) {
			return errBusy
		}
		nap(20 * time.Microsecond)
	}
	if !as.mu.TryLock() {
		return errBusy
	}
	defer as.mu.Unlock()
	switch {
	case as.closed || as.code != c:
		return nil
	case c.users.Load() > 1: // a process was just made
		return errBusy
	}
	as.giveUp(c)
	return nil
}

// giveUp is the only place where the memory of a cache is used again for other code, where it is. No thread is in it.
// Return addresses of it may remain, so that calls leave original ones from then on.
func (as *addressSpace) giveUp(c *codeSpace) {
	as.s.trace("the translation cache is emptied")
	if c.native {
		as.leavePlace(c, true)
		c.native = false
		c.warm.program = store.File{} // what is translated now is of the other form
	}
	c.space.Empty(c.layout())
}

// outside reports whether no thread is in the cache or on its way there, as long as the address space is drained and no table leads there.
// It kicks those that are.
func (s *Session) outside(list []*thread) bool {
	return !slices.ContainsFunc(list, func(th *thread) bool {
		switch {
		case th.waits.Load() || th.away.Load() || th.parked.Load():
			return false
		case th.tid == 0 || th.ctx.u32(abi.State) != abi.StateRun:
			return true
		case th.ctx.u32(abi.InGate) != 0:
			return false
		}
		th.kick()
		return true
	})
}
