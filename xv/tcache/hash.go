package tcache

import (
	"slices"
	"sync/atomic"

	"xvrun/xv/translate"
)

// Code that no table covers is reached through a hash: an indirect branch that was seen to go there (see Hash) looks up the
// low bits of its target, in tables that Slot gives for addresses too low for code. The entry leads to a stub
// that compares the target with the address it is for; if it is another one control goes on to the next stub with the same
// low bits, and from the last one to address 0, as from an empty entry.

// bucket is a list of stubs, in the order in which control passes them.
type bucket struct {
	low  uint16
	call bool
}

// hashed is a stub of a bucket.
type hashed struct {
	orig uint64
	off  uint32 // in the cache
	r    *region
}

// Hash says that the indirect branch at orig goes to code which no table covers. The translations of it become stale.
func (s *Space) Hash(orig uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pg := s.makePage(orig)
	if !slices.Contains(pg.hashed, orig) {
		pg.hashed = append(pg.hashed, orig)
		slices.Sort(pg.hashed)
	}
	for _, r := range s.within(orig, orig+1) {
		if !r.stale && !slices.Contains(r.reg.Hashed, orig) { // another thread may have come first
			s.drop(r)
		}
	}
}

// hashedIn lists the branches of a region, whose code is given, that use the hash.
func (s *Space) hashedIn(reg *translate.Region, code *recipe) (list []uint64) {
	if s.cfg.Hashed {
		return translate.IndirectBranches(code, reg)
	}
	code.pages(func(addr uint64) {
		if pg := s.page(addr); pg != nil {
			for _, orig := range pg.hashed {
				if code.overlaps(orig, orig+1) {
					list = append(list, orig)
				}
			}
		}
	})
	return list
}

// fillHash makes the entry at cache offset first of a region reachable through the hash. It reports false without room: then
// all stays as it is.
func (s *Space) fillHash(r *region, addr uint64, call bool, first uint32) bool {
	return s.fillHashAt(r, addr, addr, call, first)
}

// Alias makes indirect jumps to an address at which there is no code, and which use the hash, lead to orig. The error is ErrFull if there is no
// room.
func (s *Space) Alias(m Memory, orig, alias uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, e, err := s.enter(m, orig, pieceJump, translate.ByJump)
	if err == nil && !s.fillHashAt(p.r, alias, orig, false, e.first) {
		err = ErrFull
	}
	return err
}

// fillHashAt is fillHash of the entry of orig for branches to addr.
func (s *Space) fillHashAt(r *region, addr, orig uint64, call bool, first uint32) bool {
	key := bucket{uint16(addr), call}
	list := s.buckets[key]
	at := slices.IndexFunc(list, func(h hashed) bool { return h.orig == addr })
	if at >= 0 && list[at].r == r {
		return true // another thread had the same miss
	}
	if s.cfg.Slot == nil || s.cfg.Slot(uint64(key.low), call) == nil {
		return true
	}
	off, ok := s.mem.room(translate.HashEntrySize, stubAlign)
	if !ok {
		return false
	}
	if at >= 0 {
		list = slices.Delete(list, at, at+1)
	}
	target := addr
	kind := pieceHashJump
	if call {
		target += translate.CallBias
		kind = pieceHashCall
	}
	s.put(translate.EmitHashEntry(off, first, target), piece{off: off, kind: kind, r: r, orig: orig})
	s.stats.Fills++
	s.buckets[key] = slices.Insert(list, 0, hashed{addr, off, r})
	s.thread(key)
	r.hashed = append(r.hashed, key)
	return true
}

// thread makes each stub of a bucket lead to the next.
func (s *Space) thread(key bucket) {
	list := s.buckets[key]
	for i, h := range list {
		to := h.off + translate.HashEntryEnd
		if i+1 < len(list) {
			to = list[i+1].off
		}
		s.patch(h.off+translate.HashEntryNext, to)
	}
	first := uint64(0)
	if len(list) > 0 {
		first = s.address(list[0].off)
	}
	atomic.StoreUint64(s.cfg.Slot(uint64(key.low), key.call), first)
}

// clearHashes takes the stubs that lead to r out of their buckets.
func (s *Space) clearHashes(r *region) {
	for _, key := range r.hashed {
		s.buckets[key] = slices.DeleteFunc(s.buckets[key], func(h hashed) bool { return h.r == r })
		s.thread(key)
		if len(s.buckets[key]) == 0 {
			delete(s.buckets, key)
		}
	}
	r.hashed = nil
}
