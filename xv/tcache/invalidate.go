package tcache

// Invalidate makes the translations of the original code in [lo, hi) stale, because it changed, vanished or may no longer be
// executed, and forgets the copies of its pages. It returns how many regions that were. Threads may still be inside:
// they trap at an int3 before their next original instruction, where Recover gives the original state. Regions that only
// share a page with the range stay.
func (s *Space) Invalidate(lo, hi uint64) (dropped int) {
	return s.InvalidateThen(lo, hi, nil)
}

// InvalidateThen is Invalidate, and then calls f before anything else can be translated: f may make the pages writable
// that Config.Translated made read-only. Like the callbacks of Config, f must not call the Space.
func (s *Space) InvalidateThen(lo, hi uint64, f func()) (dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.within(lo, hi) {
		if !r.stale { // with another version of it
			s.drop(r)
		}
		dropped++
	}
	s.pagesIn(lo, hi, s.forgetCopy)
	if f != nil {
		f()
	}
	return dropped
}

// HasCode reports whether threads may run translations of original code in [lo, hi).
func (s *Space) HasCode(lo, hi uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.within(lo, hi)) > 0
}

// within returns the live regions with code in [lo, hi).
func (s *Space) within(lo, hi uint64) []*region {
	var found []*region
	seen := make(map[*region]bool)
	s.pagesIn(lo, hi, func(pg *page) {
		for _, r := range pg.regions {
			if !seen[r] && r.code.overlaps(lo, hi) {
				seen[r] = true
				found = append(found, r)
			}
		}
	})
	return found
}

// Flush makes everything stale, so that all threads trap.
func (s *Space) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	s.eachLive(s.drop)
	s.forgetCopies()
}

// Stats returns what was counted so far.
func (s *Space) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Used = int(s.mem.next)
	return st
}
