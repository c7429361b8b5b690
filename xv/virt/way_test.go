//go:build linux && amd64

package virt

import (
	"slices"
	"testing"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/reloc"
	"xvrun/xv/translate"
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

// TestAwayFrom looks for a place for a region.
func TestAwayFrom(t *testing.T) {
	vma := func(lo, hi uint64) loader.VMA { return loader.VMA{Start: lo, End: hi} }
	for _, c := range []struct {
		name   string
		cfg    Config
		from   uint64
		others []loader.VMA
		lo, hi uint64
		want   uint64
	}{
		{"elsewhere", Config{}, 0x4000_0000, nil, 0x4000_0000, 0x4100_0000, abi.LowEnd - 0x2000_0000},
		{"far", Config{}, 0x4000_0000, []loader.VMA{vma(abi.NearFirst, 0x4000_0000), vma(0x6000_0000, 0x6010_0000)}, 0x6010_0000, 0x7000_0000, reloc.Far.Hi - 0x2000_0000},
		{"low again", Config{}, 0x3f12_5000_0000, nil, 0x3f12_6000_0000, 0x3f12_7000_0000, abi.NearFirst},
		{"far as it is configured", Config{FarRegion: true}, 0x3f12_5000_0000, nil, 0x3f12_6000_0000, 0x3f12_7000_0000, reloc.Far.Hi - 0x2000_0000},
	} {
		from := abi.Home{Base: c.from, CacheSize: 32 << 20}
		maps := append(slices.Clone(c.others), vma(from.Base, from.End()))
		slices.SortFunc(maps, compareMappings)
		got, ok := newSession(&c.cfg).awayFrom(maps, from, c.lo, c.hi)
		if !ok || got.Base != c.want || got.CacheSize != abi.MaxCache {
			t.Errorf("%s: %#x, cache %#x, %v; want %#x", c.name, got.Base, got.CacheSize, ok, c.want)
		}
	}
}

// TestRoomier grows the cache of a region whose cache is full.
func TestRoomier(t *testing.T) {
	vma := func(lo, hi uint64) loader.VMA { return loader.VMA{Start: lo, End: hi} }
	for _, c := range []struct {
		name        string
		base, cache uint64
		others      []loader.VMA
		want        abi.Home
	}{
		{"where it is", 0x4000_0000, 32 << 20, nil, abi.Home{Base: 0x4000_0000, CacheSize: abi.MaxCache}},
		{"is the largest", 0x4000_0000, abi.MaxCache, nil, abi.Home{Base: 0x4000_0000, CacheSize: abi.MaxCache}},
		{"elsewhere", 0x4000_0000, 32 << 20, []loader.VMA{vma(0x5200_0000, 0x5300_0000)}, abi.Home{Base: 0x5ffc_0000, CacheSize: abi.MaxCache}},
		{"far", 0x4000_0000, 32 << 20, []loader.VMA{vma(0x5200_0000, 0x7000_0000)}, abi.Home{Base: reloc.Far.Lo, CacheSize: abi.MaxCache}},
		{"far, where it is", reloc.Far.Lo, 32 << 20, nil, abi.Home{Base: reloc.Far.Lo, CacheSize: abi.MaxCache}},
	} {
		from := abi.Home{Base: c.base, CacheSize: c.cache}
		maps := append(slices.Clone(c.others), vma(from.Base, from.End()))
		if c.name == "far" {
			maps = append(maps, vma(abi.NearFirst, 0x3000_0000), vma(reloc.Far.Lo+0x2000_0000, reloc.Far.Hi))
		}
		slices.SortFunc(maps, compareMappings)
		if got := newSession(&Config{}).roomier(maps, from); got != c.want {
			t.Errorf("%s: %#x, cache %#x; want %#x, cache %#x", c.name, got.Base, got.CacheSize, c.want.Base, c.want.CacheSize)
		}
	}
}

// TestBesideLookups takes for used where code is looked up.
func TestBesideLookups(t *testing.T) {
	maps := []loader.VMA{{Start: 0x1000, End: 0x2000}, {Start: 0x7000_0000_0000, End: 0x7000_0000_1000}}
	code := ranges{{0x40_0000, 0x50_0000, 5}, {0x600_0000_0000, 0x600_0000_1000, 5}, {0xf00_0000_0000, 0xf00_0000_1000, 5}, {0x7f00_0000_0000, 0x7f00_0000_1000, 5}}
	var got []extent
	for _, v := range besideLookups(maps, code) {
		got = append(got, extent{v.Start, v.End})
	}
	want := []extent{
		{0x1000, 0x2000}, {0x3000_7ffc_0000, 0x3000_7ffc_8000}, {0x3002_7ffc_0000, 0x3002_7ffc_8000}, {0x7000_0000_0000, 0x7000_0000_1000},
		{0x7800_7ffc_0000, 0x7800_7ffc_8000}, {0x7802_7ffc_0000, 0x7802_7ffc_8000},
	}
	if hasVsyscalls() {
		want = slices.Insert(want, 1, extent{0x7afc_0000, 0x7afc_8000})
	}
	if !slices.Equal(got, want) {
		t.Errorf("%#x, want %#x", got, want)
	}
}

// TestRemembersMuch counts a list of return sites that several places share once.
func TestRemembersMuch(t *testing.T) {
	large := make([]translate.Entry, formerSites/2)
	shared := []formerPlace{{1, 2, large}, {3, 4, large}, {5, 6, large}}
	if remembersMuch(nil) || remembersMuch(shared) || remembersMuch(append(shared, formerPlace{lo: 7, hi: 8})) {
		t.Error("too much")
	}
	if !remembersMuch(append(shared, formerPlace{7, 8, make([]translate.Entry, formerSites/2)})) || !remembersMuch(make([]formerPlace, formerPlaces)) {
		t.Error("never too much")
	}
}
