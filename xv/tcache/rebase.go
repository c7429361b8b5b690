package tcache

import (
	"sync/atomic"

	"xvrun/xv/translate"
)

// Rebase says that the cache memory is at another address of the guest now, and with it what the layout names but the lookup tables,
// at the same distances. Regions stay, but for those that refer to addresses there themselves: the ones that are
// checked or use the hash, which become stale. No thread may be in the code, or on its way there by an answer.
func (s *Space) Rebase(base uint32, layout translate.Layout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	s.eachLive(func(r *region) {
		if r.reg.Checked || len(r.reg.Hashed) > 0 {
			s.drop(r)
		}
	})
	by := base - s.cfg.Base
	s.eachLive(func(r *region) {
		for i := range r.fills {
			f := &r.fills[i]
			s.shiftFill(*f, by)
			f.value += by
		}
		for _, e := range r.returns {
			s.shiftFill(fill{e.Addr, s.cfg.Base + r.base + e.Off, false}, by)
		}
	})
	s.cfg.Base, s.cfg.Layout = base, layout
	for key := range s.buckets {
		s.thread(key)
	}
}

// eachLive calls f for each region that is not stale.
func (s *Space) eachLive(f func(r *region)) {
	for i := range s.halves {
		for _, p := range s.halves[i].pieces {
			if p.kind == pieceFragment && !p.r.stale {
				f(p.r)
			}
		}
	}
}

// shiftFill adds to a table entry if it still leads to where it was filled for.
func (s *Space) shiftFill(f fill, by uint32) {
	if slot := s.cfg.slot(f.addr, f.call); slot != nil {
		atomic.CompareAndSwapUint32(slot, f.value, f.value+by)
	}
}
