package tcache

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"math"
	"slices"
	"sort"
	"sync/atomic"

	"xvrun/xv/translate"
)

// The linked form of the records of a file is what a cache holds in which all of them were restored: their fragments and entry
// stubs, with the links between them bound, and the table entries. To put it into another cache takes a copy,
// the relocations and a comparison of the original code, a fraction of restoring the records. The regions are *dormant* then:
// only when something asks for one, or for a page that they have code in, they are made, from the records, which is
// *waking* them. Most programs that run for a few milliseconds end before.
//
// It is made of 32-bit words, little-endian: the header, the lists whose lengths it gives, the original bytes, padded to whole
// words, and the code. Addresses are relative to that of the start of the file, cache offsets to the code, whose relocations are
// applied as for records.
const (
	linkedSize    = iota // in bytes
	linkedRegions        // number of records
	linkedInstrs         // original instructions
	linkedLinks          // links that are bound
	linkedStubs          // entry stubs out of line
	linkedWritten        // bytes of fragments and entry stubs
	linkedRelocs         // number of relocations: one word each
	linkedSpans          // number of runs of original code, in order: address, length
	linkedFills          // number of table entries: address, twice the cache offset plus one for table C
	linkedPlaces         // number of places where threads can go on, in order: address, cache offset; see Space.Jump
	linkedOrig           // number of original bytes
	linkedCode           // number of bytes of code
	linkedLo             // bounds of the original addresses in the code; see translate.Moves
	linkedHi
	linkedHeader // words of the header
)

// Where Link restores the records, and how much code there may be between the first and the last instruction.
const (
	linkOrigin  = 1 << 24
	linkBase    = 1 << 24
	maxLinkText = 256 << 20
	maxLinked   = 1 << 30
)

// dormant is the regions of a linked form that was restored.
type dormant struct {
	lo, hi   uint64 // pages of the original code
	off, end uint32 // in the cache
	regions  int
	origin   uint64
	places   []byte
	records  iter.Seq2[uint64, []byte]
}

// linkText is the original code of records as a Memory.
type linkText struct {
	lo    uint64
	bytes []byte
}

// ReadCode implements Memory.
func (t *linkText) ReadCode(addr uint64, p []byte) int {
	if addr < t.lo || addr-t.lo >= uint64(len(t.bytes)) {
		return 0
	}
	return copy(p, t.bytes[addr-t.lo:])
}

// Link makes the linked form of records, which list gives with the offsets of the regions' entries in their file; nil if
// they cannot be used together.
func Link(list iter.Seq2[uint64, []byte]) []byte {
	text, room := textOf(list)
	if text == nil {
		return nil
	}
	type key struct {
		addr uint64
		call bool
	}
	slots := make(map[key]*uint64)
	s := New(Config{Code: make([]byte, room), Base: linkBase, Slot: func(addr uint64, call bool) *uint64 {
		p := slots[key{addr, call}]
		if p == nil {
			p = new(uint64)
			slots[key{addr, call}] = p
		}
		return p
	}})
	s.look(text)
	var w linkedWriter
	w.lo, w.hi = math.MaxUint64, 0
	for off, rec := range list {
		at, _ := s.mem.room(0, translate.Align)
		if !s.restore(linkOrigin+off, rec) {
			return nil
		}
		rd, _ := openRecord(rec)
		w.add(linkOrigin+off, at, &rd, s.workshop.relocs)
	}
	for k, v := range slots {
		if *v != 0 {
			w.fills = append(w.fills, fill{k.addr, uint32(*v - linkBase), k.call})
		}
	}
	slices.SortFunc(w.fills, func(a, b fill) int {
		return cmp.Or(cmp.Compare(tableOf(a.call), tableOf(b.call)), cmp.Compare(a.addr, b.addr))
	})
	return w.finish(s, text)
}

// textOf returns the original code of records, with zeros between, and what size of a cache has room for all of them; nil
// if they are too many or damaged.
func textOf(list iter.Seq2[uint64, []byte]) (text *linkText, room int) {
	var w workshop
	var mem arena
	var codes []recipe
	lo, hi := uint64(math.MaxUint64), uint64(0)
	for off, rec := range list {
		p, ok := w.parse(linkOrigin+off, rec, &mem)
		if !ok || off >= maxLinked {
			return nil, 0
		}
		spans := p.code.spans
		lo, hi = min(lo, spans[0].addr&^pageMask), max(hi, spans[len(spans)-1].end())
		codes = append(codes, p.code)
		// An entry stub for each place that branches could lead to.
		room += len(w.frag.Code) + translate.Align + (len(p.reg.Blocks)+len(p.inner)+int(p.rest.header[recFills]))*2*(translate.CallEntrySize+stubAlign)
	}
	room = max((room+reserve+pageSize)&^pageMask, 2*pageSize)
	if len(codes) == 0 || lo < hashSize || hi-lo > maxLinkText || room > maxLinked {
		return nil, 0
	}
	text = &linkText{lo, make([]byte, hi-lo)}
	for i := range codes {
		for _, sp := range codes[i].spans {
			copy(text.bytes[sp.addr-lo:], codes[i].bytes[sp.off:sp.off+sp.len])
		}
	}
	return text, room
}

