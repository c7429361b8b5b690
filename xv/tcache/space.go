package tcache

import (
	"sync"
	"unsafe"

	"xvrun/xv/translate"
)

// Space is the translations of one guest address space. It is safe for concurrent use.
type Space struct {
	mu  sync.Mutex
	cfg Config

	mem  area
	mark uint32 // where the first region lies that was translated since pieces of the cache memory were last in no use; see Age
	aged bool   // Ripe has reported true

	pages   map[uint64]*page     // by address
	last    *page                // the one that was last looked up
	copies  int                  // pages with a copy
	waiting map[uint64]*linkList // by original address: links that lead to their exit stub until it is translated

	src    reader
	limits translate.Limits

	buckets map[bucket][]hashed
	filled  []fill // see note

	dormant []*dormant
	waking  *dormant // the one whose regions are being made

	asked  [2]uint64 // pages that Volatile was last asked about
	answer bool      // what it said

	buf translate.Buffer
	workshop
	maps map[*region]*translate.Map

	stats Stats
}

// place is where the exact original state may be resumed: a cache offset in region r.
type place struct {
	r    *region
	body uint32
}

// Limits of a region. Of the code that is reachable without a call about half is executed, so that larger regions cost
// more translation than they save misses: with four times as much, programs start with 10 % more instructions translated
// and 10 % fewer misses, of which each takes as long as 50 to 100 instructions.
const (
	maxBlocks = 128
	maxBytes  = 2 << 10
)

// New makes an empty Space. It panics when cfg.Code is too small, too large, or not aligned.
func New(cfg Config) *Space {
	if len(cfg.Code) < 2*pageSize || len(cfg.Code) > 1<<30 || cfg.Base == 0 {
		panic("tcache: New: bad size of the cache memory")
	}
	s := newSpace(cfg)
	s.mem.hi = uint32(len(cfg.Code)) &^ pageMask
	return s
}

func newSpace(cfg Config) *Space {
	if cfg.Base&pageMask != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(cfg.Code)))&7 != 0 {
		panic("tcache: the cache memory is not aligned")
	}
	s := &Space{
		cfg:     cfg,
		pages:   make(map[uint64]*page),
		last:    &noPage,
		waiting: make(map[uint64]*linkList),
		buckets: make(map[bucket][]hashed),
		maps:    make(map[*region]*translate.Map),
	}
	s.src.s = s
	s.forgetAnswer()
	s.limits = translate.Limits{Blocks: maxBlocks, Bytes: maxBytes, Stop: s.isBoundary}
	return s
}

// Jump returns the cache offset at which a thread with the exact original state, and rcx in S, may be resumed at orig,
// translating if needed. Errors of translation (*translate.DecodeError) say that the code at orig cannot be executed.
func (s *Space) Jump(m Memory, orig uint64) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Misses++
	if body, ok := s.dormantPlace(orig); ok {
		return body, nil
	}
	p, err := s.locate(m, orig, translate.ByLink)
	if err != nil {
		return 0, err
	}
	return p.body, nil
}

// FillJump answers the miss of an indirect jump or a return: it fills the entry of orig in table J, and returns where the
// exact original state may be resumed.
func (s *Space) FillJump(m Memory, orig uint64) (body uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Misses++
	p, e, err := s.enter(m, orig, pieceJump, translate.ByJump)
	if err != nil {
		return 0, err
	}
	if !s.fill(p.r, orig, false, e.first) {
		return 0, ErrFull
	}
	return p.body, nil
}

// FillCall answers the miss of an indirect call: it fills the entry of orig in table C, and returns the cache offset of D, where a
// thread is resumed that has made the call (rsp points at the extra word) and whose rcx is the original one.
func (s *Space) FillCall(m Memory, orig uint64) (direct uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Misses++
	p, e, err := s.enter(m, orig, pieceCall, translate.ByCall)
	if err != nil {
		return 0, err
	}
	if !s.fill(p.r, orig, true, e.first) {
		return 0, ErrFull
	}
	return e.direct, nil
}

