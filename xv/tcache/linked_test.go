package tcache

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
)

// recordsFrom lists records for code that lies as far from at as it lay from lo.
func recordsFrom(list []saved, lo, at uint64) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		for _, sv := range list {
			if !yield(sv.entry-lo+at, sv.record) {
				return
			}
		}
	}
}

// linkedPair is a Space with dormant regions, and one with the same restored one by one, at another address.
type linkedPair struct {
	list   []saved
	lo     uint64 // of the image that they are from
	linked []byte
	im     [2]*image
	s      [2]*Space
}

const dormantOne, awakeOne = 0, 1

func newLinkedPair(t *testing.T, from *Space, im *image) *linkedPair {
	t.Helper()
	p := &linkedPair{list: from.saveAll(im), lo: im.lo}
	slices.SortFunc(p.list, func(a, b saved) int { return int(int64(a.entry - b.entry)) })
	if p.linked = Link(recordsFrom(p.list, im.lo, 0)); p.linked == nil {
		t.Fatal("no linked form")
	}
	for i := range p.s {
		p.im[i] = im.at(im.lo + 0x1357000)
		p.s[i] = New(testConfig(p.im[i], 8<<20))
	}
	to := p.im[dormantOne]
	if n := p.restore(p.s[dormantOne], to, p.linked); n != len(p.list) {
		t.Fatalf("%d of %d regions restored", n, len(p.list))
	}
	if n := p.s[awakeOne].Restore(p.im[awakeOne], recordsFrom(p.list, p.lo, to.lo)); n != len(p.list) {
		t.Fatalf("%d of %d regions restored one by one", n, len(p.list))
	}
	return p
}

func (p *linkedPair) restore(s *Space, to *image, linked []byte) int {
	return s.RestoreLinked(to, to.lo, to.lo+uint64(len(to.text)), to.lo, linked, recordsFrom(p.list, p.lo, to.lo))
}

// same checks that both have the same code, tables and counts.
func (p *linkedPair) same(t *testing.T) {
	t.Helper()
	a, b := p.s[dormantOne], p.s[awakeOne]
	if !bytes.Equal(a.cfg.Code, b.cfg.Code) {
		t.Fatal("the code differs")
	}
	if !slices.Equal(p.im[0].j, p.im[1].j) || !slices.Equal(p.im[0].c, p.im[1].c) {
		t.Fatal("the tables differ")
	}
	if x, y := a.Stats(), b.Stats(); x != y {
		t.Fatalf("counted %+v and %+v", x, y)
	}
}

// function returns the address of a function of the image that the dormant regions are for.
func (p *linkedPair) function(i int) uint64 {
	to := p.im[dormantOne]
	return to.funcs[i] - p.lo + to.lo
}

func TestLinked(t *testing.T) {
	im := libc(t)
	p := newLinkedPair(t, busy(t, im), im)
	p.same(t)
	s, to := p.s[dormantOne], p.im[dormantOne]
	if len(s.dormant) != 1 {
		t.Fatal("not dormant")
	}
	if fresh, all := s.Unsaved(to.lo, to.lo+uint64(len(to.text))); fresh != 0 || all != len(p.list) {
		t.Errorf("%d of %d are to be saved", fresh, all)
	}
	s.wakeAll()
	p.same(t)
	s.verify(t, to, false)
	byEntry := make(map[uint64]*region)
	p.s[awakeOne].each(func(r *region) { byEntry[r.reg.Entry] = r })
	s.each(func(r *region) {
		o := byEntry[r.reg.Entry]
		if o == nil || r.base != o.base || !slices.Equal(r.fills, o.fills) || len(r.stubs) != len(o.stubs) || len(r.links) != len(o.links) || !r.unchanged() {
			t.Fatalf("region %#x differs", r.reg.Entry)
		}
		for i := range r.links {
			if a, b := &r.links[i], &o.links[i]; a.off != b.off || (a.to == nil) != (b.to == nil) || a.to != nil && a.to.base != b.to.base {
				t.Fatalf("region %#x: link to %#x differs", r.reg.Entry, a.target)
			}
		}
	})
	for _, sv := range s.saveAll(to) {
		if sv.fresh {
			t.Fatalf("record of %#x is new", sv.entry)
		}
	}
}

