package tcache

import (
	"cmp"
	"slices"
	"sort"

	"xvrun/xv/translate"
)

// region is one translated region: the recipe of its fragment, and what leads into and out of it.
type region struct {
	reg  translate.Region
	code recipe
	base uint32 // offset of the fragment in the cache
	size uint32 // of the fragment

	bodies  []uint32          // of the blocks of reg, as offsets in the fragment
	inner   []translate.Entry // instructions inside of blocks to which branches lead from elsewhere, by address
	returns []translate.Entry // reloads of return sites, by address
	call    entry             // of calls to reg.Entry, if reg.Way is translate.ByCall
	jump    uint32            // of jumps to reg.Entry, if reg.Way is not translate.ByLink

	links  []link // direct branches out of it, by exit stub
	in     linkList
	fills  []fill
	hashed []bucket // with stubs that lead to it
	stubs  []stub   // entry stubs out of line

	record   []byte // that it was restored from, or nil
	recorded int    // table entries and inner instructions of the record

	// Of a checked region: the first version of it, and all versions, which only the first knows.
	head     *region
	versions []*region

	stale bool
}

// stub is an entry stub out of line.
type stub struct {
	orig uint64
	kind pieceKind
	entry
}

// body returns the cache offset of the body of the block that starts at orig, or of an inner instruction.
func (r *region) body(orig uint64) (uint32, bool) {
	if k, ok := r.block(orig); ok {
		return r.base + r.bodies[k], true
	}
	if k, ok := r.findInner(orig); ok {
		return r.base + r.inner[k].Off, true
	}
	return 0, false
}

// findInner returns the index in inner of orig, or where it belongs.
func (r *region) findInner(orig uint64) (int, bool) {
	return slices.BinarySearchFunc(r.inner, orig, func(e translate.Entry, orig uint64) int { return cmp.Compare(e.Addr, orig) })
}

// block returns the index of the block that starts at orig.
func (r *region) block(orig uint64) (int, bool) {
	blocks := r.reg.Blocks
	if n := len(blocks); n == 0 || orig < blocks[0].Addr || orig > blocks[n-1].Addr {
		return 0, false
	}
	k := sort.Search(len(blocks), func(k int) bool { return blocks[k].Addr >= orig })
	return k, blocks[k].Addr == orig
}

// entry returns the existing entry for branches of a kind to orig.
func (r *region) entry(orig uint64, kind pieceKind) (entry, bool) {
	switch {
	case kind == pieceCall && r.reg.Way == translate.ByCall && orig == r.reg.Entry:
		return r.call, true
	case kind == pieceJump && r.reg.Way != translate.ByLink && orig == r.reg.Entry:
		return entry{r.jump, r.jump}, true
	case kind == pieceJump:
		k := sort.Search(len(r.returns), func(k int) bool { return r.returns[k].Addr >= orig })
		if k < len(r.returns) && r.returns[k].Addr == orig {
			off := r.base + r.returns[k].Off
			return entry{off, off}, true
		}
		if k, ok := r.block(orig); ok && !r.reg.Blocks[k].NeedsRCX() {
			off := r.base + r.bodies[k]
			return entry{off, off}, true
		}
	}
	for i := range r.stubs {
		if r.stubs[i].orig == orig && r.stubs[i].kind == kind {
			return r.stubs[i].entry, true
		}
	}
	return entry{}, false
}

// linkAt returns the link with the exit stub at this cache offset.
func (r *region) linkAt(stub uint32) *link {
	k := sort.Search(len(r.links), func(k int) bool { return r.links[k].stub >= stub })
	if k < len(r.links) && r.links[k].stub == stub {
		return &r.links[k]
	}
	return nil
}

// translate translates the region of orig into the cache and makes it known.
func (s *Space) translate(m Memory, orig uint64, way translate.Way) (*region, error) {
	s.forgetAnswer()
	if s.volatile(orig) {
		now := s.snapshot(m, orig)
		r, err := s.translateChecked(&now, orig, way, nil)
		if err != nil {
			return nil, err
		}
		s.install(r)
		return r, nil
	}
	// Not while a region is being read: all of it must come from the same copies.
	if s.copies >= maxCopies {
		s.forgetCopies()
	}
	s.src.m = m
	reg, err := translate.Discover(&s.src, orig, way, s.limits)
	if err != nil {
		return nil, err
	}
	r, err := s.emit(reg, s.mem.arena.makeRecipe(&s.src, &reg))
	if err != nil {
		return nil, err
	}
	s.install(r)
	return r, nil
}

// emit writes the fragment of a new region with this code into the cache, and counts it. Nothing leads to it yet.
func (s *Space) emit(reg translate.Region, code recipe) (*region, error) {
	reg.Hashed = s.hashedIn(&reg, &code)
	frag, base, err := s.emitInRoom(&code, &reg)
	if err != nil {
		return nil, err
	}
	r := s.newRegion(reg, code, frag, base)
	s.count(r, frag)
	return r, nil
}

// emitInRoom emits a fragment for where the free part of the cache begins, if there is room.
func (s *Space) emitInRoom(code *recipe, reg *translate.Region) (frag *translate.Fragment, base uint32, err error) {
	base, _ = s.mem.room(0, translate.Align)
	frag, err = translate.Emit(code, reg, base, &s.cfg.Layout, &s.buf)
	if err != nil {
		return nil, 0, err
	}
	if _, ok := s.mem.room(len(frag.Code)+reserve, translate.Align); ok {
		return frag, base, nil
	}
	if len(s.mem.pieces) == 0 {
		return nil, 0, ErrSize
	}
	return nil, 0, ErrFull
}

