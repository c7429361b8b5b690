package tcache

import "sync/atomic"

// Rebase says that the cache memory is at another address of the guest now, and with it what the layout names but the lookup tables,
// at the same distances. The code refers to that by distances, so that it stays: only the entries of the tables are
// addresses. No thread may be in the code, or on its way there by an answer.
func (s *Space) Rebase(base uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	from := s.cfg.Base
	s.cfg.Base = base
	s.eachLive(func(r *region) {
		for _, f := range r.fills {
			s.shiftFill(f, from)
		}
		for _, e := range r.returns {
			s.shiftFill(fill{e.Addr, r.base + e.Off, false}, from)
		}
	})
	s.mark = s.mem.next
	for key := range s.buckets {
		s.thread(key)
	}
}

// shiftFill moves a table entry if it still leads to where it was filled for, when the cache was at the address from.
func (s *Space) shiftFill(f fill, from uint64) {
	if slot := s.cfg.slot(f.addr, f.call); slot != nil {
		atomic.CompareAndSwapUint64(slot, from+uint64(f.off), s.address(f.off))
	}
}
