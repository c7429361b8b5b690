package tcache

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math"
	"slices"

	"xvrun/xv/translate"
)

// A record is a translated region in a form that does not depend on where its code and its fragment lie, for use in
// another Space: addresses are relative to the region's entry, and the fragment's relocations are applied for an entry of 0 at the
// start of the cache. The agent is as far from that in every Space. It is made of 32-bit words, little-endian: the header, the lists whose lengths it
// gives, the original bytes and the code of the fragment, both padded to whole words.
const (
	recSize    = iota // of the record, in bytes
	recWay            // translate.Way
	recBlocks         // number of blocks: address, length, room, body
	recRelocs         // number of relocations: one word each
	recReturns        // number of return sites: address, offset
	recInner          // number of inner instructions: address, offset
	recLinks          // number of links: target, offset, exit stub with recCall and recAway
	recFills          // number of table entries besides the return sites': address, 1 for table C
	recOrig           // number of original bytes
	recCode           // number of bytes of the fragment
	recInstrs         // original instructions
	recJump           // Fragment.JumpEntry
	recEntry          // Fragment.CallEntry
	recDirect         // Fragment.DirectCallEntry
	recLo             // Moves.Lo
	recHi             // Moves.Hi
	recHeader         // words of the header

	recCall = 1 << 31 // of a link: it is a call
	recAway = 1 << 30 // of a link: rcx is not in its register
)

// maxRecord bounds what is taken for a record, in bytes: no region is larger.
const maxRecord = 1 << 20

// recordWriter appends words to a record.
type recordWriter struct {
	b     []byte
	entry uint64
	wide  bool // a value does not fit
}

func (w *recordWriter) word(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }

// addr appends an original address.
func (w *recordWriter) addr(a uint64) {
	d := int64(a - w.entry)
	w.wide = w.wide || d != int64(int32(d))
	w.word(uint32(d))
}

func (w *recordWriter) bytes(p []byte) {
	w.b = append(w.b, p...)
	w.b = append(w.b, make([]byte, -len(p)&3)...)
}

// record makes the record of a region, nil if it has none because it cannot be moved.
func (s *Space) record(r *region) []byte {
	frag, moves, err := translate.EmitMovable(&r.code, &r.reg, r.base, &s.cfg.Layout, &s.buf)
	if err != nil || !moves.To(0) {
		return nil
	}
	entry := r.reg.Entry
	if moves.Lo > moves.Hi {
		moves.Lo, moves.Hi = entry, entry
	}
	w := recordWriter{entry: entry}
	header := [recHeader]uint32{
		recWay: uint32(r.reg.Way), recBlocks: uint32(len(r.reg.Blocks)), recRelocs: uint32(len(moves.Relocs)), recReturns: uint32(len(frag.Returns)), recInner: uint32(len(r.inner)),
		recLinks: uint32(len(frag.Links)), recFills: uint32(len(r.fills)), recOrig: uint32(len(r.code.bytes)), recCode: uint32(len(frag.Code)),
		recInstrs: uint32(frag.Instrs), recJump: frag.JumpEntry, recEntry: frag.CallEntry, recDirect: frag.DirectCallEntry,
	}
	for _, v := range header[:recLo] {
		w.word(v)
	}
	w.addr(moves.Lo)
	w.addr(moves.Hi)
	for i, b := range r.reg.Blocks {
		w.addr(b.Addr)
		w.word(b.Len)
		w.word(b.Room)
		w.word(frag.Entries[i].Off)
	}
	for _, v := range moves.Relocs {
		w.word(uint32(v))
	}
	for _, e := range frag.Returns {
		w.addr(e.Addr)
		w.word(e.Off)
	}
	for _, e := range r.inner {
		w.addr(e.Addr)
		w.word(e.Off)
	}
	for _, l := range frag.Links {
		w.addr(l.Target)
		w.word(l.Off)
		if l.Call {
			l.Stub |= recCall
		}
		if l.Away {
			l.Stub |= recAway
		}
		w.word(l.Stub)
	}
	for _, f := range r.fills {
		w.addr(f.addr)
		w.word(tableOf(f.call))
	}
	w.bytes(r.code.bytes)
	translate.Move(frag.Code, moves.Relocs, -entry, -r.base)
	w.bytes(frag.Code)
	if w.wide || len(w.b) > maxRecord {
		return nil
	}
	binary.LittleEndian.PutUint32(w.b, uint32(len(w.b)))
	return w.b
}

