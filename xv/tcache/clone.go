package tcache

import (
	"slices"
	"sync/atomic"
)

// Clone copies the Space to other memory at the same guest addresses, for a fork child that gets a cache of its own: code,
// stale fragments (a thread may be inside), links, and the table entries through cfg.Slot. The child's pages must be
// write-protected like the parent's: Translated is not called for them again. It panics when base or size differ.
func (s *Space) Clone(cfg Config) *Space {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cfg.Base != s.cfg.Base || len(cfg.Code) != len(s.cfg.Code) {
		panic("tcache: Clone: different cache memory")
	}
	s.wakeAll()
	c := newSpace(cfg)
	c.stats, c.mark, c.aged = s.stats, s.mem.next, s.aged

	copied := make(map[*region]*region)
	c.mem = area{next: s.mem.next, hi: s.mem.hi, pieces: slices.Clone(s.mem.pieces)}
	copy(c.cfg.Code[:c.mem.next], s.cfg.Code)
	for k := range c.mem.pieces {
		p := &c.mem.pieces[k]
		if p.kind == pieceFragment {
			copied[p.r] = p.r.clone()
		}
		// The fragment comes before the stubs that lead to it.
		p.r = copied[p.r]
	}
	for old, r := range copied {
		if old.head != nil {
			r.head, r.versions = copied[old.head], nil
			for _, v := range old.versions {
				r.versions = append(r.versions, copied[v])
			}
		}
		for i := range r.links {
			from, l := &old.links[i], &r.links[i]
			l.from = r
			switch {
			case from.list == nil:
			case from.to != nil:
				l.to = copied[from.to]
				l.to.in.push(l)
			default:
				c.wait(l)
			}
		}
		for _, f := range r.fills {
			s.copyFill(c, f)
		}
		for _, e := range r.returns {
			s.copyFill(c, fill{e.Addr, r.base + e.Off, false})
		}
	}
	for key, list := range s.buckets {
		list = slices.Clone(list)
		for i := range list {
			list[i].r = copied[list[i].r]
		}
		c.buckets[key] = list
		c.thread(key)
	}
	for addr, pg := range s.pages {
		to := &page{addr: addr, starts: pg.starts, word: pg.word, hashed: slices.Clone(pg.hashed), strict: pg.strict, copy: pg.copy, regions: make([]*region, len(pg.regions))}
		for i, r := range pg.regions {
			to.regions[i] = copied[r]
		}
		c.pages[addr] = to
	}
	c.copies = s.copies
	return c
}

// copyFill copies a table entry to the clone.
func (s *Space) copyFill(c *Space, f fill) {
	from, to := s.cfg.slot(f.addr, f.call), c.cfg.slot(f.addr, f.call)
	if from != nil && to != nil && atomic.LoadUint64(from) == s.address(f.off) {
		atomic.StoreUint64(to, c.address(f.off))
		c.note(f)
	}
}

// clone copies what can change of a region; the lists of links are for the caller to rebuild.
func (r *region) clone() *region {
	c := *r
	c.in = linkList{}
	c.fills = slices.Clone(r.fills)
	c.stubs = slices.Clone(r.stubs)
	c.hashed = slices.Clone(r.hashed)
	c.links = make([]link, len(r.links))
	for i, l := range r.links {
		c.links[i] = link{target: l.target, off: l.off, stub: l.stub, call: l.call, away: l.away, check: l.check}
	}
	return &c
}
