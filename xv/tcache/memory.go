package tcache

import (
	"sort"

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

// page is a copy of a page of original code as it was when something was first translated from it.
type page struct {
	addr uint64
	n    int // bytes that could be read
	b    [pageSize]byte
}

// reader reads original code for translation, through the Space's copies of pages.
type reader struct {
	s    *Space
	m    Memory
	last *page
}

// ReadCode implements translate.Source.
func (r *reader) ReadCode(addr uint64, p []byte) int {
	n := 0
	for n < len(p) {
		at := addr + uint64(n)
		if r.last == nil || r.last.addr != at&^pageMask {
			pg := r.s.copyPage(r.m, at&^pageMask)
			if pg == nil {
				break
			}
			r.last = pg
		}
		off := int(at & pageMask)
		if off >= r.last.n {
			break
		}
		n += copy(p[n:], r.last.b[off:r.last.n])
		if r.last.n < pageSize {
			break
		}
	}
	return n
}

// copyPage returns the copy of a page, made now if there is none; nil when nothing of it can be read.
func (s *Space) copyPage(m Memory, addr uint64) *page {
	if pg := s.copies[addr]; pg != nil {
		return pg
	}
	if addr == lastPage {
		return nil
	}
	if s.cfg.Translated != nil {
		s.cfg.Translated(addr)
	}
	pg := &page{addr: addr}
	if pg.n = m.ReadCode(addr, pg.b[:]); pg.n <= 0 || pg.n > pageSize {
		return nil
	}
	s.copies[addr] = pg
	return pg
}

// recipe is the original code of one region's blocks, for emitting the region again when the guest may have changed or
// unmapped it. It never changes.
type recipe struct {
	spans []span
	bytes []byte
}

// span is an uninterrupted run of original code; its bytes begin at off.
type span struct {
	addr uint64
	off  uint32
	len  uint32
}

// makeRecipe copies the code of the region's blocks; they are in order of address, and may overlap.
func makeRecipe(src translate.Source, reg *translate.Region) recipe {
	var rc recipe
	for _, b := range reg.Blocks {
		lo, hi := b.Addr, b.Addr+uint64(b.Len)
		if k := len(rc.spans); k > 0 && lo <= rc.spans[k-1].end() {
			last := &rc.spans[k-1]
			if hi > last.end() {
				last.len = uint32(hi - last.addr)
			}
			continue
		}
		rc.spans = append(rc.spans, span{addr: lo, len: uint32(hi - lo)})
	}
	size := uint32(0)
	for i := range rc.spans {
		rc.spans[i].off = size
		size += rc.spans[i].len
	}
	rc.bytes = make([]byte, size)
	for _, sp := range rc.spans {
		src.ReadCode(sp.addr, rc.bytes[sp.off:sp.off+sp.len])
	}
	return rc
}

func (sp *span) end() uint64 { return sp.addr + uint64(sp.len) }

// ReadCode implements translate.Source.
func (rc *recipe) ReadCode(addr uint64, p []byte) int {
	k := sort.Search(len(rc.spans), func(k int) bool { return rc.spans[k].end() > addr })
	if k == len(rc.spans) || rc.spans[k].addr > addr {
		return 0
	}
	sp := rc.spans[k]
	return copy(p, rc.bytes[sp.off+uint32(addr-sp.addr):sp.off+sp.len])
}

// overlaps reports whether the code touches [lo, hi).
func (rc *recipe) overlaps(lo, hi uint64) bool {
	if lo >= hi {
		return false
	}
	k := sort.Search(len(rc.spans), func(k int) bool { return rc.spans[k].end() > lo })
	return k < len(rc.spans) && rc.spans[k].addr < hi
}

// pages calls f for each page that the code touches, once.
func (rc *recipe) pages(f func(page uint64)) {
	next := uint64(0)
	for i, sp := range rc.spans {
		first := sp.addr &^ pageMask
		if i > 0 && first < next {
			first = next
		}
		for pg := first; pg < sp.end(); pg += pageSize {
			f(pg)
			next = pg + pageSize
		}
	}
}
