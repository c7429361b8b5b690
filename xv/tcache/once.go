package tcache

import (
	"bytes"

	"xvrun/xv/translate"
	"xvrun/xv/x86"
)

// maxOnce bounds how many translations of single instructions are kept for the next time.
const maxOnce = 1024

// Once returns the cache address of a translation of the single instruction at orig, as memory is now, at which a thread
// with the exact original state may be resumed. It is for an instruction that writes the page it lies in, where the
// page must not be write-protected again before it ran: Translated is not called, nothing is remembered of the page,
// and nothing else leads to the fragment, which counts as stale from the start. What follows the instruction is
// translated as usual when the thread comes there, by TakeLink or the tables.
func (s *Space) Once(m Memory, orig uint64) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Misses++
	if orig >= lastPage {
		return 0, &translate.DecodeError{Addr: orig}
	}
	// Read once: the guest may be writing.
	now := recipe{bytes: make([]byte, x86.MaxLen)}
	n := min(max(m.ReadCode(orig, now.bytes), 0), x86.MaxLen)
	now.spans = []span{{addr: orig, len: uint32(n)}}
	if r := s.once[orig]; r != nil {
		if bytes.HasPrefix(now.bytes[:n], r.code.bytes) {
			return s.cfg.Base + r.base + r.bodies[0], nil
		}
	}
	one := translate.Limits{Blocks: 1, Bytes: 1, Stop: func(uint64) bool { return true }}
	for {
		if err := s.usable(); err != nil {
			return 0, err
		}
		h := &s.halves[s.cur]
		reg, err := translate.Discover(&now, orig, translate.ByLink, one)
		if err != nil {
			return 0, err
		}
		code := h.arena.makeRecipe(&now, &reg)
		base, _ := h.room(0, translate.Align)
		frag, err := translate.Emit(&code, &reg, s.cfg.Base+base, &s.cfg.Layout, &s.buf)
		if err != nil {
			return 0, err
		}
		if _, ok := h.room(len(frag.Code), translate.Align); !ok {
			if len(h.pieces) == 0 {
				return 0, ErrSize
			}
			s.retire()
			continue
		}
		r := s.newRegion(reg, code, frag, base)
		r.stale = true
		if len(s.once) >= maxOnce {
			clear(s.once)
		}
		s.once[orig] = r
		return s.cfg.Base + base + r.bodies[0], nil
	}
}