// linkedWriter collects the parts of a linked form.
type linkedWriter struct {
	regions, instrs uint32
	lo, hi          uint64
	relocs          []translate.Reloc
	fills           []fill
}

// add adds the record of the region with this entry, whose fragment is at a cache offset.
func (w *linkedWriter) add(entry uint64, at uint32, rd *recordReader, relocs []translate.Reloc) {
	w.regions++
	w.instrs += rd.header[recInstrs]
	w.lo, w.hi = min(w.lo, entry+relative(rd.header[recLo])), max(w.hi, entry+relative(rd.header[recHi]))
	for _, r := range relocs {
		w.relocs = append(w.relocs, r+translate.Reloc(at))
	}
}

// places lists the places of all regions in order: bodies before return sites of the same address, as Space.lookup does.
func (s *Space) places() (list []translate.Entry) {
	s.each(func(r *region) {
		for i := range r.bodies {
			list = append(list, translate.Entry{Addr: r.reg.Blocks[i].Addr, Off: r.base + r.bodies[i]})
		}
		for _, e := range r.inner {
			list = append(list, translate.Entry{Addr: e.Addr, Off: r.base + e.Off})
		}
	})
	s.each(func(r *region) {
		for _, e := range r.returns {
			list = append(list, translate.Entry{Addr: e.Addr, Off: r.base + e.Off})
		}
	})
	slices.SortStableFunc(list, func(a, b translate.Entry) int { return cmp.Compare(a.Addr, b.Addr) })
	return slices.CompactFunc(list, func(a, b translate.Entry) bool { return a.Addr == b.Addr })
}

// finish writes the linked form of what s holds.
func (w *linkedWriter) finish(s *Space, text *linkText) []byte {
	var spans []span
	s.each(func(r *region) { spans = append(spans, r.code.spans...) })
	spans = joined(spans)
	places := s.places()
	code := slices.Clone(s.cfg.Code[:s.mem.next])
	origin := uint64(linkOrigin)
	translate.Move(code, w.relocs, -origin, 0)
	var orig []byte
	for _, sp := range spans {
		orig = append(orig, text.bytes[sp.addr-text.lo:sp.end()-text.lo]...)
	}
	out := recordWriter{entry: linkOrigin}
	for i, v := range [linkedHeader]uint32{
		linkedRegions: w.regions, linkedInstrs: w.instrs, linkedLinks: uint32(s.stats.Links), linkedStubs: uint32(s.stats.Stubs), linkedWritten: uint32(s.stats.CodeBytes),
		linkedRelocs: uint32(len(w.relocs)), linkedSpans: uint32(len(spans)), linkedFills: uint32(len(w.fills)), linkedPlaces: uint32(len(places)),
		linkedOrig: uint32(len(orig)), linkedCode: uint32(len(code)),
	} {
		if i < linkedLo {
			out.word(v)
		}
	}
	out.addr(w.lo)
	out.addr(w.hi)
	for _, r := range w.relocs {
		out.word(uint32(r))
	}
	for _, sp := range spans {
		out.addr(sp.addr)
		out.word(sp.len)
	}
	for _, f := range w.fills {
		out.addr(f.addr)
		out.word(f.off<<1 | tableOf(f.call))
	}
	for _, e := range places {
		out.addr(e.Addr)
		out.word(e.Off)
	}
	out.bytes(orig)
	out.bytes(code)
	if out.wide || len(out.b) > maxLinked {
		return nil
	}
	binary.LittleEndian.PutUint32(out.b, uint32(len(out.b)))
	return out.b
}

// joined sorts spans, and joins those that touch.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.addr, b.addr) })
	out := spans[:0]
	for _, sp := range spans {
		if n := len(out); n > 0 && sp.addr <= out[n-1].end() {
			last := &out[n-1]
			last.len = uint32(max(last.end(), sp.end()) - last.addr)
			continue
		}
		out = append(out, sp)
	}
	return out
}

