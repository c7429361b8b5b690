package tcache

import "xvrun/xv/translate"

// recovered is an answer of Recover.
type recovered struct {
	rec translate.Recovery
	ok  bool
}

// maxRecovered bounds the answers that are kept. Threads are interrupted again and again in the same loops, and an answer
// costs translating the region once more.
const maxRecovered = 4096

// Recover says how to get from the machine state of a thread at a cache address to its original state. It knows all of
// the cache: fragments with their exit stubs, stale ones too until their memory is used again, and entry stubs.
func (s *Space) Recover(cache uint32) (translate.Recovery, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.recovered[cache]; ok {
		return a.rec, a.ok
	}
	p := s.find(cache)
	if p == nil {
		return translate.Recovery{}, false
	}
	var a recovered
	off := cache - s.cfg.Base - p.off
	if p.kind == pieceFragment {
		a.rec, a.ok = translate.Recover(&p.r.code, p.r.reg, s.cfg.Base+p.off, &s.cfg.Layout, off)
	} else {
		a.rec, a.ok = p.recover(off)
	}
	if len(s.recovered) >= maxRecovered {
		clear(s.recovered)
	}
	s.recovered[cache] = a
	return a.rec, a.ok
}

// Lengths of the instructions of entry stubs.
const (
	reloadLen = 9 // mov rcx,gs:[S]
	popLen    = 5 // lea rsp,[rsp+8]
	jmpLen    = 5 // jmp B
	maxStub   = reloadLen + popLen + jmpLen
)

// recover gives the state at an instruction of an entry stub.
func (p *piece) recover(off uint32) (translate.Recovery, bool) {
	jmp := p.end - p.off - jmpLen
	rec := translate.Recovery{RIP: p.orig, RCXFromS: off == 0}
	if p.kind == pieceCall && off < jmp {
		rec.RSPAdd = 8
	}
	return rec, off == 0 || off == jmp || p.kind == pieceCall && off == reloadLen
}

// IsStale reports whether a cache address lies in a stale fragment, or in an entry stub that leads to one.
func (s *Space) IsStale(cache uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	return p != nil && p.r.stale
}

// SpecialAt returns the original address of the special instruction whose exit stub is at a cache address.
func (s *Space) SpecialAt(stub uint32) (uint64, bool) {
	rec, ok := s.Recover(stub)
	return rec.RIP, ok && rec.Kind == translate.KindSpecial
}
