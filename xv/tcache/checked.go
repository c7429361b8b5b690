package tcache

import (
	"slices"
	"sync/atomic"
	"unsafe"

	"xvrun/xv/translate"
)

// Code that the guest changes at any time is not watched but checked: Config.Volatile says of which pages. A region of it
// compares the original code whenever control enters it, and when that has changed control goes on to the next version
// of the region, or leaves by the exit stub of its check. Versions are translations of other code at the same address. The
// first of them is the head, which everything else leads to.

// maxVersions bounds the versions of a region besides the head.
const maxVersions = 3

// volatile reports whether an instruction at addr may lie in a page that is to be checked.
func (s *Space) volatile(addr uint64) bool {
	if s.cfg.Volatile == nil {
		return false
	}
	first, last := addr&^pageMask, (addr+translate.MaxChecked)&^pageMask
	if s.asked[0] != first || s.asked[1] != last {
		s.asked, s.answer = [2]uint64{first, last}, s.cfg.Volatile(first) || last != first && s.cfg.Volatile(last)
	}
	return s.answer
}

// anyVolatile is volatile of any address of [lo, hi).
func (s *Space) anyVolatile(lo, hi uint64) bool {
	for addr := lo; addr < hi; addr = addr&^pageMask + pageSize {
		if s.volatile(addr) {
			return true
		}
	}
	return false
}

// forgetAnswer makes volatile ask again.
func (s *Space) forgetAnswer() { s.asked = [2]uint64{1, 1} }

// snapshot reads code to be checked. It is read once: the guest may be writing.
func (s *Space) snapshot(m Memory, orig uint64) recipe {
	now := recipe{bytes: make([]byte, translate.MaxChecked+16)}
	n := 0
	if orig < lastPage {
		n = min(max(m.ReadCode(orig, now.bytes), 0), len(now.bytes))
	}
	now.bytes = now.bytes[:n]
	now.spans = []span{{addr: orig, len: uint32(n)}}
	return now
}

// translateChecked makes a checked region of the code at orig as now has it, known to nobody yet. The immediate operands of
// the instructions at loose are not checked.
func (s *Space) translateChecked(now *recipe, orig uint64, way translate.Way, loose []uint64) (*region, error) {
	lim := translate.Limits{Blocks: 1, Bytes: translate.MaxChecked, Stop: s.isBlock, Checked: true}
	reg, err := translate.Discover(now, orig, way, lim)
	if err != nil {
		return nil, err
	}
	code := s.mem.arena.makeRecipe(now, &reg)
	for _, addr := range loose {
		if code.overlaps(addr, addr+1) {
			reg.Loose = append(reg.Loose, addr)
		}
	}
	words, room := s.words(&code)
	if !room {
		return nil, ErrFull
	}
	reg.Words = words
	return s.emit(reg, code)
}

// recheck answers a thread that left a checked region by its check: it finds or makes the version for the code that is there
// now. The check may also have passed, with the fuel used up.
func (s *Space) recheck(m Memory, from *region) (place, error) {
	orig := from.reg.Entry
	head := from.head
	if from.stale || head.stale || !s.volatile(orig) {
		return s.locate(m, orig, translate.ByLink)
	}
	now := s.snapshot(m, orig)
	if len(now.bytes) == 0 {
		return place{}, &translate.DecodeError{Addr: orig}
	}
	var loose []uint64
	var like *region
	for _, r := range head.versions {
		if r.reg.Matches(r.code.bytes, now.bytes) {
			r.code.pages(func(addr uint64) { s.setWord(s.page(addr), false) })
			return place{r, r.base + r.bodies[0]}, nil
		}
		if pg := s.page(orig); pg != nil && pg.strict {
			continue
		}
		if all, ok := translate.Loosen(r.code.bytes, now.bytes, orig, r.reg.Loose); ok {
			like, loose = r, all
		}
	}
	filled := [2]bool{head.isFilled(orig, false), head.isFilled(orig, true)}
	switch {
	case like == head, len(head.versions) > maxVersions:
		s.drop(head)
	case like != nil:
		s.drop(like)
	}
	r, err := s.translateChecked(&now, orig, head.reg.Way, loose)
	if err != nil {
		return place{}, err
	}
	if !head.stale {
		r.head, r.versions = head, nil
		head.versions = append(head.versions, r)
		s.chain(head)
	}
	s.install(r)
	if head.stale {
		s.fillAgain(r, filled)
	}
	s.ahead(m, r)
	return place{r, r.base + r.bodies[0]}, nil
}

// Tighten is told that the instruction at orig, with its translation at a cache offset, has faulted at an operand that is
// not aligned. It reports whether that is the immediate operand, loaded from the original code: in the page of that no
// more are.
func (s *Space) Tighten(cache uint32, orig uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(cache)
	if p == nil || p.kind != pieceFragment || !slices.Contains(p.r.reg.Loose, orig) {
		return false
	}
	s.makePage(p.r.reg.Entry).strict = true
	if !p.r.stale {
		s.drop(p.r.head)
	}
	return true
}

