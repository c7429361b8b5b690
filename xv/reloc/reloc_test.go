//go:build !plan9

package reloc

import (
	"slices"
	"testing"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

var (
	from = abi.First
	to   = abi.Home{Base: 0x2000_0000, CacheSize: from.CacheSize}
	move = Move{from, to}
)

func TestAddr(t *testing.T) {
	for _, c := range []struct{ addr, want uint64 }{
		{from.Base - 1, from.Base - 1},
		{from.Base, to.Base},
		{from.Agent() + 0x123, to.Agent() + 0x123},
		{from.Contexts(), to.Contexts()},
		{from.Slot(5) + abi.Scratch, to.Slot(5) + abi.Scratch},
		{from.Hash() - 1, to.Hash() - 1},
		{from.Hash(), from.Hash()},
		{from.Cache() + 0x40, from.Cache() + 0x40},
		{0, 0},
		{^uint64(0), ^uint64(0)},
	} {
		if got := move.Addr(c.addr); got != c.want {
			t.Errorf("Addr(%#x) = %#x, want %#x", c.addr, got, c.want)
		}
	}
	for addr, want := range map[uint64]bool{from.Base - 1: false, from.Base: true, from.Cache(): true, from.End() - 1: true, from.End(): false} {
		if move.Left(addr) != want {
			t.Errorf("Left(%#x) is not %v", addr, want)
		}
	}
}

// TestContext checks that no word of a context is left that says where the region was, and that the others stay.
func TestContext(t *testing.T) {
	ctx := make([]byte, abi.SlotSize)
	slot := from.Slot(3)
	words := map[int]uint64{
		abi.Self: slot, abi.AgentSP: slot + abi.AgentStack, abi.SigStack: slot + abi.AltStack, abi.Frame: slot + abi.AltStackEnd - 1000,
		abi.Child: from.Slot(4), abi.RIP: from.Cache() + 0x100, abi.Call + 8: slot + abi.Scratch, abi.Vector + 16: slot + abi.Scratch,
	}
	for off, v := range words {
		put(ctx, off, v)
	}
	others := []int{abi.S, abi.T, abi.GuestGS, abi.Next, abi.RAX, abi.R15, abi.RFLAGS, abi.Mask, abi.Call}
	for _, off := range others {
		put(ctx, off, 0x1111_2222_0000+uint64(off))
	}
	move.Context(ctx)
	move.Words(ctx, func(off int) { t.Errorf("the word at %#x is %#x", off, word(ctx, off)) })
	for _, off := range []int{abi.Self, abi.AgentSP, abi.SigStack, abi.Frame, abi.Child, abi.Call + 8} {
		if got, want := word(ctx, off), words[off]-from.Base+to.Base; got != want {
			t.Errorf("the word at %#x is %#x, want %#x", off, got, want)
		}
	}
	for _, off := range others {
		if got := word(ctx, off); got != 0x1111_2222_0000+uint64(off) {
			t.Errorf("the word at %#x has changed to %#x", off, got)
		}
	}
}

func TestWords(t *testing.T) {
	mem := make([]byte, 68)
	put(mem, 8, from.Base)
	put(mem, 24, from.End())
	put(mem, 40, from.End()-1)
	put(mem, 60, from.Base) // not aligned
	var got []int
	move.Words(mem, func(off int) { got = append(got, off) })
	if want := []int{8, 40}; !slices.Equal(got, want) {
		t.Errorf("words at %v, want %v", got, want)
	}
}

// zones are those of homes that are far, and of others.
var zones = map[bool]Zone{false: Low, true: Far}

func TestChoose(t *testing.T) {
	small := abi.Home{Base: 0x4000_0000, CacheSize: 0x10_0000}
	size := small.End() - small.Base
	free := uint64(abi.LowEnd) - abi.NearFirst
	for _, c := range []struct {
		name   string
		used   []loader.VMA
		lo, hi uint64 // bounds of Base
		ok     bool
	}{
		{"far", []loader.VMA{{Start: abi.NearFirst, End: abi.LowEnd}, {Start: Far.Lo + 0x1234_5000, End: Far.Hi}}, Far.Lo, Far.Lo + 0x1234_5000 - size, true},
		{"empty", nil, abi.NearFirst, abi.LowEnd - size, true},
		{"one place", []loader.VMA{{Start: abi.NearFirst + size, End: abi.LowEnd}}, abi.NearFirst, abi.NearFirst, true},
		{"two places", []loader.VMA{{Start: 0, End: abi.LowEnd - size - 0x1000}}, abi.LowEnd - size - 0x1000, abi.LowEnd - size, true},
		{"none", []loader.VMA{{Start: abi.NearFirst + size - 0x1000, End: abi.LowEnd - size + 0x1000}}, 0, 0, false},
		{"overlap", []loader.VMA{{Start: 0, End: abi.NearFirst + 0x1000}, {Start: abi.NearFirst + free/2, End: 1 << 40}}, abi.NearFirst + 0x1000, abi.NearFirst + free/2 - size, true},
	} {
		seen := map[uint64]bool{}
		for range 200 {
			home, ok := Choose(c.used, small, zones[c.lo >= Far.Lo])
			if ok != c.ok {
				t.Fatalf("%s: %v", c.name, ok)
			}
			if !ok {
				break
			}
			seen[home.Base] = true
			if home.Base < c.lo || home.Base > c.hi || home.Base%abi.PageSize != 0 || home.CacheSize != small.CacheSize {
				t.Fatalf("%s: %+v", c.name, home)
			}
			for _, v := range c.used {
				if v.Start < home.End() && v.End > home.Base {
					t.Fatalf("%s: %#x is not free", c.name, home.Base)
				}
			}
		}
		if places := (c.hi-c.lo)/abi.PageSize + 1; c.ok && len(seen) < int(min(places, 20)) {
			t.Errorf("%s: %d places in 200 tries", c.name, len(seen))
		}
	}
}

func TestAway(t *testing.T) {
	full := abi.Home{Base: 0x4000_0000, CacheSize: abi.MaxCache}
	size := full.End() - full.Base
	half := abi.Home{CacheSize: abi.MaxCache / 2}.End()
	least := abi.Home{CacheSize: abi.MinCache}.End()
	own := loader.VMA{Start: full.Base, End: full.End()}
	mapped := func(lo, hi uint64) loader.VMA { return loader.VMA{Start: lo, End: hi} }
	for _, c := range []struct {
		name   string
		used   []loader.VMA
		zone   Zone
		lo, hi uint64
		base   uint64
		cache  uint64 // 0: there is no place
	}{
		{"highest", nil, Low, 0, 0, abi.LowEnd - size, abi.MaxCache},
		{"below", []loader.VMA{own}, Low, 0x4800_0000, 0x4900_0000, abi.NearFirst, abi.MaxCache},
		{"above", []loader.VMA{mapped(abi.NearFirst, 0x3000_0000)}, Low, 0x3000_0000, 0x3100_0000, abi.LowEnd - size, abi.MaxCache},
		{"the one free place is asked for", []loader.VMA{mapped(0, 0x5ffc_0000)}, Low, 0x6000_0000, 0x6100_0000, abi.LowEnd - half, abi.MaxCache / 2},
		{"less", []loader.VMA{mapped(abi.NearFirst, 0x3000_0000), own}, Low, 0x3000_0000, 0x5000_0000, abi.LowEnd - half, abi.MaxCache / 2},
		{"least", []loader.VMA{mapped(abi.NearFirst, abi.LowEnd-least)}, Low, 0x5000_0000, 0x5000_1000, abi.LowEnd - least, abi.MinCache},
		{"none", []loader.VMA{mapped(abi.NearFirst, abi.LowEnd-least+abi.PageSize)}, Low, 0x5000_0000, 0x5000_1000, 0, 0},
		{"all is asked for", nil, Low, abi.NearFirst, abi.LowEnd, 0, 0},
		{"and more", nil, Low, 0, 1 << 40, 0, 0},
		{"far", []loader.VMA{own}, Far, 0, 1 << 40, Far.Hi - size, abi.MaxCache},
		{"farther", nil, Far, Far.Hi - 0x1000, Far.Hi, Far.Lo, abi.MaxCache},
	} {
		home, ok := Away(c.used, full, c.zone, c.lo, c.hi)
		if ok != (c.cache != 0) || ok && (home.Base != c.base || home.CacheSize != c.cache) {
			t.Errorf("%s: %#x, cache %#x, %v; want %#x, cache %#x", c.name, home.Base, home.CacheSize, ok, c.base, c.cache)
		}
	}
	small := full
	small.CacheSize = 0x10_0000
	if home, ok := Away(nil, small, Low, 0, 0); !ok || home.CacheSize != small.CacheSize {
		t.Errorf("a small cache: %+v, %v", home, ok)
	}
}
