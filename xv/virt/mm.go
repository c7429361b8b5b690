//go:build linux && amd64

package virt

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
)

const maxLen = 1 << 47

// pages rounds [addr, addr+length) out to pages; ok is false if it is no range of user memory.
func pages(addr, length uint64) (lo, hi uint64, ok bool) {
	if length == 0 || length > maxLen || addr > maxLen {
		return 0, 0, false
	}
	return addr &^ (pageSize - 1), (addr + length + pageSize - 1) &^ (pageSize - 1), true
}

// reserved reports whether [lo, hi) touches memory of xv.
func (as *addressSpace) reserved(lo, hi uint64) bool {
	return as.inRegion(lo, hi) || as.inTables(lo, hi)
}

// inTables reports whether [lo, hi) touches lookup tables, or what must stay free in their stead.
func (as *addressSpace) inTables(lo, hi uint64) bool {
	c := as.enter()
	defer as.exit()
	if c.hashed {
		return false
	}
	if as.looksUp(c.home, lo, hi) {
		return true
	}
	c.farMu.RLock()
	defer c.farMu.RUnlock()
	return c.tablesIn(lo, hi)
}

// tablesIn reports whether there are places of lookup tables in [lo, hi). The caller holds farMu.
func (c *codeSpace) tablesIn(lo, hi uint64) bool {
	overlaps := func(m mapping) bool { return lo < m.addr+m.size && hi > m.addr }
	return slices.ContainsFunc(c.nearParts(0), overlaps) ||
		slices.ContainsFunc(c.far, func(f farTable) bool { return f.overlaps(c.home, lo, hi) })
}

// looksUp reports whether the lookup of code that no tables cover would read memory of [lo, hi): it must fault.
func (as *addressSpace) looksUp(home abi.Home, lo, hi uint64) bool {
	as.readRanges()
	defer as.rangesMu.RUnlock()
	for _, r := range slices.Backward(as.ranges) {
		if r.hi <= abi.FarEnd {
			break
		}
		for _, bias := range []uint64{0, translate.CallBias} {
			if lo < abi.Entry(r.hi+bias) && hi > abi.Entry(r.lo+bias) {
				return true
			}
		}
	}
	return false
}

// hasCode reports whether the guest may execute any of [lo, hi).
func (as *addressSpace) hasCode(lo, hi uint64) bool {
	as.readRanges()
	defer as.rangesMu.RUnlock()
	return as.ranges.overlaps(lo, hi)
}

// writableCode reports whether the guest may write and execute some page.
func (as *addressSpace) writableCode() bool {
	as.readRanges()
	defer as.rangesMu.RUnlock()
	for _, r := range as.ranges {
		if r.prot&unix.PROT_WRITE != 0 {
			return true
		}
	}
	return false
}

// notExecutable takes [lo, hi) from what the guest may execute. It reports whether there was any.
func (th *thread) notExecutable(lo, hi uint64) bool {
	as := th.p.as
	if !as.hasCode(lo, hi) {
		return false
	}
	if err := as.privatize(th); err != nil {
		th.p.s.fail(th.p, err)
		panic(gone{})
	}
	c := as.enter()
	defer as.exit()
	as.rangesMu.Lock()
	ended := as.endToggles(lo, hi)
	as.ranges = as.ranges.without(lo, hi)
	for page := range as.protected {
		if lo <= page && page < hi {
			delete(as.protected, page)
		}
	}
	as.rangesMu.Unlock()
	as.dispose(c, ended)
	return true
}

// loseCode drops the translations of [lo, hi), which is unmapped, and all that is known of it.
func (th *thread) loseCode(lo, hi uint64) {
	had := th.notExecutable(lo, hi)
	c := th.p.as.enter()
	defer th.p.as.exit()
	c.volatile.remove(lo, hi)
	th.p.as.untoggle(c, lo, hi)
	if had {
		c.warm.forgetFiles(lo, hi)
		c.space.Invalidate(lo, hi)
	}
}

// suspendCode makes [lo, hi) not executable for the time being: programs that generate code take the permission away
// while they write, and the translations of what they have not changed are used again. Checks read the code.
func (th *thread) suspendCode(lo, hi uint64, readable bool) {
	if !th.notExecutable(lo, hi) {
		return
	}
	c := th.p.as.enter()
	defer th.p.as.exit()
	_, shared := c.volatile.covers(lo, hi)
	c.volatile.add(lo, hi, shared)
	c.warm.forgetFiles(lo, hi)
	if readable {
		c.space.Suspend(lo, hi)
	} else {
		c.space.Invalidate(lo, hi)
	}
}

