package tcache

import (
	"cmp"
	"slices"

	"xvrun/xv/translate"
)

// A full cache is collected: another Space takes its place, into which the hot regions are emitted again. The caller says what is in
// use, of what was executed since a time that Age gives. A region that was there before and is still executed is worth more than a new one, of
// which nobody knows whether it will be executed once more.

// Ripe reports, once as the cache fills up, that a quarter of it is still free: time for Age.
func (s *Space) Ripe() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aged || s.mem.next < s.mem.hi/4*3 {
		return false
	}
	s.aged = true
	return true
}

// Age says that what the guest executes from now on is in use.
func (s *Space) Age() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark = s.mem.next
}

// Kept says what Keep takes over.
type Kept struct {
	// Used reports whether code in [lo, hi), offsets in the old cache, is in use; see Age.
	Used func(lo, hi uint32) bool
	// Limit bounds the size of it, in bytes of the cache.
	Limit uint32
}

// Keep emits regions of another Space again, for this one, which is empty and known to nobody else yet: the old ones that are in use, and
// then the newest ones. Links between them are bound, and the table entries that led to them are filled. Code that is checked is left behind.
// It returns how many regions it has kept.
func (s *Space) Keep(from *Space, k Kept) int {
	from.mu.Lock()
	defer from.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	from.wakeAll()
	for addr, old := range from.pages {
		if old.hashed != nil || old.strict {
			pg := s.makePage(addr)
			pg.hashed, pg.strict = slices.Clone(old.hashed), old.strict
		}
	}
	for _, r := range from.hot(k) {
		if !s.adopt(r, from) {
			break
		}
		s.stats.Kept++
	}
	return s.stats.Kept
}

// newestShare is what part of the limit new regions may have, beside old ones in use. To keep one takes a fifth of translating it when it is missed,
// so that it is worth its time if one in five is executed again; of code that is executed in turn, and does not fit, none is.
const newestShare = 4

// hot lists what Keep takes over, in the order in which it lies in the cache.
func (s *Space) hot(k Kept) (list []*region) {
	var live []*region
	size := map[*region]uint32{} // with what leads to it
	for _, p := range s.mem.pieces {
		r := p.r
		if r.stale || r.reg.Checked {
			continue
		}
		if p.kind == pieceFragment {
			live = append(live, r)
			size[r] = translate.Align
		}
		size[r] += p.end - p.off + stubAlign
	}
	first, _ := slices.BinarySearchFunc(live, s.mark, func(r *region, mark uint32) int { return cmp.Compare(r.base, mark) })
	newest := slices.Clone(live[first:])
	slices.Reverse(newest)
	left := k.Limit
	take := func(regions []*region) {
		for _, r := range regions {
			if !k.Used(r.base, r.base+r.size) {
				continue
			}
			if size[r] > left {
				return
			}
			left -= size[r]
			list = append(list, r)
		}
	}
	take(live[:first])
	if first > 0 {
		left = min(left, k.Limit/newestShare)
	}
	take(newest)
	slices.SortFunc(list, func(a, b *region) int { return cmp.Compare(a.base, b.base) })
	return list
}

// adopt emits a live region of another Space, from, for this one, with the same ways into it. It reports whether there was room.
func (s *Space) adopt(old *region, from *Space) bool {
	mem := &s.mem.arena
	reg := old.reg
	reg.Blocks = mem.blocks.keep(reg.Blocks)
	code := recipe{mem.spans.keep(old.code.spans), mem.bytes.keep(old.code.bytes)}
	reg.Hashed = s.hashedIn(&reg, &code)
	frag, base, err := s.emitInRoom(&code, &reg)
	if err != nil {
		return false
	}
	r := s.newRegion(reg, code, frag, base)
	r.record, r.recorded = old.record, old.recorded
	if r.size == old.size { // else the translation of something has another form here
		r.inner = mem.entries.keep(old.inner)
	}
	s.install(r)
	for _, f := range old.fills {
		if slot := from.cfg.slot(f.addr, f.call); slot != nil && *slot == from.address(f.off) {
			s.refill(r, f.addr, f.call)
		}
	}
	for _, key := range old.hashed {
		for _, h := range from.buckets[key] {
			if h.r != old {
				continue
			}
			if e, ok := s.wayIn(r, h.orig, key.call); ok { // else a return site, which is filled
				s.fillHash(r, h.orig, key.call, e.first)
			}
		}
	}
	return true
}

// Unfill empties the table entries that lead to translations, so that threads come there by misses only.
func (s *Space) Unfill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	s.eachLive(s.clearFills)
}

// Empty gives up all translations, to use their memory for others. No thread may be in the code, or on its way there by an answer, a
// link or a table entry. From then on code is emitted for layout.
func (s *Space) Empty(layout translate.Layout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeAll()
	s.eachLive(func(r *region) {
		s.clearFills(r)
		r.stale = true
	})
	s.cfg.Layout = layout
	s.forgetRegions()
	clear(s.waiting)
	clear(s.maps)
	s.mem = area{hi: s.mem.hi}
	s.mark, s.aged = 0, false
	s.stats.Dropped += s.stats.Live
	s.stats.Live = 0
}
