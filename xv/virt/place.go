//go:build linux && amd64

package virt

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// maxNearMapping is the largest mapping that is placed in the near zone because it may be executed.
const maxNearMapping = 64 << 20

// place maps at an address of our choice what is or may become code, so that the lookup tables cover
// it; done is false if the kernel may choose.
func (th *thread) place(k call, lo, hi, prot, flags uint64) (r int64, done bool) {
	size := hi - lo
	anonymous := flags&unix.MAP_ANONYMOUS != 0
	image := !anonymous && flags&unix.MAP_PRIVATE != 0 && (prot&unix.PROT_EXEC != 0 || th.isELF(k.args[4]))
	reservation := anonymous && prot == unix.PROT_NONE
	if reservation && meant(lo) && !th.p.as.reserved(lo, hi) {
		if r, ok := th.placeAt(k, lo); ok {
			return r, true
		}
	}
	switch {
	case th.p.s.cfg.HighImages && flags&unix.MAP_32BIT == 0 && (image || prot&unix.PROT_EXEC != 0):
		if r, ok := th.placeIn(k, lo, size, farHigh); ok {
			return r, true
		}
	case flags&unix.MAP_32BIT != 0, image, prot&unix.PROT_EXEC != 0 && size <= maxNearMapping:
		for _, in := range []int{nearLow, nearHigh, anyLow} {
			if r, ok := th.placeIn(k, lo, size, in); ok {
				return r, true
			}
		}
		if flags&unix.MAP_32BIT != 0 {
			return -int64(unix.ENOMEM), true
		}
		fallthrough
	case prot&unix.PROT_EXEC != 0, reservation:
		if r, ok := th.placeIn(k, lo, size, farHigh); ok {
			return r, true
		}
	}
	return 0, false
}

// meant reports whether a hint for a reservation is honoured, as the kernel does if the place is free. A garbage collector with
// coloured pointers needs its memory at round addresses. Engines that generate code take random ones, which are not
// better than ours: above abi.FarEnd no tables cover code.
func meant(hint uint64) bool { return hint != 0 && (hint < abi.FarEnd || hint%(1<<40) == 0) }

// placeAt does the mmap k at an address if it is free.
func (th *thread) placeAt(k call, addr uint64) (int64, bool) {
	k.args[0] = addr
	k.args[3] |= unix.MAP_FIXED_NOREPLACE
	r := th.remote(k)[0]
	return r, r != -int64(unix.EEXIST)
}

// farStart is where the memory begins that code may be generated into outside the near zone. The
// tables of [farStart, abi.FarEnd) are above 2^45, out of the way of what a guest maps at fixed low
// addresses. Powers of two are left to garbage collectors with coloured pointers, see meant.
const farStart = 5 << 40

// zone is a part of the address space where mappings are placed.
type zone struct {
	lo, hi uint64
	first  uint64 // where the search for free memory begins
	fit    fit
}

const (
	nearLow = iota
	nearHigh
	anyLow
	farHigh
)

var zones = [...]zone{
	nearLow:  {abi.NearStart, abi.NearFirst, nearImages, aligned(pageSize)},
	nearHigh: {abi.NearFirst, abi.NearEnd, abi.NearFirst, aligned(pageSize)},
	anyLow:   {abi.NearStart, abi.LowEnd, abi.NearEnd, aligned(pageSize)}, // also where it crosses the border of the others
	farHigh:  {farStart, abi.FarEnd, farStart, striped},
}

// fit returns the lowest address from at on that suits something of that size.
type fit func(at, size uint64) uint64

// aligned is the fit of multiples of align, a power of two.
func aligned(align uint64) fit {
	return func(at, size uint64) uint64 { return (at + align - 1) &^ (align - 1) }
}

// striped leaves every other stripe of the addresses free, so that no code is CallBias from other code, whose tables would overlap
// its own (see blockFar). What is larger than a stripe is placed anywhere.
func striped(at, size uint64) uint64 {
	const stripe = translate.CallBias
	at = (at + pageSize - 1) &^ (pageSize - 1)
	if size <= stripe && (at|at+size-1)&stripe != 0 {
		at = at&^(2*stripe-1) + 2*stripe
	}
	return at
}