// gainCode makes [lo, hi) executable with the protection that the guest sees.
func (th *thread) gainCode(lo, hi uint64, prot int) {
	as := th.p.as
	if err := as.privatize(th); err != nil {
		th.p.s.fail(th.p, err)
		panic(gone{})
	}
	switch {
	case as.isHashed():
	case lo >= abi.NearEnd && hi <= abi.FarEnd:
		th.coverFar(lo, hi)
	case hi > abi.NearFirst && lo < abi.NearEnd:
		th.coverUpper()
	}
	if err := th.lookupsFault(lo, hi); err != nil {
		th.p.s.fail(th.p, err)
		panic(gone{})
	}
	c := as.enter()
	known, shared := c.volatile.covers(lo, hi)
	shared = shared || !known && as.files.Load() && th.isShared(lo, hi)
	if shared || prot&unix.PROT_WRITE != 0 {
		c.volatile.add(lo, hi, shared)
	}
	as.rangesMu.Lock()
	ended := as.endToggles(lo, hi)
	as.ranges = as.ranges.with(lo, hi, prot)
	as.rangesMu.Unlock()
	as.dispose(c, ended)
	th.keepApart(c, lo, hi)
	c.space.Resume(lo, hi)
	as.exit()
	if th.p.s.cfg.Trace != nil {
		th.p.s.trace("%d: executable %#x-%#x protection %d", th.tid, lo, hi, prot)
	}
}

// guestProt is the protection that the guest means.
func (as *addressSpace) guestProt(prot uint64) uint64 {
	if as.readExec.Load() && prot&unix.PROT_READ != 0 {
		prot |= unix.PROT_EXEC
	}
	return prot
}

// kernelProt is the protection that the kernel gets for the guest's: never executable, and readable
// where the guest may execute, because the supervisor reads it.
func kernelProt(prot uint64) uint64 {
	if prot&unix.PROT_EXEC != 0 {
		prot |= unix.PROT_READ
	}
	return prot &^ unix.PROT_EXEC
}

func (th *thread) mmap(regs *registers) {
	a := th.args(regs)
	lo, hi, ok := pages(a[0], a[1])
	prot, flags := th.p.as.guestProt(a[2]), a[3]
	k := call{unix.SYS_MMAP, a}
	k.args[2] = kernelProt(prot)
	if !ok || flags&(unix.MAP_FIXED|unix.MAP_FIXED_NOREPLACE) != 0 && a[0]%pageSize != 0 {
		th.finish(regs, k) // the kernel says what is wrong
		return
	}
	as := th.p.as
	over := hi
	if flags&unix.MAP_FIXED == 0 {
		over = lo
	}
	if !th.fits(hi-lo, lo, over) {
		th.result(regs, -int64(unix.ENOMEM))
		return
	}
	if as.refusesGain(0, 0, prot) {
		th.result(regs, -int64(unix.EACCES))
		return
	}
	if prot&unix.PROT_EXEC != 0 && !(th.mayRead(codeFile(a)) && th.makeWayForCode(lo, hi, flags&(unix.MAP_FIXED|unix.MAP_FIXED_NOREPLACE) != 0)) || !th.makeWay(lo, hi, claimOf(flags)) {
		return
	}
	if as.lockNew.Load() {
		k.args[3] |= unix.MAP_LOCKED
	}
	finish := th.finish
	if as.mapsShared(prot, flags) {
		finish = th.finishShared
	}
	if flags&(unix.MAP_FIXED|unix.MAP_FIXED_NOREPLACE) != 0 {
		if as.reserved(lo, hi) {
			switch {
			case flags&unix.MAP_FIXED_NOREPLACE != 0:
				th.result(regs, -int64(unix.EEXIST))
				return
			case as.inRegion(lo, hi):
				th.result(regs, -int64(unix.ENOMEM))
				return
			case onlyReserves(prot, flags):
				th.reserveAround(regs, k, lo, hi)
				return
			case !th.giveTables(lo, hi):
				if err := th.dropTables(); err != nil {
					th.p.s.trace("%d: %v", th.tid, err)
					th.result(regs, -int64(unix.ENOMEM))
				}
				return
			}
		}
		if flags&unix.MAP_FIXED_NOREPLACE == 0 {
			if prot&unix.PROT_EXEC == 0 {
				th.spareImages(lo, hi, regs.rip)
			}
			th.loseCode(lo, hi)
		}
		if as.covers(lo, hi) && flags&unix.MAP_FIXED_NOREPLACE == 0 {
			finish = func(regs *registers, k call) {
				r := th.remote(k)[0]
				if !failed(r) {
					as.forget(lo, hi)
				}
				if as.files.Load() {
					as.mappedShared()
				}
				th.mapped2(regs, k, r, int(prot))
			}
			finish(regs, k)
			return
		}
		if prot&unix.PROT_EXEC == 0 {
			finish(regs, k)
			return
		}
		th.mapped2(regs, k, th.remote(k)[0], int(prot))
		return
	}
	r, done := th.place(k, lo, hi, prot, flags)
	if !done {
		if as.reserved(lo, hi) {
			k.args[0] = 0
		}
		finish(regs, k)
		return
	}
	th.mapped2(regs, k, r, int(prot))
}

