//go:build linux && amd64

package virt

import (
	"cmp"
	"slices"
	"unsafe"

	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

// Where calls leave the return addresses of translated code (NativeReturns), threads come out of that code in two more ways:
//
//   - by a return to an original address: one that the guest has made, or that of a frame of a signal or of the kernel,
//   - by a return or jump to a place that the cache has left.
//
// Both fault where they go to, as a missed indirect branch does at address 0, and go on at the translation of the original address. So no
// return address need be found when the cache moves; only that of a former place must stay known, see formerPlace.

// formerPlace is where the cache of an address space was, with return sites whose addresses the guest may still have.
type formerPlace struct {
	lo, hi uint64            // as much as was in use
	sites  []translate.Entry // in order of Off, from lo; nil: those of the present cache, which was moved
}

// An address space has at most formerPlaces of them, with formerSites return sites (16 bytes each). Then its calls leave original return
// addresses.
const (
	formerPlaces = 4096
	formerSites  = 4 << 20
)

// remembersMuch reports whether no more places can be remembered.
func remembersMuch(former []formerPlace) bool {
	sites := 0
	for i, f := range former {
		if i == 0 || unsafe.SliceData(f.sites) != unsafe.SliceData(former[i-1].sites) { // not the same list
			sites += len(f.sites)
		}
	}
	return len(former) >= formerPlaces || sites >= formerSites
}

// leavePlace notes that the cache is leaving a home. discarded says that what it holds is not taken along. The caller holds as.mu.
func (as *addressSpace) leavePlace(c *codeSpace, discarded bool) {
	if !c.native {
		return
	}
	as.former = append(as.former, c.place())
	if discarded {
		sites := c.space.ReturnSites()
		for i := range as.former {
			if as.former[i].sites == nil {
				as.former[i].sites = sites
			}
		}
	}
}

// place is where the cache is, as a place that it leaves.
func (c *codeSpace) place() formerPlace {
	return formerPlace{lo: c.home.Cache(), hi: c.home.Cache() + uint64(c.space.Extent())}
}

// originalReturn returns the original address for the address of a return site, in the present cache or at a former place.
func (as *addressSpace) originalReturn(addr uint64) (orig uint64, ok bool) {
	c := as.enter()
	defer as.exit()
	if c.native && c.home.InCache(addr) {
		if orig, ok := c.space.ReturnsTo(uint32(addr - c.home.Cache())); ok {
			return orig, true
		}
	}
	for _, f := range slices.Backward(as.former) {
		if addr < f.lo || addr >= f.hi {
			continue
		}
		off := uint32(addr - f.lo)
		if f.sites == nil {
			return c.space.ReturnsTo(off)
		}
		i, ok := slices.BinarySearchFunc(f.sites, off, func(e translate.Entry, off uint32) int { return cmp.Compare(e.Off, off) })
		if ok {
			return f.sites[i].Addr, true
		}
	}
	return 0, false
}

// original is originalReturn, or addr itself.
func (as *addressSpace) original(addr uint64) uint64 {
	if orig, ok := as.originalReturn(addr); ok {
		return orig
	}
	return addr
}

// nativeReturns reports whether calls leave the return addresses of translated code. It may be called when no process is left.
func (as *addressSpace) nativeReturns() bool {
	as.mu.RLock()
	defer as.mu.RUnlock()
	return !as.closed && as.code.native
}

// leavesCode reports whether threads may come out of translated code by going elsewhere than to address 0.
func (as *addressSpace) leavesCode() bool {
	c := as.enter()
	defer as.exit()
	return c.native || len(as.former) > 0
}

// returned makes regs the state after a return, or a jump, that left translated code for an address where there is none of xv.
func (th *thread) returned(regs *registers) position {
	regs.rip = th.p.as.original(regs.rip)
	regs.gpr[rcx] = th.ctx.u64(abi.S)
	return atMiss
}

// jumpedBack is called when the guest has taken the address of a return site for a jump: it has read return addresses.
func (th *thread) jumpedBack() { th.p.s.readsReturns(th.p, "it jumps to a return address") }

// alias has the hash lead to orig from where the thread has jumped to by it, if that is a return site with another address: longjmp
// comes there again and again.
func (th *thread) alias(f frame, orig uint64) {
	target := th.ctx.u64(abi.T)
	if f.reg(frRIP) != 0 || f.reg(frRCX) != 0 || target == orig {
		return
	}
	if site, ok := th.p.as.originalReturn(target); ok && site == orig {
		c := th.p.as.enter()
		defer th.p.as.exit()
		if err := c.space.Alias(codeReader{th}, orig, target); err != nil {
			th.p.s.trace("%d: %v", th.tid, err) // it traps again
		}
	}
}

// returnEntry is what a signal frame has as the return address of its handler, which is to return to orig. As the return address of a
// call it is that of translated code, once orig is translated: until then the return traps.
func (as *addressSpace) returnEntry(orig uint64) uint64 {
	c := as.enter()
	defer as.exit()
	if !c.native {
		return orig
	}
	off, ok := c.space.ReturnEntry(orig)
	if !ok {
		return orig
	}
	return c.home.Cache() + uint64(off)
}