// TakeLink answers a thread that left the cache through the exit stub of a link: it translates the target if needed, binds
// the link, and returns where the thread is resumed, with rcx in its register and in S: B of the target, or D when call is
// true, or entries that reload rcx. Target and call are valid unless err is ErrStub. The stub may belong to a stale fragment: the branch was made, only nothing is bound.
func (s *Space) TakeLink(m Memory, stub uint32) (resume uint32, target uint64, call bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Misses++
	l := s.linkAt(stub)
	if l == nil {
		return 0, 0, false, ErrStub
	}
	if l.check {
		p, err := s.recheck(m, l.from)
		return p.body, l.target, false, err
	}
	var p place
	var dest uint32
	if l.call || l.away {
		var e entry
		p, e, err = s.enter(m, l.target, l.entryKind(), l.way())
		dest = e.forLink(l)
	} else {
		p, err = s.target(m, l.target, l.way())
		dest = p.body
	}
	if err != nil {
		return 0, l.target, l.call, err
	}
	// Translating may have made the link's own fragment stale.
	if !l.from.stale && l.to == nil && !s.cfg.missed(l.target) {
		s.bind(l, p.r, dest)
	}
	return dest, l.target, l.call, nil
}

// linkAt returns the link with this exit stub.
func (s *Space) linkAt(stub uint32) *link {
	p := s.find(stub)
	if p == nil || p.kind != pieceFragment {
		return nil
	}
	return p.r.linkAt(stub)
}

// locate finds or makes the translation of orig. When it translates, way is how the region is reached.
func (s *Space) locate(m Memory, orig uint64, way translate.Way) (place, error) {
	if p, ok := s.lookup(orig); ok {
		return p, nil
	}
	r, err := s.translate(m, orig, way)
	if err != nil {
		return place{}, err
	}
	s.ahead(m, r)
	p, _ := s.block(orig)
	return p, nil
}

// target is locate for the target of a branch.
func (s *Space) target(m Memory, orig uint64, way translate.Way) (place, error) {
	p, err := s.locate(m, orig, way)
	if err == nil && !s.isBlock(orig) {
		s.addInner(p, orig)
	}
	return p, err
}

// lookup finds the translation of orig, also in the middle of a block.
func (s *Space) lookup(orig uint64) (place, bool) {
	if p, ok := s.block(orig); ok {
		return p, true
	}
	pg := s.page(orig)
	if pg == nil {
		return place{}, false
	}
	for _, r := range pg.regions {
		if r.reg.Checked || !r.code.overlaps(orig, orig+1) {
			continue // the check is at the start
		}
		if m := s.mapOf(r); m != nil {
			if off, ok := m.Boundary(orig); ok {
				return place{r, r.base + off}, true
			}
		}
	}
	return place{}, false
}

// entry is the way into a place for branches of one kind. For jumps, first is the J entry; for calls it is IC, and direct is D.
type entry struct {
	first, direct uint32
}

// forLink is where a link leads that needs an entry.
func (e entry) forLink(l *link) uint32 {
	if l.away {
		return e.first
	}
	return e.direct
}

// enter finds or makes the translation of orig and the entry for branches of a kind. When it translates, way is how the
// region is reached.
func (s *Space) enter(m Memory, orig uint64, kind pieceKind, way translate.Way) (place, entry, error) {
	p, err := s.target(m, orig, way)
	if err != nil {
		return place{}, entry{}, err
	}
	if e, ok := p.r.entry(orig, kind); ok {
		return p, e, nil
	}
	if e, ok := s.makeStub(p, orig, kind); ok {
		return p, e, nil
	}
	return place{}, entry{}, ErrFull
}

// makeStub emits an entry stub out of line.
func (s *Space) makeStub(p place, orig uint64, kind pieceKind) (entry, bool) {
	var code []byte
	off, ok := s.mem.room(translate.CallEntrySize, stubAlign)
	if !ok {
		return entry{}, false
	}
	e := entry{first: off, direct: off}
	switch kind {
	case pieceJump:
		code = translate.EmitJumpEntry(off, p.body)
	case pieceCall:
		code = translate.EmitCallEntry(off, p.body)
		e.direct = off + translate.CallEntrySize - translate.DirectCallEntrySize
	}
	s.put(code, piece{off: off, kind: kind, r: p.r, orig: orig})
	p.r.stubs = append(p.r.stubs, stub{orig, kind, e})
	s.stats.Stubs++
	return e, true
}
