package tcache

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"xvrun/xv/translate"
)

// image is the text of an ELF file as a guest's memory at near addresses, with lookup tables for it.
type image struct {
	lo    uint64
	text  []byte
	funcs []uint64
	dead  atomic.Bool // no longer executable
	reads atomic.Int64

	j, c []uint64
}

const loadBase = 0x100000

// ReadCode implements Memory.
func (im *image) ReadCode(addr uint64, p []byte) int {
	im.reads.Add(1)
	if addr < im.lo || addr-im.lo >= uint64(len(im.text)) || im.dead.Load() {
		return 0
	}
	return copy(p, im.text[addr-im.lo:])
}

func (im *image) slot(addr uint64, call bool) *uint64 {
	if addr < im.lo || addr-im.lo >= uint64(len(im.text)) {
		return nil
	}
	if call {
		return &im.c[addr-im.lo]
	}
	return &im.j[addr-im.lo]
}

// withTables returns the same memory with empty tables.
func (im *image) withTables() *image {
	return &image{lo: im.lo, text: im.text, funcs: im.funcs, j: make([]uint64, len(im.text)), c: make([]uint64, len(im.text))}
}

// loadImage reads the text of an ELF file and the addresses of its functions.
func loadImage(tb testing.TB, path string) *image {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	im := &image{}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X == 0 {
			continue
		}
		// Whole pages, as the kernel maps them.
		start := p.Vaddr &^ pageMask
		im.lo = loadBase + start
		im.text = make([]byte, (p.Vaddr+p.Filesz-start+pageMask)&^pageMask)
		if _, err := p.ReadAt(im.text[p.Vaddr-start:p.Vaddr-start+p.Filesz], 0); err != nil {
			tb.Fatal(err)
		}
		break
	}
	syms, _ := f.Symbols()
	dyn, _ := f.DynamicSymbols()
	for _, sym := range append(syms, dyn...) {
		addr := loadBase + sym.Value
		if t := elf.ST_TYPE(sym.Info); (t == elf.STT_FUNC || t == elf.STT_LOOS) && addr >= im.lo && addr-im.lo < uint64(len(im.text)) && sym.Size > 0 {
			im.funcs = append(im.funcs, addr)
		}
	}
	slices.Sort(im.funcs)
	im.funcs = slices.Compact(im.funcs)
	if len(im.funcs) == 0 {
		tb.Fatal("no functions")
	}
	return im.withTables()
}

// libc returns the system's C library, or this test if there is none.
func libc(tb testing.TB) *image {
	tb.Helper()
	for _, path := range []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if _, err := os.Stat(path); err == nil {
			return loadImage(tb, path)
		}
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return loadImage(tb, self)
}

const testBase = 0x3f12_5000_0000

// testLayout is like that of the agent.
var testLayout = translate.Layout{
	Table: 0x7ffc0000, Hash: 1<<32 - 0x10_0000, Miss: 1<<32 - 0x1000_0000 + 0x100, Special: 1<<32 - 0x1000_0000 + 0x200, Gate: 1<<32 - 0x1000_0000 + 0x300,
}

func testConfig(im *image, size int) Config {
	return Config{Code: make([]byte, size), Base: testBase, Layout: testLayout, Slot: im.slot}
}

// offset returns the cache offset of what a table entry holds.
func (s *Space) offset(entry uint64) uint32 {
	off := entry - s.cfg.Base
	if off >= uint64(len(s.cfg.Code)) {
		panic("an entry leads out of the cache")
	}
	return uint32(off)
}

// dest returns where the branch with the rel32 at a cache offset leads.
func (s *Space) dest(off uint32) uint32 {
	return off + 4 + binary.LittleEndian.Uint32(s.cfg.Code[off:])
}

