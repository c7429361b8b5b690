package tcache

import (
	"slices"
	"testing"

	"xvrun/xv/translate"
)

// nativeConfig is testConfig with native returns.
func nativeConfig(im *image, size int) Config {
	cfg := testConfig(im, size)
	cfg.Layout.NativeReturns = true
	return cfg
}

// TestNativeCalls binds a call as a jump is, and finds its return site whatever becomes of the region.
func TestNativeCalls(t *testing.T) {
	im := callRet()
	s := New(nativeConfig(im, 1<<20))
	if _, err := s.FillJump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	r := s.regionAt(t, im.lo)
	if len(r.links) != 1 || r.links[0].call {
		t.Fatalf("links: %+v", r.links)
	}
	resume, target, call, err := s.TakeLink(im, r.links[0].stub)
	if err != nil || target != im.lo+0x100 || call || s.dest(r.links[0].off) != resume {
		t.Fatalf("%#x %#x %v %v", resume, target, call, err)
	}
	s.verify(t, im, true)
	for _, stale := range []bool{false, true} {
		sites := s.ReturnSites()
		if len(sites) != 1 || sites[0].Addr != im.lo+5 {
			t.Fatalf("return sites %#x", sites)
		}
		at := sites[0].Off
		if orig, ok := s.ReturnsTo(at); !ok || orig != im.lo+5 {
			t.Errorf("stale %v: returns to %#x %v", stale, orig, ok)
		}
		if _, ok := s.ReturnsTo(at + 1); ok || at >= s.Extent() {
			t.Errorf("stale %v: extent %#x", stale, s.Extent())
		}
		s.Invalidate(im.lo, im.lo+pageSize)
	}
}

// TestReturnEntry has a handler return where no call returns to.
func TestReturnEntry(t *testing.T) {
	im := callRet()
	s := New(nativeConfig(im, 1<<20))
	if off, ok := s.ReturnEntry(im.lo); ok {
		t.Fatalf("%#x before it is translated", off)
	}
	if _, err := s.FillJump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	at, ok := s.ReturnEntry(im.lo)
	if again, _ := s.ReturnEntry(im.lo); !ok || again != at {
		t.Fatalf("%#x, then %#x", at, again)
	}
	s.verify(t, im, true)
	for _, stale := range []bool{false, true} {
		if orig, ok := s.ReturnsTo(at); !ok || orig != im.lo {
			t.Errorf("stale %v: returns to %#x %v", stale, orig, ok)
		}
		if _, ok := s.ReturnsTo(at + 1); ok {
			t.Errorf("stale %v: returns into the stub", stale)
		}
		if !slices.Contains(s.ReturnSites(), translate.Entry{Addr: im.lo, Off: at}) {
			t.Errorf("stale %v: %#x is not among %#x", stale, at, s.ReturnSites())
		}
		s.Invalidate(im.lo, im.lo+pageSize)
	}
	if off, ok := s.ReturnEntry(im.lo); ok {
		t.Errorf("%#x is stale", off)
	}
}

// TestMissed has every branch to an address miss.
func TestMissed(t *testing.T) {
	im := callRet()
	cfg := nativeConfig(im, 1<<20)
	cfg.Missed = func(addr uint64) bool { return addr == im.lo+0x100 }
	s := New(cfg)
	if _, err := s.FillJump(im, im.lo); err != nil {
		t.Fatal(err)
	}
	l := &s.regionAt(t, im.lo).links[0]
	for range 2 {
		if resume, _, _, err := s.TakeLink(im, l.stub); err != nil || resume == 0 {
			t.Fatal(err)
		}
		if _, err := s.FillJump(im, im.lo+0x100); err != nil {
			t.Fatal(err)
		}
		if l.to != nil || s.dest(l.off) != l.stub || im.j[0x100] != 0 {
			t.Fatalf("a branch leads there: %+v, entry %#x", l, im.j[0x100])
		}
	}
}

// TestAlias jumps to code by an address that is not its own.
func TestAlias(t *testing.T) {
	im := callRet()
	cfg := nativeConfig(im, 1<<20)
	low := map[uint64]*uint64{}
	cfg.Slot = func(addr uint64, call bool) *uint64 {
		if addr >= hashSize {
			return im.slot(addr, call)
		}
		if low[addr] == nil {
			low[addr] = new(uint64)
		}
		return low[addr]
	}
	s := New(cfg)
	const alias = 0x5012_3456
	for range 2 {
		if err := s.Alias(im, im.lo+5, alias); err != nil {
			t.Fatal(err)
		}
	}
	p := s.find(s.offset(*low[alias%hashSize]))
	if p == nil || p.kind != pieceHashJump || p.orig != im.lo+5 || len(s.buckets) != 1 {
		t.Fatalf("%+v", p)
	}
	if r, ok := s.Recover(p.off); !ok || r.Kind != translate.KindMiss {
		t.Errorf("%+v %v", r, ok)
	}
	s.Invalidate(im.lo, im.lo+pageSize)
	if *low[alias%hashSize] != 0 {
		t.Error("it leads to code that is gone")
	}
}
