package tcache

// Rebase says that the cache memory is at another address of the guest now, and with it what the layout names but the lookup tables,
// at the same distances. The code refers to that by distances, so that it stays: only the entries of the tables are
// addresses. No thread may be in the code, or on its way there by an answer, or look at the tables. slot is Config.Slot, for as long as the call
// takes: it need not care for other goroutines.
func (s *Space) Rebase(base uint64, slot func(addr uint64, call bool) *uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	entries := s.entries(slot)
	from := s.cfg.Base
	s.cfg.Base = base
	// Nearly each entry is in a cache line that the processor does not have. So the loop does nothing else: several are on their way at a time.
	for _, e := range entries {
		if *e.slot == from+uint64(e.off) {
			*e.slot = base + uint64(e.off)
		}
	}
	s.mark = s.mem.next
	for key := range s.buckets {
		s.thread(key)
	}
}

// tableEntry is an entry that may lead to an offset of the cache.
type tableEntry struct {
	slot *uint64
	off  uint32
}

// entries lists the table entries of all regions, but for those of the hash.
func (s *Space) entries(slot func(addr uint64, call bool) *uint64) []tableEntry {
	list := make([]tableEntry, 0, s.stats.Fills)
	add := func(addr uint64, call bool, off uint32) {
		if addr < hashSize {
			return
		}
		if p := slot(addr, call); p != nil {
			list = append(list, tableEntry{p, off})
		}
	}
	s.eachLive(func(r *region) {
		for _, f := range r.fills {
			add(f.addr, f.call, f.off)
		}
		for _, e := range r.returns {
			add(e.Addr, false, r.base+e.Off)
		}
	})
	return list
}
