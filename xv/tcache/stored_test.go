package tcache

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"xvrun/xv/translate"
)

// saved is what Save gave of a region.
type saved struct {
	entry  uint64
	record []byte
	fresh  bool
}

func (s *Space) saveAll(im *image) (list []saved) {
	s.Save(im.lo, im.lo+uint64(len(im.text)), func(entry uint64, rec []byte, fresh bool) {
		list = append(list, saved{entry, slices.Clone(rec), fresh})
	})
	return list
}

// busy returns a Space that has translated much of the image in several ways.
func busy(t *testing.T, im *image) *Space {
	t.Helper()
	cfg := testConfig(im, 4<<20)
	cfg.Budget = 2000
	s := New(cfg)
	for i := range 200 {
		f := im.funcs[i*5%len(im.funcs)]
		fill := s.FillCall
		if i%3 == 0 {
			fill = s.FillJump
		}
		if _, err := fill(im, f); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// restoreOne restores one record.
func (s *Space) restoreOne(m Memory, entry uint64, rec []byte) bool {
	return s.Restore(m, func(yield func(uint64, []byte) bool) { yield(entry, rec) }) == 1
}

// at returns the same memory at another address.
func (im *image) at(lo uint64) *image {
	to := im.withTables()
	to.lo = lo
	return to
}

func TestRestore(t *testing.T) {
	im := libc(t)
	s := busy(t, im)
	list := s.saveAll(im)
	if len(list) < s.Stats().Live*9/10 {
		t.Fatalf("%d of %d regions saved", len(list), s.Stats().Live)
	}

	to := im.at(im.lo + 0x1357000)
	cfg := testConfig(to, 4<<20)
	r := New(cfg)
	// Something is in the cache already.
	if _, err := r.Jump(to, to.funcs[0]-im.lo+to.lo); err != nil {
		t.Fatal(err)
	}
	restored := r.Restore(to, func(yield func(uint64, []byte) bool) {
		for _, sv := range list {
			yield(sv.entry-im.lo+to.lo, sv.record)
		}
	})
	if st := r.Stats(); restored < len(list)-5 || st.Restored != restored || st.Regions != 1 {
		t.Errorf("%d of %d regions restored, counted %+v", restored, len(list), st)
	}
	r.verify(t, to, false)

	// Every byte of the cache is what emitting gives, but for the links, and records made there are the same.
	entries := make(map[uint64][]byte)
	for _, sv := range list {
		entries[sv.entry-im.lo+to.lo] = sv.record
	}
	r.each(func(reg *region) {
		if reg.record == nil {
			return
		}
		frag, err := translate.Emit(&reg.code, &reg.reg, reg.base, &r.cfg.Layout, new(translate.Buffer))
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Clone(r.cfg.Code[reg.base:][:len(frag.Code)])
		for _, l := range frag.Links {
			copy(got[l.Off:l.Off+4], frag.Code[l.Off:])
		}
		if !bytes.Equal(got, frag.Code) {
			t.Fatalf("restored code of %#x differs", reg.reg.Entry)
		}
		// Unless another region had a table entry first.
		if again := r.record(reg); len(reg.fills)+len(reg.inner) == reg.recorded && !bytes.Equal(again, entries[reg.reg.Entry]) {
			t.Fatalf("record of %#x differs when made again", reg.reg.Entry)
		}
	})
	// The tables lead where they led.
	missing := 0
	for i := range im.j {
		if (im.j[i] != 0) != (to.j[i] != 0) || (im.c[i] != 0) != (to.c[i] != 0) {
			missing++
		}
	}
	if missing > 20 {
		t.Errorf("%d table entries differ", missing)
	}
	fresh := 0
	for _, sv := range r.saveAll(to) {
		if sv.fresh {
			fresh++
		}
	}
	if fresh != r.Stats().Regions {
		t.Errorf("%d records are new, %d regions were translated", fresh, r.Stats().Regions)
	}
}

// Small, with all that Recover says of restored regions.
func TestRestorePlaces(t *testing.T) {
	im := libc(t)
	s := New(testConfig(im, 1<<20))
	for i := range 15 {
		if _, err := s.FillCall(im, im.funcs[i*41%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	to := im.at(im.lo + 0x555000)
	r := New(testConfig(to, 1<<20))
	for _, sv := range s.saveAll(im) {
		if !r.restoreOne(to, sv.entry-im.lo+to.lo, sv.record) {
			t.Errorf("%#x is not restored", sv.entry)
		}
	}
	r.verify(t, to, true)
	lo := to.funcs[41] - im.lo + to.lo
	if r.Invalidate(lo, lo+2*pageSize) == 0 {
		t.Error("nothing was invalidated")
	}
	r.verify(t, to, true)
	c := r.Clone(testConfig(to.withTables(), 1<<20))
	if len(c.saveAll(to)) == 0 {
		t.Error("a clone saves nothing")
	}
}

func TestRestoreRefuses(t *testing.T) {
	im := libc(t)
	s := New(testConfig(im, 1<<20))
	f := im.funcs[len(im.funcs)/2]
	if _, err := s.FillCall(im, f); err != nil {
		t.Fatal(err)
	}
	list := s.saveAll(im)
	i := slices.IndexFunc(list, func(sv saved) bool { return sv.entry == f })
	if i < 0 {
		t.Fatal("not saved")
	}
	rec := list[i].record
	fresh := func(size int) *Space { return New(testConfig(im.withTables(), size)) }
	if !fresh(1<<20).restoreOne(im, f, rec) {
		t.Fatal("not restored where it was")
	}
	if s.restoreOne(im, f, rec) {
		t.Error("restored though it is translated")
	}
	if fresh(1<<20).restoreOne(im, f+1, rec) {
		t.Error("restored over other code")
	}
	if fresh(1<<20).restoreOne(im, 1<<40, rec) {
		t.Error("restored at a far address")
	}
	changed := im.withTables()
	changed.text = slices.Clone(im.text)
	changed.text[f-im.lo] ^= 1
	if fresh(1<<20).restoreOne(changed, f, rec) {
		t.Error("restored over changed code")
	}
	changed.dead.Store(true)
	if fresh(1<<20).restoreOne(changed, f, rec) {
		t.Error("restored over code that cannot be executed")
	}
	small := fresh(2 * pageSize)
	for small.restoreOne(im, f, rec) {
		small.Invalidate(f, f+1)
	}
	if st := small.Stats(); st.Restored == 0 {
		t.Errorf("a full cache: %+v", st)
	}
}

// The code of far addresses takes other instructions.
func TestRestoreFar(t *testing.T) {
	im := libc(t)
	far := im.at(im.lo + 1<<40)
	r := New(testConfig(far, 1<<20))
	for _, sv := range busy(t, im).saveAll(im) {
		if r.restoreOne(far, sv.entry+1<<40, sv.record) {
			t.Fatalf("%#x restored at %#x", sv.entry, sv.entry+1<<40)
		}
	}
}

// Records with damage are refused, or restore something that does no harm to the supervisor.
func TestRestoreDamaged(t *testing.T) {
	im := libc(t)
	s := New(testConfig(im, 1<<20))
	for i := range 5 {
		if _, err := s.FillCall(im, im.funcs[i*97%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, sv := range s.saveAll(im) {
		for n := range 4 * recHeader {
			New(testConfig(im.withTables(), 1<<20)).restoreOne(im, sv.entry, sv.record[:min(n*7, len(sv.record))])
		}
		for range 200 {
			rec := slices.Clone(sv.record)
			for range 1 + rnd.IntN(3) {
				at := rnd.IntN(len(rec))
				if rnd.IntN(2) == 0 {
					at = rnd.IntN(4 * recHeader)
				}
				rec[at] = byte(rnd.Uint32())
			}
			New(testConfig(im.withTables(), 1<<17)).restoreOne(im, sv.entry, rec)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	im := libc(b)
	s := New(testConfig(im, 16<<20))
	for i := range 1000 {
		if _, err := s.FillCall(im, im.funcs[i%len(im.funcs)]); err != nil {
			b.Fatal(err)
		}
	}
	list := s.saveAll(im)
	for b.Loop() {
		r := New(testConfig(im.withTables(), 16<<20))
		n := r.Restore(im, func(yield func(uint64, []byte) bool) {
			for _, sv := range list {
				yield(sv.entry, sv.record)
			}
		})
		if n != len(list) {
			b.Fatal("not restored")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(list)), "ns/region")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(s.Stats().Instrs), "ns/instr")
}

// A branch into the middle of a block: what it costs to find that is kept with the region.
func TestRestoreInner(t *testing.T) {
	im := libc(t)
	s := busy(t, im)
	var inner []uint64
	for _, sv := range s.saveAll(im) {
		p, ok := s.block(sv.entry)
		if !ok {
			continue
		}
		b := p.r.reg.Blocks[len(p.r.reg.Blocks)/2]
		for at := b.Addr + 1; at < b.Addr+uint64(b.Len); at++ {
			if _, ok := s.mapOf(p.r).Boundary(at); !ok || s.isBlock(at) {
				continue
			}
			fill := s.FillJump
			if len(inner)%2 == 1 {
				fill = s.FillCall
			}
			if _, err := fill(im, at); err != nil {
				t.Fatal(err)
			}
			inner = append(inner, at)
			break
		}
	}
	if len(inner) < 20 {
		t.Fatalf("%d blocks entered in the middle", len(inner))
	}
	s.verify(t, im, false)

	to := im.at(im.lo + 0x1357000)
	r := New(testConfig(to, 4<<20))
	r.Restore(to, func(yield func(uint64, []byte) bool) {
		for _, sv := range s.saveAll(im) {
			yield(sv.entry-im.lo+to.lo, sv.record)
		}
	})
	r.verify(t, to, false)
	lost := 0
	for k, at := range inner {
		if slot := to.slot(at-im.lo+to.lo, k%2 == 1); !r.isBlock(at-im.lo+to.lo) || *slot == 0 {
			lost++
		}
	}
	if lost > len(inner)/20 {
		t.Errorf("%d of %d are not known after they were restored", lost, len(inner))
	}
	// What is dropped is forgotten.
	r.Invalidate(to.lo, to.lo+uint64(len(to.text)))
	for _, at := range inner {
		if r.isBlock(at - im.lo + to.lo) {
			t.Fatalf("%#x is known after its region was dropped", at-im.lo+to.lo)
		}
	}
}
