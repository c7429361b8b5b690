package tcache

import (
	"cmp"
	"slices"

	"xvrun/xv/translate"
)

// maxMaps bounds the maps of regions that are kept. Threads are interrupted again and again in the same loops (the Go
// runtime does so thousands of times a second), and making a map costs translating the region once more.
const maxMaps = 32

// mapOf returns the map of a region, nil if it cannot be made.
func (s *Space) mapOf(r *region) *translate.Map {
	if m := s.maps[r]; m != nil {
		return m
	}
	m, err := translate.Record(&r.code, &r.reg, r.base, &s.cfg.Layout, &s.buf)
	if err != nil {
		return nil
	}
	if len(s.maps) >= maxMaps {
		clear(s.maps)
	}
	s.maps[r] = m
	return m
}

// Recover says how to get from the machine state of a thread at a cache offset to its original state. It knows all of
// the cache: fragments with their exit stubs, stale ones too until their memory is used again, and entry stubs. The
// offset must be where an instruction starts: after an int3 of a stale fragment that is the one before RIP.
func (s *Space) Recover(cache uint32) (translate.Recovery, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	if p == nil {
		return translate.Recovery{}, false
	}
	off := cache - p.off
	switch p.kind {
	case pieceJump:
		return translate.RecoverJumpEntry(p.orig, off)
	case pieceCall:
		return translate.RecoverCallEntry(p.orig, off)
	case pieceHashJump, pieceHashCall:
		return translate.RecoverHashEntry(p.orig, p.kind == pieceHashCall, off)
	}
	if m := s.mapOf(p.r); m != nil {
		return m.Recover(off)
	}
	return translate.Recovery{}, false
}

// ReturnsTo returns the original return address of the return site at a cache offset.
func (s *Space) ReturnsTo(cache uint32) (orig uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	if p == nil {
		return 0, false
	}
	if p.kind == pieceJump && s.cfg.Layout.NativeReturns { // see ReturnEntry
		return p.orig, cache == p.off
	}
	if p.kind != pieceFragment {
		return 0, false
	}
	i := slices.IndexFunc(p.r.returns, func(e translate.Entry) bool { return p.off+e.Off == cache })
	if i < 0 {
		return 0, false
	}
	return p.r.returns[i].Addr, true
}

// ReturnSites lists the return sites of all fragments, stale ones too, and the entry stubs for jumps, with their offsets in the cache, by
// which they are in order.
func (s *Space) ReturnSites() []translate.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	sites := []translate.Entry{}
	s.each(func(r *region) {
		for _, e := range r.returns {
			sites = append(sites, translate.Entry{Addr: e.Addr, Off: r.base + e.Off})
		}
		for i := range r.stubs {
			if r.stubs[i].kind == pieceJump {
				sites = append(sites, translate.Entry{Addr: r.stubs[i].orig, Off: r.stubs[i].first})
			}
		}
	})
	slices.SortFunc(sites, func(a, b translate.Entry) int { return cmp.Compare(a.Off, b.Off) })
	return sites
}

// Extent returns the cache offset behind which nothing is.
func (s *Space) Extent() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mem.next
}

// Starts reports whether the translation of an original instruction, or the check before it, starts at a cache offset: a thread that
// comes there has done the instruction before. inCheck says that it is behind the start of a check: it has done nothing since then.
func (s *Space) Starts(cache uint32) (starts, inCheck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	if p == nil || p.kind != pieceFragment {
		return false, false
	}
	m := s.mapOf(p.r)
	if m == nil {
		return false, false
	}
	off := cache - p.off
	if p.r.reg.Checked && off >= p.r.bodies[0] {
		if first, ok := m.Boundary(p.r.reg.Entry); ok && off < first {
			return off == p.r.bodies[0], off > p.r.bodies[0]
		}
	}
	return m.Starts(off), false
}

// IsStale reports whether a cache offset lies in a stale fragment, or in an entry stub that leads to one.
func (s *Space) IsStale(cache uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	return p != nil && p.r.stale
}

// SpecialAt returns the original address of the special instruction whose exit stub is at a cache offset.
func (s *Space) SpecialAt(stub uint32) (uint64, bool) {
	rec, ok := s.Recover(stub)
	return rec.RIP, ok && rec.Kind == translate.KindSpecial
}

// ReturnSite returns the cache offset of a return site that leads to an original return address.
func (s *Space) ReturnSite(orig uint64) (cache uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pg := s.page(orig)
	if pg == nil {
		return 0, false
	}
	for _, r := range pg.regions {
		k, ok := slices.BinarySearchFunc(r.returns, orig, func(e translate.Entry, orig uint64) int { return cmp.Compare(e.Addr, orig) })
		if ok {
			return r.base + r.returns[k].Off, true
		}
	}
	return 0, false
}

// ReturnEntry returns the cache offset of a return site for an address to which no call returns, as the one in a signal frame, if it is
// translated: an entry stub for jumps. It is for native returns.
func (s *Space) ReturnEntry(orig uint64) (cache uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDormant(orig) {
		return 0, false
	}
	p, ok := s.block(orig)
	if !ok || p.r.reg.Checked {
		return 0, false
	}
	for i := range p.r.stubs {
		if st := &p.r.stubs[i]; st.orig == orig && st.kind == pieceJump {
			return st.first, true
		}
	}
	e, ok := s.makeStub(p, orig, pieceJump)
	return e.first, ok
}
