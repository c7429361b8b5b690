//go:build linux && amd64

package virt

import (
	"cmp"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// Code outside the near zone ("far") has tables for each farGrain bytes of it. Table C of code is where table J of the code
// CallBias above would be; where a guest has code at both places the lookups of neither may find an entry, because they
// might mean the other one. Such a grain is blocked: its tables' places hold memory without permissions, every lookup
// there faults, and the branch uses the hash from then on (see tcache.Space.Hash).
//
// Table J of code between 1 GiB and 2 GiB is at the place of table C of the near zone, which is mapped although hardly any of its addresses
// has code: it takes that place, and is blocked when there is near code whose calls would find it.

// farGrain is the code that one pair of far tables covers, in bytes; a power of two.
const farGrain = 16 << 20

// farSize is the size of one table of a grain, in bytes.
const farSize = abi.EntrySize * farGrain

// maxFar is the largest range of code that gets tables: in a larger one there is code CallBias apart.
const maxFar = translate.CallBias

// farTable is the tables of a grain, or says that it is blocked.
type farTable struct {
	lo     uint64  // original address, a multiple of farGrain
	object *shared // table J, then C; nil if blocked
}

// farRecord is what another supervisor is told of a farTable.
type farRecord struct {
	Lo      uint64
	Blocked bool
}

// allocate makes the tables.
func (f *farTable) allocate() (err error) {
	f.object, err = newShared("xv-tables-far", 2*farSize, true)
	return err
}

func (f *farTable) blocked() bool { return f.object == nil }

func (f *farTable) close() {
	if !f.blocked() {
		f.object.close()
	}
}

// slot is codeSpace.slot for an address in the grain; f may be nil.
func (f *farTable) slot(addr uint64, isCall bool) *uint64 {
	if f == nil || f.blocked() {
		return nil
	}
	off := abi.EntrySize * (addr - f.lo)
	if isCall {
		off += farSize
	}
	return (*uint64)(unsafe.Pointer(&f.object.view[off]))
}

// places is where the tables J and C of the grain at lo are in the guest.
func places(home abi.Home, lo uint64) [2]uint64 {
	return [2]uint64{abi.Entry(lo), abi.Entry(lo + translate.CallBias)}
}

// overlaps reports whether the grain's lookups look into [lo, hi) of the guest's memory.
func (f *farTable) overlaps(home abi.Home, lo, hi uint64) bool {
	for _, at := range places(home, f.lo) {
		if lo < at+farSize && hi > at {
			return true
		}
	}
	return false
}

// parts is what must be mapped for the grain; nothing if it is blocked, which a copy of an address space is as well.
func (f *farTable) parts(home abi.Home, flags uint64) (list []mapping) {
	if f.blocked() {
		return nil
	}
	for i, at := range places(home, f.lo) {
		list = append(list, mapping{f.object, at, farSize, uint64(i) * farSize, unix.PROT_READ, flags})
	}
	return list
}

// farAt returns the grain of an address, nil if there is none. The caller holds farMu.
func (c *codeSpace) farAt(addr uint64) *farTable {
	for i := range c.far {
		if c.far[i].lo == addr&^(farGrain-1) {
			return &c.far[i]
		}
	}
	return nil
}

// hasFar reports whether farAt finds something.
func (c *codeSpace) hasFar(addr uint64) bool {
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	return c.farAt(addr) != nil
}

// cloneFar makes empty tables for the same grains.
func cloneFar(list []farTable) (clones []farTable, err error) {
	for _, f := range list {
		t := farTable{lo: f.lo}
		if !f.blocked() {
			err = t.allocate()
		}
		if err != nil {
			break
		}
		clones = append(clones, t)
	}
	return clones, err
}

// coverFar maps lookup tables for code outside the near zone, or blocks its lookups.
func (th *thread) coverFar(lo, hi uint64) {
	c := th.p.as.enter()
	defer th.p.as.exit()
	c.covering.Lock()
	defer c.covering.Unlock()
	for at := lo &^ (farGrain - 1); at < hi; at += farGrain {
		if c.hasFar(at) {
			continue
		}
		err := error(unix.EFBIG)
		if hi-lo <= maxFar {
			err = th.addFar(c, at)
		}
		if err != nil {
			err = th.blockFar(c, at)
		}
		if err != nil { // see lookupsFault
			th.p.s.trace("%d: tables for %#x: %v", th.tid, at, err)
		}
	}
}

// addFar maps the tables of the grain at lo, if their places are free. The caller holds covering.
func (th *thread) addFar(c *codeSpace, lo uint64) error {
	f := farTable{lo: lo}
	if err := f.allocate(); err != nil {
		return err
	}
	for i, part := range f.parts(c.home, unix.MAP_FIXED_NOREPLACE) {
		if i == 0 && c.overNear(lo) {
			part.flags = unix.MAP_FIXED
		}
		if err := th.mapShared(part); err != nil {
			if i > 0 {
				th.unmapJ(c, lo)
			}
			f.close()
			return err
		}
	}
	c.append(f)
	return nil
}

// overNear reports whether table J of the grain at lo has the place of a part of table C of the near zone.
func (c *codeSpace) overNear(lo uint64) bool {
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	return lo >= abi.NearEnd && c.hasNear(lo-translate.CallBias)
}

// unmapJ takes back that something was mapped where table J of the grain at lo is, which is not in c.far.
func (th *thread) unmapJ(c *codeSpace, lo uint64) {
	if !c.overNear(lo) {
		th.remote(call{unix.SYS_MUNMAP, [6]uint64{places(c.home, lo)[0], farSize}})
		return
	}
	near := max(lo-translate.CallBias, abi.NearStart)
	if err := th.mapShared(c.tableParts(near, lo+farGrain-translate.CallBias, unix.MAP_FIXED)...); err != nil {
		th.p.s.fail(th.p, fmt.Errorf("the lookup tables of process %d: %w", th.p.pid, err))
		panic(gone{})
	}
}

// besideLookups are mappings in ascending order, with where xv looks up the guest's code as if it were mapped: whether tables are
// there, or the lookups fault, the region can't be. f is the form of its code.
func (as *addressSpace) besideLookups(maps []loader.VMA, f form) []loader.VMA {
	if f.hashed {
		return maps
	}
	as.readRanges()
	defer as.rangesMu.RUnlock()
	return besideLookups(maps, as.ranges)
}

func besideLookups(maps []loader.VMA, code ranges) []loader.VMA {
	all := slices.Clone(maps)
	if hasVsyscalls() { // its lookup wraps around
		at := abi.Entry(vsyscallPage)
		all = append(all, loader.VMA{Start: at, End: at + abi.EntrySize*pageSize})
	}
	for _, r := range code {
		for _, at := range lookups(r.lo, r.hi) {
			if at.hi > abi.TablesEnd {
				all = append(all, loader.VMA{Start: at.lo, End: at.hi})
			}
		}
	}
	slices.SortFunc(all, compareMappings)
	return all
}

// compareMappings orders mappings.
func compareMappings(a, b loader.VMA) int { return cmp.Compare(a.Start, b.Start) }

// lookups are where the entries of code in [lo, hi) are in the tables J and C, or would be.
func lookups(lo, hi uint64) (list []extent) {
	for _, bias := range []uint64{0, translate.CallBias} {
		if first := abi.Entry(lo + bias); first < userLimit {
			list = append(list, extent{first, min(abi.Entry(hi+bias), userLimit)})
		}
	}
	return list
}

// keepApart blocks the far grains with code whose table J has the place of table C of near code, when [lo, hi) has become executable.
func (th *thread) keepApart(c *codeSpace, lo, hi uint64) {
	if lo >= 2*abi.NearEnd || c.hashed {
		return
	}
	c.covering.Lock()
	defer c.covering.Unlock()
	for at := lo &^ (farGrain - 1); at < min(hi, 2*abi.NearEnd); at += farGrain {
		near, far := at, at+translate.CallBias
		if at >= abi.NearEnd {
			near, far = at-translate.CallBias, at
		}
		if c.hasFar(far) && th.p.as.hasCode(near, near+farGrain) {
			th.block(c, far)
		}
	}
}

// append adds a grain. The caller holds covering.
func (c *codeSpace) append(f farTable) {
	c.farMu.Lock()
	defer c.farMu.Unlock()
	c.far = append(c.far, f)
}

// blockFar blocks the lookups of the grain at lo, and of those whose tables are at the places of its own. The caller holds covering.
func (th *thread) blockFar(c *codeSpace, lo uint64) error {
	at := places(c.home, lo)
	neighbours := [...]uint64{lo - translate.CallBias, lo + translate.CallBias} // C of the one is at at[0], J of the other at at[1]
	for i, other := range neighbours {
		if c.hasFar(other) {
			th.block(c, other)
			continue
		}
		// Not of the guest's memory, so that it stays out of its list of mappings; the offsets let the kernel join neighbours.
		part := mapping{c.tables, at[i], farSize, at[i] - abi.Table, unix.PROT_NONE, unix.MAP_FIXED_NOREPLACE}
		if i == 0 && c.overNear(lo) {
			part.flags = unix.MAP_FIXED
		}
		if err := th.mapShared(part); err != nil {
			if i > 0 && !c.hasFar(neighbours[0]) {
				th.unmapJ(c, lo)
			}
			return err
		}
	}
	c.append(farTable{lo: lo})
	return nil
}

// block blocks a grain that has tables. Nothing in it is translated any more when they go.
func (th *thread) block(c *codeSpace, lo uint64) {
	c.space.InvalidateThen(lo, lo+farGrain, func() {
		c.farMu.Lock()
		defer c.farMu.Unlock()
		f := c.farAt(lo)
		if f.blocked() {
			return
		}
		for _, at := range places(c.home, lo) {
			th.remote(call{unix.SYS_MPROTECT, [6]uint64{at, farSize, unix.PROT_NONE}})
		}
		f.object.close()
		f.object = nil
	})
}
