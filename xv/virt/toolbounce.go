//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/trap"
)

// bounce is memory that a system call is given instead of memory that a tool watches, which so stays closed however long the call sleeps. What
// the call reads is copied before, what it has stored then.
type bounce struct {
	arg       int    // of the call, which is changed
	at, size  uint64 // the mapping, in the guest
	to        uint64 // the memory of the guest
	length    uint64 // in bytes
	unit      uint64 // bytes that the call has stored for each of its result
	fromGuest bool   // it only reads
}

// bounced are the system calls that may sleep with one buffer, the first of their uses, and store as much there as their result says; with the
// bytes for each.
var bounced = map[uintptr]uint64{
	unix.SYS_READ: 1, unix.SYS_PREAD64: 1, unix.SYS_RECVFROM: 1, unix.SYS_EPOLL_WAIT: 12,
	unix.SYS_WRITE: 1, unix.SYS_PWRITE64: 1, unix.SYS_SENDTO: 1,
}

// maxBounce bounds what is copied, in bytes. Larger buffers are opened.
const maxBounce = 1 << 20

// bounceOff prepares the system call k, which may use pages that are watched, to be done with other memory. It reports false if that can't be.
func (th *thread) bounceOff(k call, pages []toolPage) bool {
	unit, ok := bounced[k.nr]
	if !ok || len(pages) == 0 {
		return false
	}
	list := th.spans(k)
	sp := list[0]
	need := loaderProt(sp.access)
	if sp.hi <= sp.lo || sp.hi-sp.lo > maxBounce || !th.permitsAll(sp.lo, sp.hi, need) {
		return false
	}
	for _, p := range pages {
		for _, other := range list[1:] {
			if other.lo < p.hi && p.lo < other.hi {
				return false
			}
		}
	}
	within := sp.lo % pageSize // as it was: some files take aligned buffers only
	b := bounce{arg: uses[k.nr][0].arg, size: (within + sp.hi - sp.lo + pageSize - 1) &^ (pageSize - 1), to: sp.lo, length: sp.hi - sp.lo,
		unit: unit, fromGuest: sp.access == trap.Read}
	r := th.remote(call{unix.SYS_MMAP, [6]uint64{0, b.size, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, ^uint64(0)}})[0]
	if failed(r) {
		return false
	}
	b.at = uint64(r)
	th.remote(call{unix.SYS_MADVISE, [6]uint64{b.at, b.size, unix.MADV_DONTFORK}})
	th.bounce = &b
	if b.fromGuest && !th.copyWithin(b.at+within, b.to, b.length) {
		th.unbounce(0)
		return false
	}
	return true
}

// call is k with the other memory.
func (b *bounce) call(k call) call {
	k.args[b.arg] = b.at + b.to%pageSize
	return k
}

// endBounce is called with the next request of a thread whose system call was given other memory.
func (th *thread) endBounce() {
	result := int64(0)
	switch th.ctx.u32(abi.Kind) {
	case abi.KindDone:
		result = int64(th.ctx.u64(abi.Call + callResult))
	case abi.KindSignal:
		f, err := th.frame()
		if err != nil {
			break // it fails for that
		}
		switch agent.PlaceOf(f.reg(frRIP) - th.home().Agent()) {
		case agent.AfterGate2:
			result = int64(f.reg(frRAX))
		case agent.StoredGate2:
			result = int64(th.ctx.u64(abi.Call + callResult))
		}
	}
	th.unbounce(result)
}

// unbounce ends what bounceOff has prepared, when the call has this result.
func (th *thread) unbounce(result int64) {
	b := th.bounce
	th.bounce = nil
	if result > 0 && !b.fromGuest {
		n := min(uint64(min(result, maxBounce))*b.unit, b.length)
		if !th.copyWithin(b.to, b.at+b.to%pageSize, n) {
			th.p.s.trace("%d: memory at %#x went away in a system call", th.tid, b.to)
		}
	}
	th.remote(call{unix.SYS_MUNMAP, [6]uint64{b.at, b.size}})
}

// copyWithin copies memory of the guest.
func (th *thread) copyWithin(to, from, n uint64) bool {
	b := make([]byte, n)
	return th.read(from, b) == len(b) && th.write(to, b)
}

// permitsAll reports whether the guest itself has given all of [lo, hi) a permission.
func (th *thread) permitsAll(lo, hi uint64, need int) bool {
	known := th.p.as.shadowOf()
	vmas, err := th.maps()
	if err != nil {
		return false
	}
	home := th.home()
	for page := lo &^ (pageSize - 1); page < hi; page += pageSize {
		if r, ok := known.find(page); ok {
			if r.prot&need == 0 {
				return false
			}
			continue
		}
		ok := false
		for _, v := range vmas {
			ok = ok || v.Contains(page) && !isOurs(home, v) && th.p.as.meant(v, page)&need != 0
		}
		if !ok {
			return false
		}
	}
	return true
}

// loaderProt is the permission that an access takes.
func loaderProt(access trap.Access) int {
	if access&trap.Write != 0 {
		return unix.PROT_WRITE
	}
	return unix.PROT_READ
}