func tableOf(call bool) uint32 {
	if call {
		return 1
	}
	return 0
}

// Save calls f with the record of each live region whose code lies in [lo, hi) as a whole, and the address of its entry, but for
// regions that are checked or use the hash.
// Records that Restore was given are passed on if they still hold; fresh tells those apart that are new.
// f must not call the Space.
func (s *Space) Save(lo, hi uint64, f func(entry uint64, record []byte, fresh bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeIn(lo, hi)
	s.saved(lo, hi, func(r *region) {
		if r.unchanged() {
			f(r.reg.Entry, r.record, false)
		} else if rec := s.record(r); rec != nil {
			f(r.reg.Entry, rec, true)
		}
	})
}

// Unsaved counts the regions that Save would give the records of, and those of them whose record is new.
func (s *Space) Unsaved(lo, hi uint64) (fresh, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dormant {
		if d.lo >= lo && d.hi <= hi {
			all += d.regions
		}
	}
	s.saved(lo, hi, func(r *region) {
		all++
		if !r.unchanged() {
			fresh++
		}
	})
	return fresh, all
}

// saved calls f for the regions that have records.
func (s *Space) saved(lo, hi uint64, f func(r *region)) {
	s.eachLive(func(r *region) {
		if !r.reg.Checked && len(r.reg.Hashed) == 0 && r.code.within(lo, hi) {
			f(r)
		}
	})
}

// unchanged reports whether the record that the region was restored from still holds.
func (r *region) unchanged() bool {
	return r.record != nil && len(r.fills)+len(r.inner) <= r.recorded
}

// recordReader takes a record apart. What it was made of is checked: a record may come from a file that anything
// can have happened to.
type recordReader struct {
	header [recHeader]uint32
	words  []byte // the lists
	orig   []byte
	code   []byte
	bad    bool
}

// readHeader reads the words at the start of b. Those from first to last are numbers, which limit bounds as it does the bytes of b.
func readHeader(header []uint32, b []byte, first, last int, limit uint32) bool {
	if len(b) < 4*len(header) || uint64(len(b)) > uint64(limit) {
		return false
	}
	for i := range header {
		header[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return slices.Max(header[first:last+1]) <= limit
}

// openRecord checks that the parts of a record are as long as it says.
func openRecord(rec []byte) (rd recordReader, ok bool) {
	h := &rd.header
	if !readHeader(h[:], rec, recBlocks, recCode, maxRecord) {
		return rd, false
	}
	lists := 4 * int(4*h[recBlocks]+h[recRelocs]+2*h[recReturns]+2*h[recInner]+3*h[recLinks]+2*h[recFills])
	orig, code := int(h[recOrig]+3)&^3, int(h[recCode]+3)&^3
	if int(h[recSize]) != len(rec) || 4*recHeader+lists+orig+code != len(rec) || h[recBlocks] == 0 || h[recWay] > uint32(translate.ByCall) {
		return rd, false
	}
	rest := rec[4*recHeader:]
	rd.words, rest = rest[:lists], rest[lists:]
	rd.orig, rd.code = rest[:h[recOrig]], rest[orig:orig+int(h[recCode])]
	return rd, true
}

func (rd *recordReader) word() uint32 {
	v := binary.LittleEndian.Uint32(rd.words)
	rd.words = rd.words[4:]
	return v
}

// offset reads an offset in the fragment with at least n bytes behind it.
func (rd *recordReader) offset(n int) uint32 {
	v := rd.word()
	rd.bad = rd.bad || uint64(v)+uint64(n) > uint64(len(rd.code))
	return v
}

// relative is an address, as a distance from the entry.
func relative(v uint32) uint64 { return uint64(int64(int32(v))) }

// blocks reads the blocks; bodies go to the fragment.
func (rd *recordReader) blocks(entry uint64, mem *arena, frag *translate.Fragment) []translate.Block {
	blocks := mem.blocks.take(int(rd.header[recBlocks]))
	last, size := uint64(0), uint64(0)
	found := false
	for i := range blocks {
		b := translate.Block{Addr: entry + relative(rd.word()), Len: rd.word(), Room: rd.word()}
		blocks[i] = b
		frag.Entries = append(frag.Entries, translate.Entry{Addr: b.Addr, Off: rd.offset(1)})
		rd.bad = rd.bad || i > 0 && b.Addr <= last || b.Len == 0 || b.Addr > math.MaxUint64-maxRecord
		last, size, found = b.Addr, size+uint64(b.Len), found || b.Addr == entry
	}
	rd.bad = rd.bad || !found || size > maxRecord
	return blocks
}

func (rd *recordReader) relocs(list []translate.Reloc) []translate.Reloc {
	for range rd.header[recRelocs] {
		list = append(list, translate.Reloc(rd.word()))
	}
	rd.bad = rd.bad || !translate.ValidRelocs(list, len(rd.code))
	return list
}

func (rd *recordReader) returns(entry uint64, frag *translate.Fragment) {
	for range rd.header[recReturns] {
		frag.Returns = append(frag.Returns, translate.Entry{Addr: entry + relative(rd.word()), Off: rd.offset(1)})
	}
}

// inner reads the inner instructions of the blocks of reg.
func (rd *recordReader) inner(reg *translate.Region, mem *arena) []translate.Entry {
	list := mem.entries.take(int(rd.header[recInner]))
	k, last := 0, uint64(0)
	for i := range list {
		e := translate.Entry{Addr: reg.Entry + relative(rd.word()), Off: rd.offset(1)}
		list[i] = e
		for k < len(reg.Blocks) && e.Addr-reg.Blocks[k].Addr >= uint64(reg.Blocks[k].Len) {
			k++
		}
		rd.bad = rd.bad || i > 0 && e.Addr <= last || k == len(reg.Blocks) || e.Addr == reg.Blocks[k].Addr
		last = e.Addr
	}
	return list
}

func (rd *recordReader) links(entry uint64, frag *translate.Fragment) {
	for range rd.header[recLinks] {
		l := translate.Link{Target: entry + relative(rd.word()), Off: rd.offset(4)}
		stub := rd.word()
		l.Stub, l.Call, l.Away = stub&^(recCall|recAway), stub&recCall != 0, stub&recAway != 0
		rd.bad = rd.bad || l.Off&7 > 4 || uint64(l.Stub) >= uint64(len(rd.code))
		frag.Links = append(frag.Links, l)
	}
}

// workshop is the working memory of Restore.
type workshop struct {
	frag   translate.Fragment
	relocs []translate.Reloc
	window window
}

// window is a piece of guest memory that was read at once.
type window struct {
	m    Memory
	addr uint64
	n    int
	buf  []byte
}

const windowSize = 16 << 10

// equal reports whether guest memory at addr is want.
func (w *window) equal(addr uint64, want []byte) bool {
	for len(want) > 0 {
		if addr < w.addr || addr-w.addr >= uint64(w.n) {
			if addr >= lastPage {
				return false
			}
			w.addr = addr &^ pageMask
			w.n = min(max(w.m.ReadCode(w.addr, w.buf), 0), len(w.buf))
			if addr-w.addr >= uint64(w.n) {
				return false
			}
		}
		got := w.buf[addr-w.addr : w.n]
		got = got[:min(len(got), len(want))]
		if !bytes.Equal(got, want[:len(got)]) {
			return false
		}
		addr, want = addr+uint64(len(got)), want[len(got):]
	}
	return true
}

// look prepares the workshop for reading guest memory.
func (s *Space) look(m Memory) {
	s.forgetAnswer()
	w := &s.workshop.window
	*w = window{m: m, buf: w.buf}
	if w.buf == nil {
		w.buf = make([]byte, windowSize)
	}
}

// Restore puts the regions of records into the cache, as if threads had come to their entries, and returns how many.
// list gives the original addresses of the entries, best in order, with their records, which must stay as they are; it must not call the
// Space. A record is skipped if the original code is not the one that it was made from, if some of that is translated
// already, or if the cache has no room.
func (s *Space) Restore(m Memory, list iter.Seq2[uint64, []byte]) (restored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is read is right as long as the lock is held: a change of code ends with an Invalidate.
	s.look(m)
	for entry, rec := range list {
		s.wakeAll()
		if s.restore(entry, rec) {
			restored++
		}
	}
	return restored
}

// parsed is a record taken apart; its fragment and relocations are in the workshop.
type parsed struct {
	record []byte
	reg    translate.Region
	inner  []translate.Entry
	code   recipe
	lo, hi uint64       // Moves.Lo and Hi
	rest   recordReader // the table entries
}

// parse takes the record of the region at entry apart. What is kept of it comes from mem.
func (w *workshop) parse(entry uint64, rec []byte, mem *arena) (p parsed, ok bool) {
	rd, ok := openRecord(rec)
	if !ok {
		return p, false
	}
	frag := &w.frag
	*frag = translate.Fragment{
		Code: append(frag.Code[:0], rd.code...), Entries: frag.Entries[:0], Returns: frag.Returns[:0], Links: frag.Links[:0], Instrs: int(rd.header[recInstrs]),
		JumpEntry: rd.header[recJump], CallEntry: rd.header[recEntry], DirectCallEntry: rd.header[recDirect],
	}
	p.record = rec
	p.reg = translate.Region{Entry: entry, Way: translate.Way(rd.header[recWay])}
	p.reg.Blocks = rd.blocks(entry, mem, frag)
	w.relocs = rd.relocs(w.relocs[:0])
	rd.returns(entry, frag)
	p.inner = rd.inner(&p.reg, mem)
	rd.links(entry, frag)
	p.lo, p.hi = entry+relative(rd.header[recLo]), entry+relative(rd.header[recHi])
	if rd.bad || max(frag.JumpEntry, frag.CallEntry, frag.DirectCallEntry) >= uint32(len(rd.code)) || p.lo > p.hi {
		return p, false
	}
	spans, size := mem.makeSpans(&p.reg)
	p.code, p.rest = recipe{spans, rd.orig}, rd
	return p, int(size) == len(rd.orig)
}

func (s *Space) restore(entry uint64, rec []byte) bool {
	if s.isBlock(entry) {
		return false
	}
	p, ok := s.workshop.parse(entry, rec, &s.mem.arena)
	if !ok || !s.fits(&p) {
		return false
	}
	s.add(&p)
	s.stats.Restored++
	s.stats.RestoredInstrs += uint64(s.workshop.frag.Instrs)
	return true
}

// fits reports whether a record can be used here and now.
func (s *Space) fits(p *parsed) bool {
	if _, ok := s.mem.room(len(s.workshop.frag.Code)+reserve, translate.Align); !ok || !movable(p.lo, p.hi) {
		return false
	}
	for i := range p.reg.Blocks {
		if s.isBlock(p.reg.Blocks[i].Addr) {
			return false
		}
	}
	return s.unchanged(p.code.spans, p.code.bytes)
}

// movable reports whether original addresses in [lo, hi] fit the fields that relocations name.
func movable(lo, hi uint64) bool {
	m := translate.Moves{Lo: lo, Hi: hi}
	return lo <= hi && m.To(0)
}

// unchanged reports whether the guest's code is orig, and not volatile.
func (s *Space) unchanged(spans []span, orig []byte) bool {
	for _, sp := range spans {
		if s.anyVolatile(sp.addr, sp.end()) || !s.workshop.window.equal(sp.addr, orig[sp.off:sp.off+sp.len]) {
			return false
		}
	}
	return true
}

// add makes the region of a record that was just taken apart.
func (s *Space) add(p *parsed) {
	frag := &s.workshop.frag
	base, _ := s.mem.room(0, translate.Align)
	translate.Move(frag.Code, s.workshop.relocs, p.reg.Entry, base)
	r := s.newRegion(p.reg, p.code, frag, base)
	r.inner = p.inner
	s.install(r)
	rd := &p.rest
	for range rd.header[recFills] {
		orig := p.reg.Entry + relative(rd.word())
		s.refill(r, orig, rd.word() != 0)
	}
	r.record, r.recorded = p.record, int(rd.header[recFills]+rd.header[recInner])
}

// refill fills a table entry of a restored region if it leads nowhere. What that needs is made in any case, so that a region's
// place does not depend on the tables; see Link.
func (s *Space) refill(r *region, orig uint64, call bool) {
	e, ok := s.wayIn(r, orig, call)
	slot := s.cfg.slot(orig, call)
	switch {
	case ok && s.cfg.Hashed:
		s.fill(r, orig, call, e.first)
	case !ok || slot == nil:
	case s.waking != nil && *slot == s.address(e.first):
		r.fills = append(r.fills, fill{orig, e.first, call})
	case s.waking == nil && *slot == 0:
		s.fill(r, orig, call, e.first)
	}
}

// wayIn finds or makes the entry of a region that leads to orig, the start of a block or an inner instruction. ok is false if there is no
// such instruction, or no room.
func (s *Space) wayIn(r *region, orig uint64, call bool) (e entry, ok bool) {
	body, ok := r.body(orig)
	if !ok {
		return e, false
	}
	kind := pieceJump
	if call {
		kind = pieceCall
	}
	if e, ok = r.entry(orig, kind); !ok {
		e, ok = s.makeStub(place{r, body}, orig, kind)
	}
	return e, ok
}
