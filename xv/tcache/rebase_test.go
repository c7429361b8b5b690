package tcache

import (
	"bytes"
	"slices"
	"testing"

	"xvrun/xv/translate"
)

// TestRebase moves a cache: each live region must be what would be emitted at the new place, but for the branches that are bound, and
// all tables, links and recovery must agree with the new addresses.
func TestRebase(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 1<<20)
	cfg.Budget = 4000
	s := New(cfg)
	fill := func(n int) {
		for i := range 300 {
			f := im.funcs[i*n%len(im.funcs)]
			if _, err := s.FillCall(im, f); err != nil {
				t.Fatal(err)
			}
			if _, err := s.FillJump(im, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(5)
	s.Invalidate(im.funcs[100], im.funcs[100]+20000)
	for i, base := range []uint64{0x2345_6000, 0x6000_0000, 0x7ffe_0000_0000, testBase} {
		live := s.Stats().Live
		before := slices.Clone(s.cfg.Code)
		s.Rebase(base, s.cfg.slot)
		if !bytes.Equal(before, s.cfg.Code) {
			t.Fatal("the code has changed: it holds addresses of its place")
		}
		if got := s.Stats().Live; got != live || live == 0 {
			t.Fatalf("%d live regions, before %d", got, live)
		}
		s.eachLive(func(r *region) { s.verifyEmitted(t, r) })
		s.verify(t, im, false)
		fill(7 + i)
	}
	s.verify(t, im, false)
}

// verifyEmitted compares a region with what is emitted for its place.
func (s *Space) verifyEmitted(t *testing.T, r *region) {
	t.Helper()
	var buf translate.Buffer
	frag, err := translate.Emit(&r.code, &r.reg, r.base, &s.cfg.Layout, &buf)
	if err != nil {
		t.Fatalf("%#x: %v", r.reg.Entry, err)
	}
	got := slices.Clone(s.cfg.Code[r.base : int(r.base)+len(frag.Code)])
	for i := range r.links {
		off := r.links[i].off - r.base
		copy(got[off:off+4], frag.Code[off:])
	}
	if !bytes.Equal(got, frag.Code) {
		t.Fatalf("region %#x is not what is emitted at %#x", r.reg.Entry, r.base)
	}
}

// TestFilled drops code and translates it again, as a program does that generates code: the list of the entries has no more than are in use.
func TestFilled(t *testing.T) {
	im := libc(t)
	s := New(testConfig(im, 1<<20))
	s.note(fill{})
	first := cap(s.filled)
	for i := range 100 * first {
		f := im.funcs[0]
		if _, err := s.FillCall(im, f); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			s.Invalidate(f, f+1)
		} else {
			s.Empty(s.cfg.Layout) // the next ones lie in the same places
		}
	}
	if len(s.filled) > 8*first {
		t.Errorf("%d entries", len(s.filled))
	}
	s.Rebase(testBase+0x1000, s.cfg.slot)
	s.verify(t, im, false)
}

// TestRebaseHash moves a cache with a branch by the hash: the entries of its tables move too.
func TestRebaseHash(t *testing.T) {
	im := code(map[int][]byte{0: {0xff, 0xd0, 0xc3}}) // call *rax ; ret
	var low [2]uint64
	cfg := testConfig(im, 1<<20)
	cfg.Slot = func(addr uint64, call bool) *uint64 {
		switch {
		case addr >= hashSize:
			return nil
		case call && addr == im.lo%hashSize:
			return &low[0]
		}
		return &low[1]
	}
	s := New(cfg)
	s.Hash(im.lo)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	before, code := low, slices.Clone(s.cfg.Code)
	s.Rebase(0x2000_0000, s.cfg.slot)
	for i := range low {
		if before[i] < testBase || low[i] != before[i]-testBase+0x2000_0000 {
			t.Errorf("the entry %#x has become %#x", before[i], low[i])
		}
	}
	if r := s.regionAt(t, im.lo); r.stale || len(r.reg.Hashed) != 1 || !bytes.Equal(code, s.cfg.Code) {
		t.Errorf("the branch by the hash has changed: %+v", r.reg)
	}
}

// TestRebaseChecked moves a cache with checked code, which stays.
func TestRebaseChecked(t *testing.T) {
	im := code(map[int][]byte{0: {0x31, 0xc0, 0xc3}})
	cfg := testConfig(im, 1<<20)
	cfg.Volatile = func(uint64) bool { return true }
	s := New(cfg)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	code := slices.Clone(s.cfg.Code)
	s.Rebase(0x2000_0000, s.cfg.slot)
	if r := s.regionAt(t, im.lo); r.stale || !r.reg.Checked || !bytes.Equal(code, s.cfg.Code) {
		t.Errorf("checked code has changed: %+v", r.reg)
	}
	s.verify(t, im, true)
}
