package tcache

import (
	"sort"

	"xvrun/xv/translate"
)

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

// makeRecipe copies the code of the region's blocks.
func (a *arena) makeRecipe(src translate.Source, reg *translate.Region) recipe {
	spans, size := a.makeSpans(reg)
	rc := recipe{spans: spans, bytes: a.bytes.take(int(size))}
	for _, sp := range spans {
		src.ReadCode(sp.addr, rc.bytes[sp.off:sp.off+sp.len])
	}
	return rc
}

// makeSpans returns the spans of the region's blocks, which are in order of address, and may overlap; and their size.
func (a *arena) makeSpans(reg *translate.Region) ([]span, uint32) {
	spans, size := a.work[:0], uint32(0)
	for i := range reg.Blocks {
		b := &reg.Blocks[i]
		lo, hi := b.Addr, b.Addr+uint64(b.Len)
		if k := len(spans); k > 0 && lo <= spans[k-1].end() {
			if last := &spans[k-1]; hi > last.end() {
				size += uint32(hi - last.end())
				last.len = uint32(hi - last.addr)
			}
			continue
		}
		spans = append(spans, span{addr: lo, off: size, len: uint32(hi - lo)})
		size += uint32(hi - lo)
	}
	a.work = spans
	return a.spans.keep(spans), size
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

// within reports whether all of the code lies in [lo, hi).
func (rc *recipe) within(lo, hi uint64) bool {
	n := len(rc.spans)
	return n > 0 && rc.spans[0].addr >= lo && rc.spans[n-1].end() <= hi
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