// codeFile is the descriptor of the file that an mmap with these arguments maps, -1 if it maps none.
func codeFile(args [6]uint64) int32 {
	if args[3]&unix.MAP_ANONYMOUS != 0 {
		return -1
	}
	return int32(args[4])
}

// claimOf is the claim that an mmap with these flags has to its address.
func claimOf(flags uint64) claim {
	switch {
	case flags&unix.MAP_FIXED_NOREPLACE != 0:
		return unless
	case flags&unix.MAP_FIXED != 0:
		return replace
	}
	return hint
}

// mapped2 ends the mmap k with its result.
func (th *thread) mapped2(regs *registers, k call, r int64, prot int) {
	if (r >= 0 || r < -4095) && prot&unix.PROT_EXEC != 0 {
		lo, hi, _ := pages(uint64(r), k.args[1])
		th.gainCode(lo, hi, prot)
		if flags := k.args[3]; flags&(unix.MAP_ANONYMOUS|unix.MAP_SHARED) == 0 {
			th.mappedCode(lo, hi, prot, fmt.Sprintf("/proc/%d/fd/%d", th.tid, int32(k.args[4])), 0, k.args[5])
		}
	}
	th.result(regs, r)
}

// isELF reports whether descriptor fd of the guest is an ELF file: its other segments will be mapped
// at fixed distances from the first, which need not be executable.
func (th *thread) isELF(fd uint64) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", th.tid, int32(fd)))
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	n, _ := f.ReadAt(magic[:], 0)
	return n == 4 && bytes.Equal(magic[:], []byte("\x7fELF"))
}

func (th *thread) munmap(regs *registers) {
	a := th.args(regs)
	lo, hi, ok := pages(a[0], a[1])
	if ok && a[0]%pageSize == 0 {
		if th.p.as.reserved(lo, hi) {
			th.unmapAround(regs, lo, hi)
			return
		}
		th.loseCode(lo, hi)
		th.p.as.freed(lo)
		if th.p.as.covers(lo, hi) {
			r := th.remote(call{unix.SYS_MUNMAP, a})[0]
			if !failed(r) {
				th.p.as.forget(lo, hi)
			}
			th.result(regs, r)
			return
		}
	}
	th.finish(regs, call{unix.SYS_MUNMAP, a})
}

// unmapAround ends an munmap of [lo, hi), where xv has memory too.
func (th *thread) unmapAround(regs *registers, lo, hi uint64) {
	for _, part := range th.p.as.around(lo, hi) {
		th.loseCode(part.lo, part.hi)
		th.p.as.freed(part.lo)
		if r := th.remote(call{unix.SYS_MUNMAP, [6]uint64{part.lo, part.hi - part.lo}})[0]; failed(r) {
			th.result(regs, r)
			return
		}
		th.p.as.forget(part.lo, part.hi)
	}
	th.result(regs, 0)
}