// isFilled reports whether a table entry of addr was filled to lead to r.
func (r *region) isFilled(addr uint64, call bool) bool {
	return slices.Contains(r.hashed, bucket{uint16(addr), call}) ||
		slices.ContainsFunc(r.fills, func(f fill) bool { return f.addr == addr && f.call == call })
}

// fillAgain fills the table entries that led to the head whose place r takes, J and C.
func (s *Space) fillAgain(r *region, filled [2]bool) {
	for i, kind := range [2]pieceKind{pieceJump, pieceCall} {
		if e, ok := r.entry(r.reg.Entry, kind); ok && filled[i] {
			s.fill(r, r.reg.Entry, kind == pieceCall, e.first)
		}
	}
}

// chain makes the check of each version lead to the next version.
func (s *Space) chain(head *region) {
	for i, r := range head.versions {
		l := r.checkLink()
		to := l.stub
		if i+1 < len(head.versions) {
			next := head.versions[i+1]
			to = next.base + next.bodies[0]
		}
		s.patch(l.off, to)
	}
}

// checkLink is the link that is taken when the check fails.
func (r *region) checkLink() *link {
	return &r.links[slices.IndexFunc(r.links, func(l link) bool { return l.check })]
}

// dropVersions is drop's part for checked regions: the head takes the other versions with it.
func (s *Space) dropVersions(r *region) {
	head := r.head
	if head != r {
		head.versions = slices.DeleteFunc(head.versions, func(v *region) bool { return v == r })
		s.chain(head)
		return
	}
	others := r.versions[1:]
	r.versions = r.versions[:1]
	for _, v := range others {
		if !v.stale {
			s.drop(v)
		}
	}
}

// CheckAt returns the original address of the checked region with the exit stub of its check at a cache offset.
func (s *Space) CheckAt(stub uint32) (orig uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.linkAt(stub)
	if l == nil || !l.check {
		return 0, false
	}
	return l.target, true
}

// words returns the cache offsets of the words that a checked region with this code looks at, made now if there are none. ok is false
// if there is no room.
func (s *Space) words(code *recipe) (list [2]uint32, ok bool) {
	n := 0
	ok = true
	code.pages(func(addr uint64) { // one or two: see translate.MaxChecked
		word, room := s.word(addr)
		if n++; n == 1 {
			list[0] = word
		}
		list[1] = word
		ok = ok && room
	})
	return list, ok
}

// word is words for a page.
func (s *Space) word(addr uint64) (word uint32, ok bool) {
	if s.cfg.Word != nil {
		if word := s.cfg.Word(addr &^ pageMask); word != 0 {
			return word, true
		}
	}
	pg := s.makePage(addr)
	if pg.word == 0 {
		off, ok := s.mem.room(translate.WordSize, translate.WordSize)
		if !ok {
			s.tidy(pg)
			return 0, false
		}
		s.mem.next = off + translate.WordSize
		pg.word = off + 1
		s.setWord(pg, false)
	}
	return pg.word - 1, true
}

// setWord says whether the checked regions with code in a page are suspended.
func (s *Space) setWord(pg *page, suspended bool) {
	if pg.word == 0 {
		return
	}
	bits := ^uint64(0)
	if suspended {
		bits = 0
	}
	for off := 0; off < translate.WordSize; off += 8 {
		atomic.StoreUint64((*uint64)(unsafe.Pointer(&s.cfg.Code[int(pg.word)-1+off])), bits)
	}
}

// Suspend says that the code of the pages in [lo, hi) may not be executed until Resume says so: each thread in a checked
// region leaves by the check when it comes to one again. The other regions become stale.
func (s *Space) Suspend(lo, hi uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropIf(lo, hi, func(r *region) bool { return !r.reg.Checked })
	s.pagesIn(lo, hi, func(pg *page) {
		s.setWord(pg, true)
		s.forgetCopy(pg)
	})
}

// Resume is the inverse of Suspend.
func (s *Space) Resume(lo, hi uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pagesIn(lo, hi, func(pg *page) { s.setWord(pg, false) })
}

// dropIf drops the regions with code in [lo, hi) of which f says so.
func (s *Space) dropIf(lo, hi uint64, f func(r *region) bool) {
	var list []*region
	s.pagesIn(lo, hi, func(pg *page) {
		for _, r := range pg.regions {
			if f(r) && r.code.overlaps(lo, hi) {
				list = append(list, r)
			}
		}
	})
	for _, r := range list {
		if !r.stale { // twice in the list, or another version of one
			s.drop(r)
		}
	}
}

// InvalidateChecked makes all checked regions stale, so that every thread in them leaves before its next original
// instruction.
func (s *Space) InvalidateChecked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropIf(0, lastPage, func(r *region) bool { return r.reg.Checked })
}
