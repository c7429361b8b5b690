//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// Some programs take memory at fixed addresses where lookup tables are: AddressSanitizer takes most of what is below 2^44. Natively
// nothing is there. What is only reserved (PROT_NONE) needs no memory. For the rest the guest is given the places of table J of near code
// that doesn't exist, by grains, which then stay without code.

// isGiven reports whether the place of the table J of an address is the guest's. The entries of the null page are those of the
// hash, which is in the region. The caller holds farMu.
func (c *codeSpace) isGiven(addr uint64) bool {
	return addr >= abi.NearStart && addr < abi.NearEnd && c.given>>(addr/farGrain)&1 != 0
}

// givenCode lists the near addresses that must have no code, because the guest has memory where they are looked up.
func (as *addressSpace) givenCode() (list []loader.VMA) {
	c := as.enter()
	defer as.exit()
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	for at := uint64(0); at < abi.NearEnd; at += farGrain {
		if c.isGiven(at + farGrain - 1) {
			list = append(list, loader.VMA{Start: at, End: at + farGrain})
		}
	}
	return list
}

// giveTables gives the guest the parts of table J that are in [lo, hi), where it maps memory. It reports whether it could: where it can't,
// there is code in these grains, or something else of xv in [lo, hi).
func (th *thread) giveTables(lo, hi uint64) bool {
	as := th.p.as
	if err := as.privatize(th); err != nil {
		th.p.s.trace("%d: %v", th.tid, err)
		return false
	}
	c := as.enter()
	defer as.exit()
	c.covering.Lock()
	defer c.covering.Unlock()
	first, end := abi.Entry(0), abi.Entry(abi.NearEnd)
	if lo >= end || hi <= first || as.looksUp(c.home, lo, hi) {
		return false
	}
	from := (max(lo, first) - first) / abi.EntrySize / farGrain
	to := (min(hi, end) - first + abi.EntrySize*farGrain - 1) / abi.EntrySize / farGrain
	if as.hasCode(from*farGrain, to*farGrain) {
		return false
	}
	c.farMu.Lock()
	defer c.farMu.Unlock()
	before := c.given
	for grain := from; grain < to; grain++ {
		c.given |= 1 << grain
	}
	if c.tablesIn(lo, hi) {
		c.given = before
		return false
	}
	return true
}

// reserveAround ends the mmap k of [lo, hi), where xv has lookup tables, which asks for memory without permissions at that place.
func (th *thread) reserveAround(regs *registers, k call, lo, hi uint64) {
	as := th.p.as
	for _, part := range as.around(lo, hi) {
		th.loseCode(part.lo, part.hi)
		k.args[0], k.args[1] = part.lo, part.hi-part.lo
		if r := th.remote(k)[0]; failed(r) {
			th.result(regs, r)
			return
		}
		as.forget(part.lo, part.hi)
	}
	if as.files.Load() {
		as.mappedShared()
	}
	th.result(regs, int64(lo))
}

// onlyReserves reports whether an mmap with this protection and these flags asks for addresses and not for memory.
func onlyReserves(prot, flags uint64) bool {
	return prot == unix.PROT_NONE && flags&unix.MAP_ANONYMOUS != 0
}