// Threads go on where they would if the regions were awake, which stay dormant.
func TestLinkedPlaces(t *testing.T) {
	im := libc(t)
	p := newLinkedPair(t, busy(t, im), im)
	s, to := p.s[dormantOne], p.im[dormantOne]
	n := 0
	p.s[awakeOne].each(func(r *region) {
		var places []uint64
		for i := range r.reg.Blocks {
			places = append(places, r.reg.Blocks[i].Addr)
		}
		for _, e := range r.returns {
			places = append(places, e.Addr)
		}
		for _, orig := range places {
			a, err := s.Jump(to, orig)
			if err != nil {
				t.Fatal(err)
			}
			b, ok := p.s[awakeOne].lookup(orig)
			if !ok { // behind a call at the end of a region
				rec, ok := p.s[awakeOne].Recover(a)
				if !ok || rec.RIP != orig || !rec.RCXFromS {
					t.Fatalf("at %#x: %#x, where the state is %+v, %v", orig, a, rec, ok)
				}
			} else if a != b.body {
				t.Fatalf("at %#x: %#x instead of %#x", orig, a, b.body)
			}
			n++
		}
	})
	if len(s.dormant) != 1 || n < 1000 {
		t.Errorf("%d dormant, %d places", len(s.dormant), n)
	}
}

