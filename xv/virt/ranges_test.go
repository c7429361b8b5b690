//go:build linux && amd64

package virt

import (
	"math/rand"
	"slices"
	"testing"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// TestRanges compares ranges with an array of protections, one for each page.
func TestRanges(t *testing.T) {
	const n = 64
	for seed := range int64(200) {
		rnd := rand.New(rand.NewSource(seed))
		var r ranges
		var want [n]int
		for range 40 {
			lo := rnd.Intn(n)
			hi := lo + 1 + rnd.Intn(n-lo)
			prot := 0
			before, was := r, r.clone()
			if rnd.Intn(2) == 0 {
				r = r.without(uint64(lo), uint64(hi))
			} else {
				prot = 4 + rnd.Intn(4)
				r = r.with(uint64(lo), uint64(hi), prot)
			}
			if !slices.Equal(before, was) {
				t.Fatalf("seed %d: %v has become %v", seed, was, before)
			}
			for i := lo; i < hi; i++ {
				want[i] = prot
			}
			for i, p := range want {
				got, ok := r.find(uint64(i))
				if ok != (p != 0) || ok && got.prot != p {
					t.Fatalf("seed %d: page %d has %v %v, want protection %d", seed, i, got, ok, p)
				}
				if r.overlaps(uint64(i), uint64(i+1)) != ok {
					t.Fatalf("seed %d: overlaps disagrees with find at page %d", seed, i)
				}
			}
			for i := 1; i < len(r); i++ {
				if r[i].lo < r[i-1].hi {
					t.Fatalf("seed %d: out of order: %v", seed, r)
				}
			}
		}
	}
}

func TestFindGap(t *testing.T) {
	maps := []loader.VMA{{Start: 0x2000, End: 0x3000}, {Start: 0x5000, End: 0x6000}, {Start: 0x6000, End: 0x9000}}
	for _, c := range []struct {
		size, align, lo, hi, want uint64
		ok                        bool
	}{
		{0x1000, 0x1000, 0x1000, 0xf000, 0x1000, true},
		{0x2000, 0x1000, 0x1000, 0xf000, 0x3000, true},
		{0x3000, 0x1000, 0x1000, 0xf000, 0x9000, true},
		{0x1000, 0x4000, 0x1000, 0xf000, 0x4000, true},
		{0x2000, 0x4000, 0x1000, 0xf000, 0xc000, true},
		{0x7000, 0x1000, 0x1000, 0xf000, 0, false},
		{0x1000, 0x1000, 0x5000, 0x9000, 0, false},
	} {
		got, ok := findGap(maps, c.size, aligned(c.align), c.lo, c.hi)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("findGap(%#x, %#x, %#x, %#x) = %#x, %v, want %#x, %v", c.size, c.align, c.lo, c.hi, got, ok, c.want, c.ok)
		}
	}
}

func TestAliases(t *testing.T) {
	const rw, rx = loader.ProtRead | loader.ProtWrite, loader.ProtRead
	maps := []loader.VMA{
		{Start: 0x1000, End: 0x4000, Prot: rx, Shared: true, Inode: 7, Offset: 0x1000},
		{Start: 0x8000, End: 0xa000, Prot: rw, Shared: true, Inode: 7, Offset: 0x2000},
		{Start: 0xc000, End: 0xf000, Prot: rw, Shared: true, Inode: 8, Offset: 0},
		{Start: 0x10000, End: 0x13000, Prot: rw, Inode: 7, Offset: 0},
	}
	for page, want := range map[uint64][]uint64{0x1000: nil, 0x2000: {0x8000}, 0x3000: {0x9000}, 0xc000: nil, 0x10000: nil, 0x20000: nil} {
		got := aliasesOf(maps, page, func(page uint64) bool { return false })
		if len(got) != len(want) || len(got) == 1 && got[0] != want[0] {
			t.Errorf("aliases of %#x: %#x, want %#x", page, got, want)
		}
	}
	if got := aliasesOf(maps, 0x8000, func(page uint64) bool { return page == 0x2000 }); len(got) != 1 || got[0] != 0x2000 {
		t.Errorf("aliases that are read-only because of their own code: %#x", got)
	}
}

func TestStatusFlags(t *testing.T) {
	// lahf and seto of CF=1 PF=1 ZF=1 SF=0, OF=1; DF and bit 1 of the interrupted flags stay.
	image := uint64(0x47)<<8 | 1
	if got, want := statusFlags(0x402|0x80, image), uint64(0x402|0x45|0x800); got != want {
		t.Errorf("flags %#x, want %#x", got, want)
	}
}

func TestMaskOfActions(t *testing.T) {
	if a := kernelAction(abi.First, 17, action{handler: sigDfl, flags: saNoCldWait}); a.handler != sigDfl || a.flags != saNoCldWait {
		t.Errorf("SIGCHLD by default: %+v", a)
	}
	if a := kernelAction(abi.First, 11, action{handler: sigIgn}); a.handler <= sigIgn || a.mask != ^uint64(0) {
		t.Errorf("SIGSEGV must reach the agent: %+v", a)
	}
	if a := kernelAction(abi.First, 10, action{handler: 0x1234, flags: saRestart | saNoDefer}); a.flags&saRestart == 0 || a.flags&saNoDefer != 0 {
		t.Errorf("flags %#x", a.flags)
	}
}

func TestStriped(t *testing.T) {
	const stripe = 1 << 30
	for _, c := range []struct{ at, size, want uint64 }{
		{farStart, 0x1000, farStart},
		{farStart + 1, 0x1000, farStart + 0x1000},
		{farStart, stripe, farStart},
		{farStart + 0x1000, stripe, farStart + 2*stripe},
		{farStart + stripe - 0x1000, 0x1000, farStart + stripe - 0x1000},
		{farStart + stripe - 0x1000, 0x2000, farStart + 2*stripe},
		{farStart + stripe, 0x1000, farStart + 2*stripe},
		{farStart + 2*stripe - 0x1000, 0x1000, farStart + 2*stripe},
		{farStart + stripe, stripe + 0x1000, farStart + stripe},
	} {
		if got := striped(c.at, c.size); got != c.want {
			t.Errorf("striped(%#x, %#x) = %#x, want %#x", c.at, c.size, got, c.want)
		}
	}
}