func (th *thread) mremap(regs *registers) {
	a := th.args(regs)
	as := th.p.as
	lo, hi, ok := pages(a[0], max(a[1], 1))
	_, newHi, newOK := pages(a[4], a[2])
	fixed := a[3]&unix.MREMAP_FIXED != 0
	switch grown := a[0] + pageUp(a[2]); {
	case ok && as.reserved(lo, hi): // no mapping
		th.result(regs, -int64(unix.EFAULT))
		return
	case fixed && newOK && !th.makeWayInTables(a[4], newHi):
		return
	case fixed && newOK && as.inTables(a[4], newHi):
		th.result(regs, -int64(unix.EINVAL))
		return
	case fixed && newOK && !th.makeWay(a[4], newHi, replace):
		return
	case fixed && ok && newOK && as.hasCode(lo, hi) && !th.makeWayForCode(a[4], newHi, true):
		return
	case ok && a[3] == 0 && grown > hi && !th.makeWay(hi, grown, unless):
		return
	}
	if a[2] > a[1] && !th.fits(pageUp(a[2]-a[1]), 0, 0) {
		th.result(regs, -int64(unix.ENOMEM))
		return
	}
	if fixed && newOK {
		th.loseCode(a[4], newHi)
		as.forget(a[4]&^(pageSize-1), newHi)
	}
	if ok {
		th.uncoverAll(lo, hi)
		as.forget(lo, hi)
		as.untoggle(as.enter(), lo, hi)
		as.exit()
	}
	as.readRanges()
	code, isCode := as.ranges.find(lo)
	as.rangesMu.RUnlock()
	if !ok || !isCode {
		th.finish(regs, call{unix.SYS_MREMAP, a})
		return
	}
	th.loseCode(lo, hi)
	r := th.remote(call{unix.SYS_MREMAP, a})[0]
	switch {
	case r < 0 && r > -4096:
		th.gainCode(lo, hi, code.prot)
	default:
		if newLo, newHi, ok := pages(uint64(r), a[2]); ok {
			th.gainCode(newLo, newHi, code.prot)
		}
	}
	th.result(regs, r)
}

// madvDontneedLocked is MADV_DONTNEED_LOCKED.
const madvDontneedLocked = 24

// madvise drops the translations of code that it throws away.
func (th *thread) madvise(regs *registers) {
	a := th.args(regs)
	k := call{unix.SYS_MADVISE, a}
	lo, hi, ok := pages(a[0], a[1])
	discards := true
	switch a[2] {
	case unix.MADV_DONTNEED, madvDontneedLocked, unix.MADV_FREE, unix.MADV_REMOVE:
	default:
		discards = false
	}
	as := th.p.as
	if ok && a[0]%pageSize == 0 && as.reserved(lo, hi) {
		th.adviseAround(regs, k, lo, hi, discards)
		return
	}
	if !ok || !discards || !as.hasCode(lo, hi) {
		th.finish(regs, k)
		return
	}
	if err := as.privatize(th); err != nil {
		th.p.s.fail(th.p, err)
		panic(gone{})
	}
	r := th.remote(k)[0]
	as.enter().space.Invalidate(lo, hi)
	as.exit()
	th.result(regs, r)
}

// adviseAround ends the madvise k of [lo, hi), where xv has memory too: natively it meets holes there, and fails when it has done the rest.
func (th *thread) adviseAround(regs *registers, k call, lo, hi uint64, discards bool) {
	as := th.p.as
	for _, part := range as.around(lo, hi) {
		if discards && as.hasCode(part.lo, part.hi) {
			if err := as.privatize(th); err != nil {
				th.p.s.fail(th.p, err)
				panic(gone{})
			}
		}
		k.args[0], k.args[1] = part.lo, part.hi-part.lo
		r := th.remote(k)[0]
		if discards {
			as.enter().space.Invalidate(part.lo, part.hi)
			as.exit()
		}
		if failed(r) && r != -int64(unix.ENOMEM) {
			th.result(regs, r)
			return
		}
	}
	th.result(regs, -int64(unix.ENOMEM))
}

// protect makes a page read-only before code is translated from it. It reports whether it could.
func (as *addressSpace) protect(th *thread, page uint64) bool {
	as.tools.mu.Lock()
	defer as.tools.mu.Unlock()
	as.rangesMu.Lock()
	_, done := as.protected[page]
	as.protected[page] = struct{}{}
	as.rangesMu.Unlock()
	prot := as.permitted(page, unix.PROT_READ)
	return done || th.remote(call{unix.SYS_MPROTECT, [6]uint64{page, pageSize, uint64(prot)}})[0] >= 0
}

// protectAliases makes other writable mappings of the file page behind a page read-only: a program
// that generates code may write it at one address and execute it at another.
func (as *addressSpace) protectAliases(th *thread, page uint64) bool {
	vmas, err := th.maps()
	if err != nil {
		return false
	}
	for _, alias := range aliasesOf(vmas, page, as.isProtected) {
		as.rangesMu.Lock()
		if !slices.Contains(as.aliases[alias], page) {
			as.aliases[alias] = append(as.aliases[alias], page)
		}
		as.rangesMu.Unlock()
		if !as.protect(th, alias) {
			return false
		}
	}
	return true
}