// newRegion writes a fragment into the cache. Nothing leads to it yet.
func (s *Space) newRegion(reg translate.Region, code recipe, frag *translate.Fragment, base uint32) *region {
	mem := &s.mem.arena
	r := &mem.regions.take(1)[0]
	*r = region{
		reg:     reg,
		code:    code,
		base:    base,
		size:    uint32(len(frag.Code)),
		bodies:  mem.bodies.take(len(frag.Entries)),
		returns: mem.entries.keep(frag.Returns),
		call:    entry{base + frag.CallEntry, base + frag.DirectCallEntry},
		jump:    base + frag.JumpEntry,
		links:   mem.links.take(len(frag.Links)),
	}
	if reg.Checked {
		r.head, r.versions = r, []*region{r}
	}
	for i := range frag.Entries {
		r.bodies[i] = frag.Entries[i].Off
	}
	// Overlapping code aside, both are in order already.
	slices.SortFunc(r.returns, func(a, b translate.Entry) int { return cmp.Compare(a.Addr, b.Addr) })
	for i := range frag.Links {
		l := &frag.Links[i]
		r.links[i] = link{from: r, target: l.Target, off: base + l.Off, stub: base + l.Stub, call: l.Call, away: l.Away, check: l.Check}
	}
	slices.SortFunc(r.links, func(a, b link) int { return cmp.Compare(a.stub, b.stub) })
	s.put(frag.Code, piece{off: base, kind: pieceFragment, r: r})
	return r
}

// count counts a region that was translated.
func (s *Space) count(r *region, frag *translate.Fragment) {
	s.stats.Regions++
	s.stats.Instrs += uint64(frag.Instrs)
	s.stats.SourceBytes += uint64(len(r.code.bytes))
}

// install lets everything lead to a region that should.
func (s *Space) install(r *region) {
	s.stats.Live++
	s.index(r)
	for i := range r.links {
		l := &r.links[i]
		if l.check {
			continue
		}
		if p, dest, ok := s.destination(l); ok {
			s.bind(l, p.r, dest)
		} else {
			s.wait(l)
		}
	}
	for i := range r.reg.Blocks {
		s.bindWaiting(r.reg.Blocks[i].Addr)
	}
	for i := range r.inner {
		s.bindWaiting(r.inner[i].Addr)
	}
	s.fillReturns(r)
}

// bindWaiting binds the links that wait for a block.
func (s *Space) bindWaiting(target uint64) {
	ll := s.waiting[target]
	if ll == nil {
		return
	}
	for l := ll.first; l != nil; {
		next := l.next
		if p, dest, ok := s.destination(l); ok {
			s.bind(l, p.r, dest)
		}
		l = next
	}
}

// destination returns where a link can be bound to at once: a block that is translated. A block without the entry that the
// link needs gets a stub if there is room.
func (s *Space) destination(l *link) (place, uint32, bool) {
	if d := s.waking; d != nil && (l.target < d.lo || l.target >= d.hi) {
		return place{}, 0, false // bound when all are awake
	}
	if s.cfg.missed(l.target) {
		return place{}, 0, false
	}
	p, ok := s.block(l.target)
	if !ok || !l.call && !l.away {
		return p, p.body, ok
	}
	e, ok := p.r.entry(l.target, l.entryKind())
	if !ok {
		if _, room := s.mem.room(reserve, stubAlign); room {
			e, ok = s.makeStub(p, l.target, l.entryKind())
		}
	}
	return p, e.forLink(l), ok
}

// drop makes a region stale: nothing leads to it any more, and threads inside trap at their next original instruction.
func (s *Space) drop(r *region) {
	r.stale = true
	s.clearFills(r)
	s.unindex(r)
	if r.reg.Checked {
		s.dropVersions(r)
	}
	for r.in.first != nil {
		s.unbind(r.in.first)
	}
	for i := range r.links {
		s.forget(&r.links[i])
	}
	s.trap(r)
	s.stats.Dropped++
	s.stats.Live--
}

const int3 = 0xcc

// trap writes an int3 to every place of a stale fragment where threads arrive on their way from one original instruction
// to the next. They are single bytes, so that a thread runs either the old instruction or the int3.
func (s *Space) trap(r *region) {
	m, err := translate.Record(&r.code, &r.reg, r.base, &s.cfg.Layout, &s.buf)
	if err != nil {
		// Translation is pure, and the fragment was emitted from this recipe.
		panic("tcache: recipe lost: " + err.Error())
	}
	for _, off := range m.Boundaries() {
		s.cfg.Code[r.base+off] = int3
	}
}

// aheadCost is what a region costs besides its length, in bytes of the budget: a guest full of tiny functions must not
// make one miss translate hundreds of them.
const aheadCost = 32

// ahead translates what the new region branches to, and what that branches to in turn, within the budget: a miss costs the
// guest much more than a translation.
func (s *Space) ahead(m Memory, r *region) {
	queue := []*region{r}
	for budget := s.cfg.Budget; len(queue) > 0 && budget > 0; queue = queue[1:] {
		from := queue[0]
		for i := range from.links {
			l := &from.links[i]
			if l.to != nil || l.check || budget <= 0 {
				continue
			}
			next, err := s.translate(m, l.target, l.way())
			if err != nil {
				// The first thread that branches there gets the error, or the room.
				budget -= aheadCost
				continue
			}
			s.stats.Ahead++
			budget -= aheadCost + len(next.code.bytes)
			queue = append(queue, next)
		}
	}
}