// linkedReader takes a linked form apart, with as little trust as a recordReader.
type linkedReader struct {
	header [linkedHeader]uint32
	relocs []byte
	spans  []byte
	fills  []byte
	places []byte
	orig   []byte
	code   []byte
}

func openLinked(b []byte) (rd linkedReader, ok bool) {
	h := &rd.header
	if !readHeader(h[:], b, linkedSize, linkedCode, maxLinked) {
		return rd, false
	}
	rest := b[4*linkedHeader:]
	take := func(n int) []byte {
		if n > len(rest) {
			rest = nil
			ok = false
			return nil
		}
		p := rest[:n]
		rest = rest[n:]
		return p
	}
	ok = int(h[linkedSize]) == len(b)
	rd.relocs, rd.spans, rd.fills = take(4*int(h[linkedRelocs])), take(8*int(h[linkedSpans])), take(8*int(h[linkedFills]))
	rd.places = take(8 * int(h[linkedPlaces]))
	rd.orig, rd.code = take(int(h[linkedOrig]+3)&^3), take(int(h[linkedCode]+3)&^3)
	if !ok || len(rest) > 0 || len(rd.spans) == 0 || len(rd.code) == 0 {
		return rd, false
	}
	rd.orig, rd.code = rd.orig[:h[linkedOrig]], rd.code[:h[linkedCode]]
	return rd, true
}

// pair returns the i-th pair of words of a list.
func pair(list []byte, i int) (a, b uint32) {
	return binary.LittleEndian.Uint32(list[8*i:]), binary.LittleEndian.Uint32(list[8*i+4:])
}

// RestoreLinked puts all regions of a linked form into the cache, which Link made of the records that list gives, for a file
// whose start is (or would be) at the address origin. It does so only if all of their code is in [lo, hi). Like the records, list must stay
// as it is as long as the Space. It returns how many regions these were, 0 if they can't be used together here and now: Restore may
// be able to use some.
func (s *Space) RestoreLinked(m Memory, lo, hi, origin uint64, linked []byte, list iter.Seq2[uint64, []byte]) (restored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rd, ok := openLinked(linked)
	if !ok {
		return 0
	}
	s.look(m)
	base, ok := s.mem.room(len(rd.code)+reserve, translate.Align)
	d := &dormant{off: base, end: base + uint32(len(rd.code)), regions: int(rd.header[linkedRegions]), origin: origin, places: rd.places, records: list}
	if !ok || !movable(origin+relative(rd.header[linkedLo]), origin+relative(rd.header[linkedHi])) || !s.matches(&rd, d, lo, hi, origin) {
		return 0
	}
	relocs := slices.Grow(s.workshop.relocs[:0], len(rd.relocs)/4)
	for i := 0; i < len(rd.relocs); i += 4 {
		relocs = append(relocs, translate.Reloc(binary.LittleEndian.Uint32(rd.relocs[i:])))
	}
	s.workshop.relocs = relocs
	if !translate.ValidRelocs(relocs, len(rd.code)) || !s.covered(&rd, origin) {
		return 0
	}
	written := s.stats.CodeBytes + uint64(rd.header[linkedWritten])
	s.put(rd.code, piece{off: base, kind: pieceDormant})
	s.stats.CodeBytes = written
	translate.Move(s.cfg.Code[d.off:d.end], relocs, origin, base)
	s.dormant = append(s.dormant, d)
	for i := range int(rd.header[linkedFills]) {
		addr, v := pair(rd.fills, i)
		f := fill{origin + relative(addr), base + v>>1, v&1 != 0}
		if atomic.CompareAndSwapUint64(s.cfg.slot(f.addr, f.call), 0, s.address(f.off)) {
			s.note(f)
		}
	}
	s.stats.Restored += d.regions
	s.stats.Live += d.regions
	s.stats.RestoredInstrs += uint64(rd.header[linkedInstrs])
	s.stats.Links += int(rd.header[linkedLinks])
	s.stats.Stubs += int(rd.header[linkedStubs])
	s.stats.Fills += int(rd.header[linkedFills])
	return d.regions
}

