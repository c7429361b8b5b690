//go:build linux && amd64

package virt

import (
	"slices"
	"testing"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

func TestExtentWithout(t *testing.T) {
	for _, c := range []struct {
		other extent
		want  []extent
	}{
		{extent{0, 10}, []extent{{10, 20}}},
		{extent{20, 30}, []extent{{10, 20}}},
		{extent{0, 15}, []extent{{15, 20}}},
		{extent{15, 30}, []extent{{10, 15}}},
		{extent{12, 15}, []extent{{10, 12}, {15, 20}}},
		{extent{10, 20}, nil},
		{extent{0, 30}, nil},
	} {
		if got := (extent{10, 20}).without(c.other); !slices.Equal(got, c.want) {
			t.Errorf("without %v: %v, want %v", c.other, got, c.want)
		}
	}
}

// TestAwayFrom looks for a place for a region with one context in use.
func TestAwayFrom(t *testing.T) {
	s := newSession(&Config{})
	s.nextSlot = 2
	const used = 0x102_0000 // of the region
	vma := func(lo, hi uint64) loader.VMA { return loader.VMA{Start: lo, End: hi} }
	home := func(base, cache uint64) abi.Home {
		return abi.Home{Base: base, CacheSize: cache}
	}
	for _, c := range []struct {
		name   string
		from   abi.Home
		others []loader.VMA
		lo, hi uint64
		want   abi.Home // zero: none
	}{
		{"elsewhere", home(0x4000_0000, abi.MaxCache), nil, 0x4000_0000, 0x4100_0000, home(abi.NearFirst, abi.MaxCache)},
		{"grows", home(0x6dfc_0000, 32<<20), nil, 0x7000_0000, 0x7100_0000, home(abi.NearFirst, abi.MaxCache)},
		{"overlaps", home(0x5ffc_0000, abi.MaxCache), []loader.VMA{vma(abi.NearFirst, 0x5ffc_0000)}, 0x5000_0000, 0x6000_0000,
			home(abi.HomeEnd-0x1800_0000, abi.MaxCache/2)},
		{"stays", home(0x6000_0000, 128<<20), []loader.VMA{vma(abi.NearFirst, 0x6000_0000), vma(0x7800_0000, abi.HomeEnd)}, 0x7200_0000, 0x7300_0000,
			home(0x6000_0000, 32<<20)},
		{"has no room", home(0x6000_0000, 128<<20), []loader.VMA{vma(abi.NearFirst, 0x6000_0000), vma(0x7800_0000, abi.HomeEnd)}, 0x7000_0000, 0x7300_0000,
			abi.Home{}},
		{"has none for what is in use", home(0x6000_0000, abi.MinCache), []loader.VMA{vma(abi.NearFirst, 0x6000_0000), vma(0x6000_0000+used+0x1100_0000-abi.PageSize, abi.HomeEnd)},
			0x6000_0000, 0x6000_1000, abi.Home{}},
	} {
		maps := append(slices.Clone(c.others), vma(c.from.Base, c.from.End()))
		slices.SortFunc(maps, func(a, b loader.VMA) int { return int(a.Start) - int(b.Start) })
		got, ok := s.awayFrom(maps, c.from, c.lo, c.hi)
		if ok != (c.want != abi.Home{}) || ok && got != c.want {
			t.Errorf("%s: %#x, cache %#x, %v; want %#x, cache %#x", c.name, got.Base, got.CacheSize, ok, c.want.Base, c.want.CacheSize)
		}
	}
}
