package tcache

import (
	"bytes"
	"slices"
	"testing"

	"xvrun/xv/translate"
)

// layoutAt is a layout like that of the agent for a cache at base.
func layoutAt(base uint32) translate.Layout {
	return translate.Layout{
		Cache: base, Table: 0x7ffc0000, Hash: base - 0x20_0000, Miss: base - 0x1000_0000 + 0x100, Special: base - 0x1000_0000 + 0x200, Gate: base - 0x1000_0000 + 0x300,
	}
}

// TestRebase moves a cache: each live region must be what would be emitted at the new place, but for the branches that are bound, and
// all tables, links and recovery must agree with the new addresses.
func TestRebase(t *testing.T) {
	im := libc(t)
	cfg := testConfig(im, 1<<20)
	cfg.Layout, cfg.Budget = layoutAt(cfg.Base), 4000
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
	for i, base := range []uint32{0x2345_6000, 0x6000_0000, testBase} {
		live := s.Stats().Live
		before := slices.Clone(s.cfg.Code)
		s.Rebase(base, layoutAt(base))
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
	frag, err := translate.Emit(&r.code, &r.reg, s.cfg.Base+r.base, &s.cfg.Layout, &buf)
	if err != nil {
		t.Fatalf("%#x: %v", r.reg.Entry, err)
	}
	got := slices.Clone(s.cfg.Code[r.base : int(r.base)+len(frag.Code)])
	for i := range r.links {
		off := r.links[i].off - r.base
		copy(got[off:off+4], frag.Code[off:])
	}
	if !bytes.Equal(got, frag.Code) {
		t.Fatalf("region %#x is not what is emitted at %#x", r.reg.Entry, s.cfg.Base+r.base)
	}
}

// TestRebaseDrops checks that regions which hold addresses of their place become stale.
func TestRebaseDrops(t *testing.T) {
	im := code(map[int][]byte{0: {0xff, 0xd0, 0xc3}, 64: {0x90, 0xc3}}) // call *rax ; ret and nop ; ret
	cfg := testConfig(im, 1<<20)
	cfg.Layout = layoutAt(cfg.Base)
	s := New(cfg)
	for _, addr := range []uint64{im.lo, im.lo + 64} {
		if _, err := s.FillCall(im, addr); err != nil {
			t.Fatal(err)
		}
	}
	s.Hash(im.lo)
	if _, err := s.FillCall(im, im.lo); err != nil {
		t.Fatal(err)
	}
	s.Rebase(0x2000_0000, layoutAt(0x2000_0000))
	if s.isBlock(im.lo) || !s.isBlock(im.lo+64) {
		t.Errorf("the branch by the hash is there: %v, other code: %v", s.isBlock(im.lo), s.isBlock(im.lo+64))
	}
	s.verify(t, im, false)
}
