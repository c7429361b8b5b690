package tcache

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// Rebase says that the cache memory is at another address of the guest now, and with it what the layout names but the lookup tables,
// at the same distances. The code refers to that by distances, so that it stays: only the entries of the tables are
// addresses. No thread may be in the code, or on its way there by an answer, or look at the tables. slot is Config.Slot, for as long as the call
// takes: it need not care for other goroutines.
func (s *Space) Rebase(base uint64, slot func(addr uint64, call bool) *uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.cfg.Base
	s.cfg.Base = base
	var slots [256]*uint64
	for some := range slices.Chunk(s.filled, len(slots)) {
		for i, f := range some {
			slots[i] = slot(f.addr, f.call)
		}
		// Nearly each entry is in a cache line that the processor does not have. So this loop does nothing else: several are on their way at a time.
		for i, f := range some {
			if p := slots[i]; p != nil && *p == from+uint64(f.off) {
				*p = base + uint64(f.off)
			}
		}
	}
	s.mark = s.mem.next
	for key := range s.buckets {
		s.thread(key)
	}
}

// note lists an entry that was filled, but for those of the hash: all entries in use are in s.filled, so that Rebase need not look for them in the
// regions, some hundred bytes apart each. Those that were cleared since are taken out of the list when it has no room.
func (s *Space) note(f fill) {
	if len(s.filled) == cap(s.filled) {
		s.filled = slices.DeleteFunc(s.filled, func(f fill) bool {
			slot := s.cfg.slot(f.addr, f.call)
			return slot == nil || atomic.LoadUint64(slot) != s.address(f.off)
		})
		slices.SortFunc(s.filled, compareFills)
		s.filled = slices.Compact(s.filled)
		s.filled = slices.Grow(s.filled, len(s.filled)+64)
	}
	s.filled = append(s.filled, f)
}

func compareFills(a, b fill) int {
	bit := func(call bool) int {
		if call {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.addr, b.addr), bit(a.call)-bit(b.call), cmp.Compare(a.off, b.off))
}