// Whatever asks for a region finds it.
func TestLinkedWakes(t *testing.T) {
	im := libc(t)
	from := New(testConfig(im, 1<<20))
	for i := range 25 {
		if _, err := from.FillCall(im, im.funcs[i*41%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	for name, ask := range map[string]func(p *linkedPair, s *Space, to *image) bool{
		"recover": func(p *linkedPair, s *Space, to *image) bool {
			rec, ok := s.Recover(s.dormant[0].off)
			return ok && rec.RIP != 0
		},
		"link": func(p *linkedPair, s *Space, to *image) bool {
			var stub uint32
			p.s[awakeOne].each(func(r *region) {
				for i := range r.links {
					if r.links[i].to == nil {
						stub = r.links[i].stub
					}
				}
			})
			_, target, _, err := s.TakeLink(to, stub)
			return err == nil && target != 0
		},
		"jump": func(p *linkedPair, s *Space, to *image) bool {
			_, err := s.FillJump(to, p.function(41))
			return err == nil
		},
		"call": func(p *linkedPair, s *Space, to *image) bool {
			_, err := s.FillCall(to, p.function(41))
			return err == nil
		},
		"invalidate": func(p *linkedPair, s *Space, to *image) bool {
			return s.Invalidate(p.function(41), p.function(41)+1) > 0
		},
		"code": func(p *linkedPair, s *Space, to *image) bool { return s.HasCode(p.function(41), p.function(41)+1) },
		"rebase": func(p *linkedPair, s *Space, to *image) bool {
			s.Rebase(s.cfg.Base+0x300000, s.cfg.slot)
			slept := len(s.dormant) == 1
			return s.HasCode(p.function(41), p.function(41)+1) && slept && s.Stats().Live == len(p.list)
		},
		"flush": func(p *linkedPair, s *Space, to *image) bool { s.Flush(); return s.Stats().Live == 0 },
		"save":  func(p *linkedPair, s *Space, to *image) bool { return len(s.saveAll(to)) == len(p.list) },
		"stale": func(p *linkedPair, s *Space, to *image) bool { return !s.IsStale(s.dormant[0].off) },
		"clone": func(p *linkedPair, s *Space, to *image) bool {
			im := to.withTables()
			im.lo = to.lo
			c := s.Clone(testConfig(im, len(s.cfg.Code)))
			c.verify(t, im, true)
			return c.Stats().Live == len(p.list)
		},
	} {
		p := newLinkedPair(t, from, im)
		s, to := p.s[dormantOne], p.im[dormantOne]
		if !ask(p, s, to) {
			t.Errorf("%s: wrong answer", name)
		}
		if len(s.dormant) != 0 {
			t.Errorf("%s: still dormant", name)
		}
		s.verify(t, to, true)
	}
}

// Links between dormant regions and others are bound as if all had been awake.
func TestLinkedAmongOthers(t *testing.T) {
	im := libc(t)
	from := busy(t, im)
	p := newLinkedPair(t, from, im)
	s, to := p.s[dormantOne], p.im[dormantOne]
	rnd := rand.New(rand.NewPCG(1, 7))
	for range 300 {
		if _, err := s.FillCall(to, p.function(rnd.IntN(len(to.funcs)))); err != nil {
			t.Fatal(err)
		}
	}
	s.verify(t, to, false)
}

// What does not fit is not restored, and nothing of it is left.
func TestLinkedRefused(t *testing.T) {
	im := libc(t)
	from := busy(t, im)
	p := newLinkedPair(t, from, im)
	fresh := func(size int) (*Space, *image) {
		to := im.at(im.lo + 0x1357000)
		return New(testConfig(to, size)), to
	}
	check := func(name string, s *Space, to *image, n int) {
		t.Helper()
		if n != 0 || len(s.dormant) != 0 || s.Stats().Live > 1 {
			t.Errorf("%s: %d restored, %d live", name, n, s.Stats().Live)
		}
		for i := range to.j {
			if to.j[i] != 0 || to.c[i] != 0 {
				t.Fatalf("%s: table entries are left", name)
			}
		}
	}
	end := uint64(len(im.text))
	{
		s, to := fresh(8 << 20)
		first := p.list[0].entry - p.lo
		to.text = bytes.Clone(to.text)
		to.text[first] ^= 1
		check("other code", s, to, p.restore(s, to, p.linked))
	}
	{
		s, to := fresh(8 << 20)
		check("no room", s, to, func() int { s := New(testConfig(to, 64<<10)); return p.restore(s, to, p.linked) }())
		check("mapped in part", s, to, s.RestoreLinked(to, to.lo, to.lo+end/2, to.lo, p.linked, recordsFrom(p.list, p.lo, to.lo)))
		s.cfg.Volatile = func(page uint64) bool { return page == (p.list[3].entry-p.lo+to.lo)&^pageMask }
		check("volatile", s, to, p.restore(s, to, p.linked))
		s.cfg.Volatile = nil
		if _, err := s.Jump(to, p.list[5].entry-p.lo+to.lo); err != nil {
			t.Fatal(err)
		}
		live := s.Stats().Live
		if n := p.restore(s, to, p.linked); n != 0 || s.Stats().Live != live {
			t.Errorf("%d restored over what is translated", n)
		}
	}
	{
		s, to := fresh(8 << 20)
		s.cfg.Slot = func(uint64, bool) *uint64 { return nil }
		check("no tables", s, to, p.restore(s, to, p.linked))
	}
	// Far away the addresses do not fit.
	far := im.at(1 << 40)
	s := New(testConfig(far, 8<<20))
	check("far", s, far, p.restore(s, far, p.linked))
}

// Damage of the linked form never makes it write or read outside, and never panics.
func TestLinkedDamage(t *testing.T) {
	im := libc(t)
	from := New(testConfig(im, 1<<20))
	for i := range 15 {
		if _, err := from.FillCall(im, im.funcs[i*41%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	p := newLinkedPair(t, from, im)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range 300 {
		bad := bytes.Clone(p.linked)
		switch i % 3 {
		case 0:
			bad = bad[:rnd.IntN(len(bad))]
			if i%2 == 0 && len(bad) >= 4 {
				binary.LittleEndian.PutUint32(bad, uint32(len(bad)))
			}
		case 1:
			binary.LittleEndian.PutUint32(bad[4*rnd.IntN(linkedHeader):], rnd.Uint32()>>rnd.IntN(32))
		case 2:
			bad[rnd.IntN(len(bad))] ^= byte(1 + rnd.IntN(255))
		}
		to := im.at(im.lo + 0x1357000)
		s := New(testConfig(to, 1<<20))
		p.restore(s, to, bad)
		for off := s.mem.next; off < s.mem.hi; off++ {
			if s.cfg.Code[off] != 0 {
				t.Fatalf("damage %d: code at %#x, behind what was restored", i, off)
			}
		}
	}
}

// Records that are not those of the linked form end it with a message, and the Space is unlocked.
func TestLinkedOtherRecords(t *testing.T) {
	im := libc(t)
	p := newLinkedPair(t, busy(t, im), im)
	to := im.at(im.lo + 0x1357000)
	s := New(testConfig(to, 8<<20))
	linked, list := p.linked, p.list
	p.list = list[1:]
	if p.restore(s, to, linked) != len(list) {
		t.Fatal("not restored")
	}
	defer func() {
		if recover() == nil {
			t.Error("other records were taken")
		}
		s.Stats()
	}()
	s.Recover(16)
}

// Records that contradict each other have no linked form.
func TestLinkContradiction(t *testing.T) {
	im := libc(t)
	list := busy(t, im).saveAll(im)
	twice := append(slices.Clone(list), list[0])
	if Link(recordsFrom(twice, im.lo, 0)) != nil {
		t.Error("a region twice")
	}
	short := slices.Clone(list)
	short[1].record = short[1].record[:len(short[1].record)-4]
	if Link(recordsFrom(short, im.lo, 0)) != nil {
		t.Error("a damaged record")
	}
	if Link(recordsFrom(nil, 0, 0)) != nil {
		t.Error("nothing")
	}
	if a, b := Link(recordsFrom(list, im.lo, 0)), Link(recordsFrom(list, im.lo, 0)); a == nil || !bytes.Equal(a, b) {
		t.Error("not the same each time")
	}
}