// placeIn does the mmap k at a free address of a zone, at hint if possible.
func (th *thread) placeIn(k call, hint, size uint64, in int) (int64, bool) {
	k.args[3] &^= unix.MAP_32BIT
	z, next := &zones[in], &th.p.as.next[in]
	if hint >= z.lo && hint+size <= z.hi && hint != 0 {
		if r, ok := th.placeAt(k, hint); ok {
			return r, true
		}
	}
	if at := next.Load(); at != 0 && at < z.hi && size <= z.hi-at && z.fit(at, size) == at {
		if r, ok := th.placeAt(k, at); ok {
			next.Store(at + size)
			return r, true
		}
	}
	for range 4 { // another thread may map there at the same time
		maps, err := th.maps()
		if err != nil {
			return 0, false
		}
		maps = besides(append(maps, th.p.as.givenCode()...), th.home(), th.p.as.codeIn(0, 2*abi.NearEnd))
		addr, ok := findGap(maps, size, z.fit, z.first, z.hi)
		if !ok {
			addr, ok = findGap(maps, size, z.fit, z.lo, z.hi)
		}
		if !ok {
			return 0, false
		}
		if r, ok := th.placeAt(k, addr); ok {
			next.Store(addr + size)
			return r, true
		}
	}
	return 0, false
}

// freed notes that a mapping that began at lo is gone: new ones take the lowest memory that is known to be free, so that they need
// few lookup tables.
func (as *addressSpace) freed(lo uint64) {
	for i, z := range zones {
		if z.first <= lo && lo < as.next[i].Load() {
			as.next[i].Store(lo)
		}
	}
}

// findGap finds size bytes of [lo, hi) that no mapping has.
func findGap(maps []loader.VMA, size uint64, fit fit, lo, hi uint64) (uint64, bool) {
	at := fit(lo, size)
	for _, v := range maps {
		if v.End <= at {
			continue
		}
		if v.Start >= at && v.Start-at >= size {
			break
		}
		at = fit(v.End, size)
	}
	return at, at >= lo && at < hi && hi-at >= size
}

// besides are mappings in any order, in that of their starts, with what no code should be placed over: the region of a home, what would be looked
// up there, and what has its tables where code below 2 GiB has them (see keepApart).
func besides(maps []loader.VMA, home abi.Home, code ranges) []loader.VMA {
	all := append(slices.Clone(maps), loader.VMA{Start: home.Base, End: home.End()})
	for _, c := range code {
		lo, hi := c.lo&^(farGrain-1), (c.hi+farGrain-1)&^(farGrain-1)
		if lo >= abi.NearEnd {
			all = append(all, loader.VMA{Start: lo - translate.CallBias, End: hi - translate.CallBias})
		} else {
			all = append(all, loader.VMA{Start: lo + translate.CallBias, End: hi + translate.CallBias})
		}
	}
	if home.Base >= abi.TablesEnd { // its region is not to be looked into
		for _, bias := range []uint64{0, translate.CallBias} {
			lo, hi := (home.Base-abi.Table)/abi.EntrySize-bias, (home.End()-abi.Table)/abi.EntrySize-bias
			all = append(all, loader.VMA{Start: lo &^ (pageSize - 1), End: pageUp(hi)})
		}
	}
	slices.SortFunc(all, compareMappings)
	return all
}

// imageGap returns a function that gives out disjoint ranges for images: in the near zone, or, where a program takes that, in the
// next best; if high is true in the last.
func imageGap(maps []loader.VMA, high bool) func(size, align uint64) (uint64, error) {
	next, from := uint64(0), zones[:]
	if high {
		from = zones[farHigh:]
	}
	return func(size, align uint64) (uint64, error) {
		fit := aligned(max(align, pageSize))
		for _, z := range from {
			if at, ok := findGap(maps, size, fit, max(next, z.first), z.hi); ok {
				next = at + size
				return at, nil
			}
		}
		return 0, fmt.Errorf("no %d bytes below %#x for an image", size, uint64(abi.FarEnd))
	}
}
