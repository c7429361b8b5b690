package tcache

import (
	"sort"

	"xvrun/xv/translate"
)

// half is one of the two parts of the cache memory: one is being filled while the stale fragments of the other die out.
// Offsets are into Config.Code.
type half struct {
	lo, hi  uint32
	next    uint32  // where the free part begins
	retired bool    // everything in it is stale, and nothing new is put into it before it was reused
	pieces  []piece // what it holds, by offset
	arena   arena

	// Regions of a retired half that hold no int3 yet. Their code is stale but still right, so that the int3 can be
	// written bit by bit: a map of the fragment has to be made for that, which takes as long as translating it.
	draining []*region
}

// piece is what one part of the cache memory holds: a fragment, or an entry stub out of line.
type piece struct {
	off, end uint32
	kind     pieceKind
	r        *region // the fragment's region, or the region that the entry stub leads to
	orig     uint64  // of an entry stub: the original address that it enters
}

type pieceKind uint8

const (
	pieceFragment pieceKind = iota
	pieceJump               // J entry
	pieceCall               // IC and D entry
	pieceHashJump           // stub of the hash for jumps
	pieceHashCall           // the same for calls
	pieceDormant            // regions that were restored linked, see dormant
)

const (
	// stubAlign is small: entry stubs that are made together share cache lines.
	stubAlign = 8
	// reserve is what a fragment leaves free behind it, so that the entry stub which it was translated for fits too.
	reserve = 4 * (translate.CallEntrySize + stubAlign)
)

// room returns where n bytes with the given alignment would be placed in the current half.
func (h *half) room(n int, align uint32) (uint32, bool) {
	off := (h.next + align - 1) &^ (align - 1)
	return off, off >= h.next && uint64(off)+uint64(n) <= uint64(h.hi)
}

// put writes a piece with these bytes at off, which room returned.
func (s *Space) put(code []byte, p piece) {
	h := &s.halves[s.cur]
	if s.waking == nil {
		copy(s.cfg.Code[p.off:], code)
	}
	p.end = p.off + uint32(len(code))
	h.pieces = append(h.pieces, p)
	h.next = p.end
	s.stats.CodeBytes += uint64(len(code))
}

// find returns the piece at a cache offset.
func (s *Space) find(off uint32) *piece {
	p := s.findPiece(off)
	if p != nil && p.kind == pieceDormant {
		s.wakeAt(p.off)
		p = s.findPiece(off)
	}
	return p
}

func (s *Space) findPiece(off uint32) *piece {
	for i := range s.halves {
		h := &s.halves[i]
		if off < h.lo || off >= h.next {
			continue
		}
		k := sort.Search(len(h.pieces), func(k int) bool { return h.pieces[k].end > off })
		if k < len(h.pieces) && h.pieces[k].off <= off {
			return &h.pieces[k]
		}
	}
	return nil
}

// usable makes the current half one that can be filled: after a half was retired, the other one, once no thread is inside.
func (s *Space) usable() error {
	if !s.halves[s.cur].retired {
		return nil
	}
	for range s.halves {
		s.cur = (s.cur + 1) % len(s.halves)
		h := &s.halves[s.cur]
		s.drain(h, len(h.draining))
		if h.next > h.lo && s.cfg.Quiesce != nil && !s.cfg.Quiesce(h.lo, h.hi) {
			continue
		}
		h.next, h.pieces, h.arena, h.retired = h.lo, nil, arena{}, false
		clear(s.maps)
		return nil
	}
	return ErrFull
}

// retire makes everything in the current half stale, which is everything that is live.
func (s *Space) retire() {
	h := &s.halves[s.cur]
	if h.retired {
		return
	}
	s.wakeAll()
	for _, p := range h.pieces {
		if r := p.r; p.kind == pieceFragment && !r.stale {
			s.clearFills(r)
			r.stale = true
			r.in = linkList{}
			for i := range r.links {
				l := &r.links[i]
				l.to, l.list, l.prev, l.next = nil, nil, nil, nil
			}
			h.draining = append(h.draining, r)
		}
	}
	s.forgetRegions()
	clear(s.waiting)
	h.retired = true
	s.stats.Retired++
	s.stats.Dropped += s.stats.Live
	s.stats.Live = 0
}

// drain writes the int3 of up to n regions of a retired half.
func (s *Space) drain(h *half, n int) {
	k := max(len(h.draining)-n, 0)
	for _, r := range h.draining[k:] {
		s.trap(r)
	}
	clear(h.draining[k:])
	h.draining = h.draining[:k]
}
