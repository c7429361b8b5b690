package tcache

import (
	"slices"

	"xvrun/xv/translate"
)

const (
	pageSize = 4096
	pageMask = pageSize - 1
	// lastPage is never executable; without it no address of code wraps around.
	lastPage = ^uint64(pageMask)
	// maxCopies bounds the copies of pages: a guest may execute a little of very many pages.
	maxCopies = 4096
)

// page is what is known of a page of original code. It is dropped when that is nothing.
type page struct {
	addr    uint64
	regions []*region             // live ones with code in it
	starts  [pageSize / 64]uint64 // a bit for each address where a block of one of them starts
	word    uint32                // offset of its word in the cache, plus one; see word
	hashed  []uint64              // indirect branches in it that use the hash
	strict  bool                  // its checked regions compare all of the code; see Tighten
	copy    []byte                // as it was when something was first translated from it; nil: not read
}

// noPage is what Space.last points at when there is none.
var noPage = page{addr: ^uint64(0)}

// page returns the page that addr lies in, nil if nothing is known of it.
func (s *Space) page(addr uint64) *page {
	addr &^= pageMask
	if s.last.addr == addr {
		return s.last
	}
	s.wakeIn(addr, addr+pageSize)
	pg := s.pages[addr]
	if pg != nil {
		s.last = pg
	}
	return pg
}

// makePage is page, but makes it.
func (s *Space) makePage(addr uint64) *page {
	pg := s.page(addr)
	if pg == nil {
		pg = &page{addr: addr &^ pageMask}
		s.pages[pg.addr] = pg
		s.last = pg
	}
	return pg
}

// tidy drops a page of which nothing is known.
func (s *Space) tidy(pg *page) {
	if len(pg.regions) == 0 && pg.copy == nil && pg.hashed == nil && !pg.strict {
		delete(s.pages, pg.addr)
		if s.last == pg {
			s.last = &noPage
		}
	}
}

// pagesIn calls f for the pages in [lo, hi); f may drop the page.
func (s *Space) pagesIn(lo, hi uint64, f func(pg *page)) {
	if lo >= hi {
		return
	}
	s.wakeIn(lo, hi)
	// Ranges are a page of generated code, or a whole mapping.
	first, last := lo&^pageMask, (hi-1)&^pageMask
	if (last-first)/pageSize >= uint64(len(s.pages)) {
		for addr, pg := range s.pages {
			if addr >= first && addr <= last {
				f(pg)
			}
		}
		return
	}
	for addr := first; ; addr += pageSize {
		if pg := s.pages[addr]; pg != nil {
			f(pg)
		}
		if addr == last {
			break
		}
	}
}

// isBlock reports whether a block of a live region starts at orig, or one of its inner instructions. Discovery asks it of every
// instruction.
func (s *Space) isBlock(orig uint64) bool {
	pg := s.page(orig)
	return pg != nil && pg.starts[orig&pageMask/64]>>(orig%64)&1 != 0
}

// isBoundary reports whether a region that is not checked must end before orig.
func (s *Space) isBoundary(orig uint64) bool { return s.isBlock(orig) || s.volatile(orig) }

// block returns the translation of the block that starts at orig, or of an inner instruction.
func (s *Space) block(orig uint64) (place, bool) {
	if !s.isBlock(orig) {
		return place{}, false
	}
	for _, r := range s.page(orig).regions {
		if r.head != nil && r.head != r {
			continue // another version
		}
		if body, ok := r.body(orig); ok {
			return place{r, body}, true
		}
	}
	return place{}, false
}

// index makes the blocks of a region known.
func (s *Space) index(r *region) {
	r.code.pages(func(addr uint64) {
		pg := s.makePage(addr)
		pg.regions = append(pg.regions, r)
	})
	for i := range r.reg.Blocks {
		s.markStart(r.reg.Blocks[i].Addr)
	}
	for i := range r.inner {
		s.markStart(r.inner[i].Addr)
	}
}

func (s *Space) markStart(orig uint64) {
	s.page(orig).starts[orig&pageMask/64] |= 1 << (orig % 64)
}

// addInner makes an instruction known that lies inside a block, since a branch from elsewhere leads to it. p is its
// translation.
func (s *Space) addInner(p place, orig uint64) {
	k, _ := p.r.findInner(orig)
	p.r.inner = slices.Insert(p.r.inner, k, translate.Entry{Addr: orig, Off: p.body - p.r.base})
	s.markStart(orig)
	s.bindWaiting(orig)
}

// unindex is index's inverse.
func (s *Space) unindex(r *region) {
	r.code.pages(func(addr uint64) {
		pg := s.page(addr)
		for i := range pg.regions {
			if pg.regions[i] == r {
				last := len(pg.regions) - 1
				pg.regions[i], pg.regions[last] = pg.regions[last], nil
				pg.regions = pg.regions[:last]
				break
			}
		}
	})
	for i := range r.reg.Blocks {
		s.clearStart(r.reg.Blocks[i].Addr)
	}
	for i := range r.inner {
		s.clearStart(r.inner[i].Addr)
	}
	r.code.pages(func(addr uint64) { s.tidy(s.page(addr)) })
}

// clearStart forgets a start that is of no region any more.
func (s *Space) clearStart(orig uint64) {
	if _, ok := s.block(orig); !ok {
		s.page(orig).starts[orig&pageMask/64] &^= 1 << (orig % 64)
	}
}

// forgetRegions drops what is known of the translations of pages.
func (s *Space) forgetRegions() {
	for _, pg := range s.pages {
		pg.regions, pg.starts, pg.word = nil, [pageSize / 64]uint64{}, 0
		s.tidy(pg)
	}
}

// forgetCopy drops the copy of a page.
func (s *Space) forgetCopy(pg *page) {
	if pg.copy != nil {
		pg.copy = nil
		s.copies--
		s.tidy(pg)
	}
}

// forgetCopies drops all copies.
func (s *Space) forgetCopies() {
	for _, pg := range s.pages {
		s.forgetCopy(pg)
	}
}

// reader reads original code for translation, through the Space's copies of pages.
type reader struct {
	s *Space
	m Memory
}

// ReadCode implements translate.Source.
func (r *reader) ReadCode(addr uint64, p []byte) int {
	n := 0
	for n < len(p) {
		at := addr + uint64(n)
		code := r.s.copyPage(r.m, at)
		off := int(at & pageMask)
		if off >= len(code) {
			break
		}
		n += copy(p[n:], code[off:])
		if len(code) < pageSize {
			break
		}
	}
	return n
}

// copyPage returns the copy of the page that addr lies in, made now if there is none: the bytes that could be read.
func (s *Space) copyPage(m Memory, addr uint64) []byte {
	addr &^= pageMask
	if pg := s.page(addr); pg != nil && pg.copy != nil {
		return pg.copy
	}
	if addr == lastPage {
		return nil
	}
	if s.cfg.Translated != nil {
		s.cfg.Translated(addr)
	}
	code := make([]byte, pageSize)
	n := m.ReadCode(addr, code)
	if n <= 0 || n > pageSize {
		return nil
	}
	s.makePage(addr).copy = code[:n]
	s.copies++
	return code[:n]
}