// verify checks that links, tables and lists agree with each other and with what Recover says of the places they lead to.
// Each region is emitted many times, so that full is for small spaces.
func (s *Space) verify(t *testing.T, im *image, full bool) {
	t.Helper()
	live := 0
	s.each(func(r *region) {
		if full {
			s.verifyLinks(t, r)
		}
		for i := range r.links {
			l := &r.links[i]
			d := s.dest(l.off)
			if l.off&7 > 4 {
				t.Fatalf("rel32 at %#x is not inside one word", l.off)
			}
			switch {
			case r.stale:
				if l.list != nil {
					t.Fatalf("link of a stale region to %#x is on a list", l.target)
				}
			case l.check:
				next := l.stub
				if all := r.head.versions; all[len(all)-1] != r {
					v := all[slices.Index(all, r)+1]
					next = v.base + v.bodies[0]
				}
				if d != next || l.list != nil || l.target != r.reg.Entry {
					t.Fatalf("check of %#x leads to %#x, not to the next version at %#x", l.target, d, next)
				}
			case l.to == nil:
				if d != l.stub || l.list != s.waiting[l.target] || l.list == nil {
					t.Fatalf("waiting link to %#x: leads to %#x, stub %#x", l.target, d, l.stub)
				}
				if s.isBlock(l.target) && !full {
					t.Fatalf("link to %#x waits for a translated block", l.target)
				}
			default:
				if l.to.stale || l.list != &l.to.in {
					t.Fatalf("link to %#x is bound to a stale region or on the wrong list", l.target)
				}
				if p := s.find(d); p == nil || p.r != l.to {
					t.Fatalf("link to %#x leads to %#x, outside its target", l.target, d)
				}
				if full {
					s.verifyPlace(t, d, l.target, l.away, l.call)
				}
			}
			if full {
				rec, ok := s.Recover(l.stub)
				want := translate.KindExit
				if l.call {
					want = translate.KindCallExit
				}
				if !ok || rec.RIP != l.target || rec.Kind != want {
					t.Fatalf("exit stub to %#x: recovered %+v, %v", l.target, rec, ok)
				}
			}
		}
		if r.stale {
			if len(r.fills) != 0 || r.in.first != nil {
				t.Fatalf("stale region %#x has entries or links", r.reg.Entry)
			}
			for _, off := range translate.Boundaries(&r.code, &r.reg, r.base, &s.cfg.Layout) {
				if s.cfg.Code[r.base+off] != int3 {
					t.Fatalf("stale region %#x: no int3 at %#x", r.reg.Entry, off)
				}
			}
			return
		}
		live++
		for _, f := range r.fills {
			if slot := s.cfg.Slot(f.addr, f.call); *slot == 0 {
				t.Fatalf("entry of %#x is empty", f.addr)
			}
		}
	})
	if live != s.stats.Live {
		t.Fatalf("%d live regions, counted %d", live, s.stats.Live)
	}
	for i := range im.j {
		for _, call := range []bool{false, true} {
			addr := im.lo + uint64(i)
			v := *im.slot(addr, call)
			if v == 0 {
				continue
			}
			p := s.find(s.offset(v))
			if p == nil || p.r.stale {
				t.Fatalf("entry of %#x leads to %#x: stale or nothing", addr, v)
			}
			if full {
				s.verifyPlace(t, s.offset(v), addr, true, call)
			}
		}
	}
	copies := 0
	for addr, pg := range s.pages {
		if pg.addr != addr || len(pg.regions) == 0 && pg.copy == nil {
			t.Fatalf("page %#x at %#x is empty", pg.addr, addr)
		}
		if pg.copy != nil {
			copies++
		}
		for _, r := range pg.regions {
			if r.stale {
				t.Fatalf("page %#x has a stale region", addr)
			}
		}
		for i := range uint64(pageSize) {
			p, ok := s.block(addr + i)
			if ok != s.isBlock(addr+i) {
				t.Fatalf("block %#x: %v", addr+i, ok)
			}
			if ok && full {
				s.verifyPlace(t, p.body, addr+i, false, false)
			}
		}
	}
	if copies != s.copies {
		t.Fatalf("%d copies, counted %d", copies, s.copies)
	}
	for target, ll := range s.waiting {
		if ll.first == nil {
			t.Fatalf("empty list of links to %#x", target)
		}
	}
}

// verifyLinks checks that the links of a region are those of its fragment.
func (s *Space) verifyLinks(t *testing.T, r *region) {
	t.Helper()
	frag, err := translate.Emit(&r.code, &r.reg, r.base, &s.cfg.Layout, new(translate.Buffer))
	if err != nil || len(frag.Links) != len(r.links) {
		t.Fatalf("region %#x has %d links: %v", r.reg.Entry, len(r.links), err)
	}
	for _, f := range frag.Links {
		l := r.linkAt(r.base + f.Stub)
		if l == nil || l.off != r.base+f.Off || l.target != f.Target || l.call != f.Call || l.away != f.Away {
			t.Fatalf("region %#x has the link %+v for %+v", r.reg.Entry, l, f)
		}
	}
}

// verifyPlace checks that a thread at a cache offset is about to execute orig, in the state of a body or an entry.
func (s *Space) verifyPlace(t *testing.T, cache uint32, orig uint64, away, call bool) {
	t.Helper()
	rec, ok := s.Recover(cache)
	want := translate.Recovery{RIP: orig, RCXFromS: rec.RCXFromS, Kind: rec.Kind}
	if call {
		want.RSPAdd = 8
	}
	if !ok || rec != want || away && !rec.RCXFromS {
		t.Fatalf("at %#x for %#x: recovered %+v, %v", cache, orig, rec, ok)
	}
}

// regionAt returns the region of the block at orig.
func (s *Space) regionAt(t *testing.T, orig uint64) *region {
	t.Helper()
	p, ok := s.block(orig)
	if !ok {
		t.Fatalf("no block at %#x", orig)
	}
	return p.r
}