// matches reports whether the original code of a linked form is there, all of it in [lo, hi), and nothing is known of its pages. It notes in
// d what these are.
func (s *Space) matches(rd *linkedReader, d *dormant, lo, hi, origin uint64) bool {
	orig, last := rd.orig, lo
	for i := range int(rd.header[linkedSpans]) {
		addr, n := pair(rd.spans, i)
		at := origin + relative(addr)
		end := at + uint64(n)
		if at < last || end <= at || end > hi || int(n) > len(orig) || s.anyVolatile(at, end) || !s.workshop.window.equal(at, orig[:n]) {
			return false
		}
		if i == 0 {
			d.lo = at &^ pageMask
		}
		orig, last = orig[n:], end
	}
	d.hi = (last + pageMask) &^ pageMask
	known := len(orig) > 0
	s.pagesIn(d.lo, d.hi, func(*page) { known = true })
	return !known
}

// covered reports whether there are tables for all table entries of a linked form.
func (s *Space) covered(rd *linkedReader, origin uint64) bool {
	for i := range int(rd.header[linkedFills]) {
		addr, v := pair(rd.fills, i)
		if v>>1 >= rd.header[linkedCode] || s.cfg.slot(origin+relative(addr), v&1 != 0) == nil {
			return false
		}
	}
	return true
}

// place returns the cache offset where a thread can go on that has the original state at orig, with rcx in its register and in S: a
// body, or a return site.
func (d *dormant) place(orig uint64) (uint32, bool) {
	n := len(d.places) / 8
	k := sort.Search(n, func(k int) bool {
		addr, _ := pair(d.places, k)
		return d.origin+relative(addr) >= orig
	})
	if k == n {
		return 0, false
	}
	addr, off := pair(d.places, k)
	return d.off + off, d.origin+relative(addr) == orig && off < d.end-d.off
}

// dormantPlace is place for the dormant regions that have code at orig, which it does not wake: threads come there from system
// calls.
func (s *Space) dormantPlace(orig uint64) (uint32, bool) {
	for _, d := range s.dormant {
		if orig >= d.lo && orig < d.hi {
			return d.place(orig)
		}
	}
	return 0, false
}

// isDormant reports whether dormant regions may have code at orig.
func (s *Space) isDormant(orig uint64) bool {
	return slices.ContainsFunc(s.dormant, func(d *dormant) bool { return orig >= d.lo && orig < d.hi })
}

// wakeIn makes the dormant regions that may have code in [lo, hi).
func (s *Space) wakeIn(lo, hi uint64) {
	for i := 0; i < len(s.dormant); i++ {
		if d := s.dormant[i]; d.lo < hi && lo < d.hi {
			s.wake(d)
			i = -1 // it may have woken others
		}
	}
}

// wakeAt makes the dormant regions whose code begins at a cache offset.
func (s *Space) wakeAt(off uint32) {
	if i := slices.IndexFunc(s.dormant, func(d *dormant) bool { return d.off == off }); i >= 0 {
		s.wake(s.dormant[i])
	}
}

func (s *Space) wakeAll() {
	for len(s.dormant) > 0 {
		s.wake(s.dormant[0])
	}
}

// wake makes dormant regions, at the places where Link had them: making them from the same records has the same result again, as long as
// links to other regions wait.
func (s *Space) wake(d *dormant) {
	s.dormant = slices.DeleteFunc(s.dormant, func(other *dormant) bool { return other == d })
	mem := &s.mem
	whole, outside, stats := *mem, s.waiting, s.stats
	*mem = area{next: d.off, hi: whole.hi, arena: whole.arena}
	s.waiting, s.waking = make(map[uint64]*linkList), d
	count := 0
	for entry, rec := range d.records {
		p, ok := s.workshop.parse(entry, rec, &mem.arena)
		if !ok {
			break
		}
		s.add(&p)
		count++
	}
	s.waking, s.stats = nil, stats
	pieces := mem.pieces
	if mem.next != d.end || count != d.regions {
		// The records and their linked form have one checksum, in the store: they were made to differ.
		panic("tcache: records and their linked form differ")
	}
	whole.arena = mem.arena
	k, _ := slices.BinarySearchFunc(whole.pieces, d.off, func(p piece, off uint32) int { return cmp.Compare(p.off, off) })
	whole.pieces = slices.Replace(whole.pieces, k, k+1, pieces...)
	*mem = whole
	s.await(outside)
}

// await adds links that wait to those that wait already, and binds those that need not wait any more.
func (s *Space) await(lists map[uint64]*linkList) {
	for target, ll := range lists {
		if to := s.waiting[target]; to == nil {
			s.waiting[target] = ll
		} else {
			for l := ll.first; l != nil; {
				next := l.next
				to.push(l)
				l = next
			}
		}
	}
	for _, target := range slices.Sorted(maps.Keys(s.waiting)) {
		s.bindWaiting(target)
	}
}
