package tcache

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// anything is all in use.
func anything(lo, hi uint32) bool { return true }

// successor is a Space in place of s, with other cache memory elsewhere and tables of its own.
func successor(im *image, size int) (*Space, *image) {
	to := im.withTables()
	cfg := testConfig(to, size)
	cfg.Base += 0x300000
	return New(cfg), to
}

func TestKeepAll(t *testing.T) {
	im := libc(t)
	s := busy(t, im)
	f := im.funcs[len(im.funcs)/2]
	s.Invalidate(f, f+0x1000)
	next, to := successor(im, 8<<20)
	n := next.Keep(s, Kept{anything, 8 << 20})
	st, old := next.Stats(), s.Stats()
	if n != old.Live || st.Live != n || st.Kept != n || st.Regions != 0 || st.Used > old.Used+pageSize {
		t.Errorf("%d kept: %+v of %+v", n, st, old)
	}
	next.verify(t, to, true)
	s.verify(t, im, false)
	// What leads somewhere still does: no miss more than before.
	for i := range im.j {
		if (im.j[i] == 0) != (to.j[i] == 0) || (im.c[i] == 0) != (to.c[i] == 0) {
			t.Fatalf("entries of %#x: %#x %#x, kept %#x %#x", im.lo+uint64(i), im.j[i], im.c[i], to.j[i], to.c[i])
		}
	}
	s.eachLive(func(r *region) {
		kept := next.regionAt(t, r.reg.Entry)
		if len(kept.inner) != len(r.inner) {
			t.Fatalf("%#x: inner instructions %v, kept %v", r.reg.Entry, r.inner, kept.inner)
		}
		for _, e := range r.returns {
			site, ok := next.ReturnSite(e.Addr)
			if back, known := next.ReturnsTo(site); !ok || !known || back != e.Addr {
				t.Fatalf("return site of %#x: %#x %v, which is of %#x %v", e.Addr, site, ok, back, known)
			}
		}
		for i := range r.links {
			if (r.links[i].to == nil) != (kept.links[i].to == nil) {
				t.Fatalf("link of %#x to %#x: %v, kept %v", r.reg.Entry, r.links[i].target, r.links[i].to, kept.links[i].to)
			}
		}
	})
}