// aliasesOf lists the other pages that are the same page of a file, of writable mappings, or protected because of their own code.
func aliasesOf(vmas []loader.VMA, page uint64, protected func(page uint64) bool) (list []uint64) {
	i := slices.IndexFunc(vmas, func(v loader.VMA) bool { return v.Contains(page) })
	if i < 0 || !vmas[i].Shared || !vmas[i].File() {
		return nil
	}
	code := vmas[i]
	offset := code.Offset + page - code.Start
	for _, v := range vmas {
		if v.Shared && v.Dev == code.Dev && v.Inode == code.Inode && v.Offset <= offset && offset-v.Offset < v.Len() {
			if at := v.Start + offset - v.Offset; at != page && (v.Prot&loader.ProtWrite != 0 || protected(at)) {
				list = append(list, at)
			}
		}
	}
	return list
}

// mapsShared notes that a file, or memory for other processes too, is about to be mapped shared. It reports whether the
// mapping is one that shared code can be changed by: mappedShared must follow it.
func (as *addressSpace) mapsShared(prot, flags uint64) bool {
	return flags&unix.MAP_SHARED != 0 && as.files.Swap(true) && prot&unix.PROT_WRITE != 0
}

// finishShared is finish for what makes memory writable that may be mapped shared.
func (th *thread) finishShared(regs *registers, k call) {
	r := th.remote(k)[0]
	th.p.as.mappedShared()
	th.result(regs, r)
}

// mappedShared makes the shared code that has settled volatile: when it settles again, the new mapping is protected too.
func (as *addressSpace) mappedShared() {
	c := as.enter()
	defer as.exit()
	c.dropPages(c.volatile.unsettleShared())
}

// releaseShared makes the shared code that has settled volatile, because there will be another process that can write it, and
// its pages writable: what is mapped shared can't be written past its protection (writeOn), and is not protected again
// while there are several processes.
func (th *thread) releaseShared() {
	as := th.p.as
	c := as.enter()
	list := c.volatile.unsettleShared()
	c.dropPages(list)
	as.exit()
	as.rangesMu.RLock()
	for page, others := range as.aliases {
		if slices.ContainsFunc(others, func(code uint64) bool { return slices.Contains(list, code) }) {
			list = append(list, page)
		}
	}
	as.rangesMu.RUnlock()
	for _, page := range list {
		if as.isProtected(page) {
			as.unprotect(th, page)
		}
	}
}

// isProtected reports whether a page is read-only because code was translated from it.
func (as *addressSpace) isProtected(addr uint64) bool {
	as.rangesMu.RLock()
	defer as.rangesMu.RUnlock()
	_, ok := as.protected[addr&^(pageSize-1)]
	return ok
}

// unprotect makes a page writable again: its code, and that which it is another mapping of, is volatile from now on.
func (as *addressSpace) unprotect(th *thread, page uint64) {
	c := as.enter()
	defer as.exit()
	as.rangesMu.Lock()
	others := as.aliases[page]
	delete(as.aliases, page)
	as.rangesMu.Unlock()
	c.volatile.written(page)
	for _, other := range others {
		c.volatile.written(other)
	}
	c.space.InvalidateThen(page, page+pageSize, func() {
		as.tools.mu.Lock()
		defer as.tools.mu.Unlock()
		if !as.isProtected(page) {
			return
		}
		prot := as.permitted(page, unix.PROT_READ|unix.PROT_WRITE)
		th.remote(call{unix.SYS_MPROTECT, [6]uint64{page, pageSize, uint64(prot)}})
		// Only now: who meets a page that is read-only finds out why.
		as.rangesMu.Lock()
		delete(as.protected, page)
		as.rangesMu.Unlock()
	})
	for _, other := range others { // now that the page is writable: what settles again protects it again
		c.space.Invalidate(other, other+pageSize)
	}
}

// unprotectAny does it for all protected pages of [lo, hi); it reports whether there were any.
func (as *addressSpace) unprotectAny(th *thread, lo, hi uint64) bool {
	as.rangesMu.RLock()
	var list []uint64
	for page := range as.protected {
		if lo <= page && page < hi {
			list = append(list, page)
		}
	}
	as.rangesMu.RUnlock()
	for _, page := range list {
		as.unprotect(th, page)
	}
	return len(list) > 0
}
