//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

func (th *thread) mprotect(regs *registers) {
	a := th.args(regs)
	k := call{uintptr(regs.gpr[rax]), a}
	lo, hi, ok := pages(a[0], a[1])
	if !ok || a[0]%pageSize != 0 {
		th.finish(regs, k)
		return
	}
	as := th.p.as
	prot := as.guestProt(a[2])
	if as.refusesGain(lo, hi, prot) {
		th.result(regs, -int64(unix.EACCES))
		return
	}
	if prot&unix.PROT_EXEC != 0 && !(th.mayRead(-1) && th.makeWayForCode(lo, hi, true)) {
		return
	}
	k.args[2] = kernelProt(prot)
	r := codeRange{lo, hi, int(prot & (unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC))}
	var holes []extent
	if as.reserved(lo, hi) {
		holes = as.holes(lo, hi)
	}
	if len(holes) > 0 {
		r.hi = holes[0].lo
	}
	as.untoggleFor(r.lo, r.hi)
	switch {
	case len(holes) > 0:
		th.protectUpTo(regs, k, r)
	case prot&unix.PROT_EXEC == 0:
		r.prot = int(prot)
		th.makeData(regs, k, r)
	default:
		th.makeExecutable(regs, k, r)
	}
}

// protectUpTo ends the mprotect k, whose memory is xv's from r.hi on: natively it meets a hole there, and fails when it has changed
// what comes before.
func (th *thread) protectUpTo(regs *registers, k call, r codeRange) {
	errno := -int64(unix.ENOMEM)
	if r.lo < r.hi {
		k.args[1] = r.hi - r.lo
		a := attempt{r.lo, r.hi, th.p.as.codeIn(r.lo, r.hi)}
		th.suspendCode(r.lo, r.hi, r.prot&(unix.PROT_READ|unix.PROT_EXEC) != 0)
		switch result := th.protectMemory(k); {
		case failed(result):
			th.restoreCode(a, result)
			errno = result
		case r.prot&unix.PROT_EXEC != 0:
			th.gainCode(r.lo, r.hi, r.prot)
		}
		if th.p.as.files.Load() {
			th.p.as.mappedShared()
		}
	}
	th.result(regs, errno)
}

// codeIn lists what the guest may execute of [lo, hi).
func (as *addressSpace) codeIn(lo, hi uint64) ranges {
	as.readRanges()
	defer as.rangesMu.RUnlock()
	return as.ranges.within(lo, hi)
}

// makeData ends the mprotect k, which takes the permission to be executed from r.
func (th *thread) makeData(regs *registers, k call, r codeRange) {
	as := th.p.as
	isTurn := as.isTurn(k, r)
	a := attempt{r.lo, r.hi, as.codeIn(r.lo, r.hi)}
	th.suspendCode(r.lo, r.hi, r.prot&unix.PROT_READ != 0)
	covered := as.covers(r.lo, r.hi)
	mayShare := as.files.Load() && (covered || r.prot&unix.PROT_WRITE != 0)
	if !isTurn && !covered && !mayShare {
		th.attempt(regs, k, a)
		return
	}
	result := th.protectMemory(k)
	if mayShare {
		as.mappedShared()
	}
	switch {
	case failed(result):
		th.restoreCode(a, result)
	case isTurn:
		th.startToggle(r)
	}
	th.result(regs, result)
}

// makeExecutable ends the mprotect k, which makes r executable.
func (th *thread) makeExecutable(regs *registers, k call, r codeRange) {
	as := th.p.as
	before := as.codeIn(r.lo, r.hi)
	c := as.enter()
	volatile, _ := c.volatile.covers(r.lo, r.hi)
	as.exit()
	if volatile && len(before) == 0 && !as.covers(r.lo, r.hi) {
		// Code was suspended here, and is checked when it is executed now: it may be before the system call is done.
		th.gainCode(r.lo, r.hi, r.prot)
		th.attempt(regs, k, attempt{r.lo, r.hi, nil})
		return
	}
	th.suspendCode(r.lo, r.hi, true)
	errno := th.protectMemory(k)
	if errno == 0 {
		before = ranges{r}
	}
	for _, b := range before {
		th.gainCode(b.lo, b.hi, b.prot)
	}
	if as.covers(r.lo, r.hi) { // code is readable
		th.protectMemory(k)
	}
	th.result(regs, errno)
}

// attempt is an mprotect in OpAttempt: of [lo, hi), where before was executable.
type attempt struct {
	lo, hi uint64
	before ranges
}

// attempt ends a system call with the result of k, an mprotect, if that is no error; else attempted gets it.
func (th *thread) attempt(regs *registers, k call, a attempt) {
	th.attempting = a
	cache, err := th.jump(regs.rip)
	if err != nil || cache == 0 { // see zero: nothing may follow but a missed branch
		if errno := th.remote(k)[0]; errno < 0 {
			th.attempted(regs, errno)
		} else {
			th.result(regs, errno)
		}
		return
	}
	th.resuming = *regs
	th.ctx.setRegisters(regs, cache)
	th.ctx.setCall(abi.Call, k)
	th.reply(abi.OpAttempt, 0)
}

// attempted ends an mprotect that has failed.
func (th *thread) attempted(regs *registers, errno int64) {
	a := th.attempting
	th.suspendCode(a.lo, a.hi, true)
	th.restoreCode(a, errno)
	th.result(regs, errno)
}

// restoreCode makes executable again what an mprotect was to make data, but has failed. If it has met a hole (mprotect(2), ENOMEM), what
// lies before that is data now.
func (th *thread) restoreCode(a attempt, errno int64) {
	code := a.before
	if len(code) > 0 && errno == -int64(unix.ENOMEM) {
		if hole := th.holeFrom(a.lo); hole < a.hi {
			code = code.without(a.lo, hole)
		}
	}
	for _, c := range code {
		th.gainCode(c.lo, c.hi, c.prot)
	}
}

// holeFrom returns the first address from addr on that is not mapped.
func (th *thread) holeFrom(addr uint64) uint64 {
	for {
		v, ok, err := th.mappingFrom(addr)
		if err != nil || !ok || !v.Contains(addr) {
			return addr
		}
		addr = v.End
	}
}
