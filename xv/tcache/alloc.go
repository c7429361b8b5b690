package tcache

import (
	"sort"

	"xvrun/xv/translate"
)

// area is the cache memory, which is filled from its start. Offsets are into Config.Code.
type area struct {
	next, hi uint32  // the free part
	pieces   []piece // what it holds, by offset
	arena    arena
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

// room returns where n bytes with the given alignment would be placed.
func (m *area) room(n int, align uint32) (uint32, bool) {
	off := (m.next + align - 1) &^ (align - 1)
	return off, off >= m.next && uint64(off)+uint64(n) <= uint64(m.hi)
}

// put writes a piece with these bytes at off, which room returned.
func (s *Space) put(code []byte, p piece) {
	if s.waking == nil {
		copy(s.cfg.Code[p.off:], code)
	}
	p.end = p.off + uint32(len(code))
	s.mem.pieces = append(s.mem.pieces, p)
	s.mem.next = p.end
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
	if off >= s.mem.next {
		return nil
	}
	pieces := s.mem.pieces
	k := sort.Search(len(pieces), func(k int) bool { return pieces[k].end > off })
	if k < len(pieces) && pieces[k].off <= off {
		return &pieces[k]
	}
	return nil
}

// eachLive calls f for each region that is not stale.
func (s *Space) eachLive(f func(r *region)) {
	s.each(func(r *region) {
		if !r.stale {
			f(r)
		}
	})
}

// each calls f for each region, stale ones included.
func (s *Space) each(f func(r *region)) {
	for _, p := range s.mem.pieces {
		if p.kind == pieceFragment {
			f(p.r)
		}
	}
}