// Old regions that are in use come first, then the newest.
func TestKeepHot(t *testing.T) {
	im := libc(t)
	s := New(testConfig(im, 256<<10))
	var err error
	n := 0
	for ; !s.Ripe(); n++ {
		if _, err = s.FillCall(im, im.funcs[n*7%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	s.Age()
	for ; err == nil; n++ {
		_, err = s.FillCall(im, im.funcs[n*7%len(im.funcs)])
	}
	if err != ErrFull || s.Ripe() {
		t.Fatalf("%v, or ripe twice", err)
	}
	const limit = 96 << 10
	used := func(lo, hi uint32) bool { // a third of what is old, all that is new
		if hi > s.mem.next {
			t.Fatalf("asked of %#x-%#x", lo, hi)
		}
		return lo < 64<<10 || lo >= s.mark
	}
	next, to := successor(im, 256<<10)
	if next.Keep(s, Kept{used, limit}) == 0 || next.Stats().Used > limit+pageSize {
		t.Fatalf("%+v", next.Stats())
	}
	next.verify(t, to, true)
	dropped := 0
	oldest := uint32(1 << 30) // of the new ones that are kept
	s.eachLive(func(r *region) {
		if p, ok := next.block(r.reg.Entry); ok && p.r.reg.Entry == r.reg.Entry {
			switch {
			case r.base >= s.mark:
				oldest = min(oldest, r.base)
			case r.base >= 64<<10:
				t.Errorf("kept without use: %#x", r.base)
			}
		} else if r.base < 64<<10 {
			t.Errorf("in use, not kept: %#x", r.base)
		} else if r.base >= s.mark {
			dropped++
			if r.base > oldest {
				t.Errorf("new at %#x, not kept, but what is at %#x", r.base, oldest)
			}
		}
	})
	if dropped == 0 || oldest == 1<<30 {
		t.Errorf("%d new ones left behind, kept from %#x on", dropped, oldest)
	}
}

// What the hash leads to stays reachable by it, and a branch that uses the hash still does.
func TestKeepHash(t *testing.T) {
	// call *rax ; ret
	im := code(map[int][]byte{0: {0xff, 0xd0, 0xc3}})
	cfg := testConfig(im, 1<<20)
	cfg.Slot = hashTables{}.slot
	s := New(cfg)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	s.Hash(im.lo)
	for _, f := range []func(Memory, uint64) (uint32, error){s.FillCall, s.FillJump} {
		if _, err := f(im, im.lo); err != nil {
			t.Fatal(err)
		}
	}
	cfg = testConfig(im, 1<<20)
	low := hashTables{}
	cfg.Slot = low.slot
	next := New(cfg)
	if next.Keep(s, Kept{anything, 1 << 20}) != 1 {
		t.Fatalf("%+v", next.Stats())
	}
	r := next.regionAt(t, im.lo)
	if len(r.reg.Hashed) != 1 || len(next.page(im.lo).hashed) != 1 {
		t.Errorf("%+v", r.reg)
	}
	want := 0
	for key, list := range s.buckets {
		want += len(list)
		at := uint64(key.low)
		if key.call {
			at += hashSize
		}
		if len(next.buckets[key]) != len(list) || *low[at] != next.address(next.buckets[key][0].off) {
			t.Errorf("bucket %v: %v, kept %v", key, list, next.buckets[key])
		}
	}
	if want != 3 { // a call, a jump, a return
		t.Errorf("%d stubs", want)
	}
}

// BenchmarkKeep is what a region costs that is kept.
func BenchmarkKeep(b *testing.B) {
	im := libc(b)
	s := New(testConfig(im, 16<<20))
	for _, f := range im.funcs {
		if _, err := s.FillCall(im, f); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	for b.Loop() {
		b.StopTimer()
		next, _ := successor(im, 16<<20)
		b.StartTimer()
		n += next.Keep(s, Kept{anything, 16 << 20})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/region")
}

// TestKeepHashed keeps the translations of a Space with tables in one without: no branch looks into a table, and what led to a region
// through a table leads there by the hash, also after translating more.
func TestKeepHashed(t *testing.T) {
	im := libc(t)
	s := busy(t, im)
	low := hashTables{}
	cfg := testConfig(im, 16<<20)
	cfg.Slot, cfg.Hashed = low.slot, true
	next := New(cfg)
	if n := next.Keep(s, Kept{anything, 8 << 20}); n != s.Stats().Live {
		t.Errorf("%d of %d regions are kept", n, s.Stats().Live)
	}
	for i := range 100 {
		if _, err := next.FillCall(im, im.funcs[i*7%len(im.funcs)]); err != nil {
			t.Fatal(err)
		}
	}
	lookup := binary.LittleEndian.AppendUint32([]byte{0xcd}, cfg.Layout.Table) // [rcx*8+TBL]
	if !bytes.Contains(s.cfg.Code, lookup) || bytes.Contains(next.cfg.Code, lookup) {
		t.Error("branches look into tables that are not there, or never did")
	}
	s.eachLive(func(r *region) {
		for _, f := range r.fills {
			if _, known := next.regionAt(t, r.reg.Entry).body(f.addr); !known { // an inner instruction, which is found anew
				continue
			}
			bucket := next.buckets[bucket{uint16(f.addr), f.call}]
			at := slices.IndexFunc(bucket, func(h hashed) bool { return h.orig == f.addr })
			if entry := *s.cfg.slot(f.addr, f.call); entry == s.address(f.off) && (at < 0 || bucket[at].r != next.regionAt(t, r.reg.Entry)) {
				t.Fatalf("%#x (call: %v) is not to be found by the hash", f.addr, f.call)
			}
		}
	})
	next.eachLive(func(r *region) {
		for _, e := range r.returns {
			if !slices.ContainsFunc(next.buckets[bucket{uint16(e.Addr), false}], func(h hashed) bool { return h.orig == e.Addr }) {
				t.Fatalf("the return site of %#x is not to be found by the hash", e.Addr)
			}
		}
	})
}
