//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/xv/tcache"
)

// kick makes th enter the agent soon, with its original state. It is called again until th has been answered. When it returns, a kick has
// been sent.
func (th *thread) kick() {
	th.kickMu.Lock()
	defer th.kickMu.Unlock()
	sig := kickSignal
	blocked := th.guestMask()&bit(int(kickSignal)) != 0
	now := time.Since(th.p.s.started)
	if th.kicking.Swap(true) && (!blocked || now-time.Duration(th.kicked.Load()) < kickPatience) {
		return // it is on its way
	}
	if blocked {
		sig = unix.SIGTRAP
	}
	th.kicked.Store(int64(now))
	th.trapKick.Store(blocked)
	var si siginfo
	code := int32(kickCode)
	binary.LittleEndian.PutUint32(si[0:], uint32(sig))
	binary.LittleEndian.PutUint32(si[8:], uint32(code))
	binary.LittleEndian.PutUint64(si[24:], kickValue)
	// A thread that has just ended needs no kick.
	unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(th.p.pid), uintptr(th.tid), uintptr(sig), uintptr(unsafe.Pointer(&si)), 0, 0)
}

// kickBlocked reports whether a kick that is on its way to the thread does not reach it.
func (th *thread) kickBlocked() bool {
	return th.guestMask()&bit(int(kickSignal)) != 0 && !th.trapKick.Load()
}

// kickSignal is the first real-time signal. Such signals queue: a kick doesn't take the place of one of the guest's, as one of
// the standard signals would, which are pending once. The C libraries use it for themselves and don't let programs block it.
// Where one does, it is SIGTRAP, which the kernel never blocks.
const kickSignal = unix.Signal(32)

// kickPatience is how long after a kick another one may follow, because the first is blocked.
const kickPatience = time.Millisecond

// kickCode is the si_code of a kick, and kickValue its si_value. The kernel uses none of these.
const (
	kickCode  = -0x7876
	kickValue = 0x7876_6b69_636b
)

// isKick reports whether a signal is a kick on its way to th, which then is no longer. A kick asks for nothing but an
// answer, so that it does no harm if the guest sends one to itself.
func (th *thread) isKick(si *siginfo) bool {
	if si.code() != kickCode || binary.LittleEndian.Uint64(si[24:]) != kickValue {
		return false
	}
	th.kicking.Store(false)
	return true
}

// lookup asks the translation cache at which cache address th can continue at the original address orig. When the cache is full that is
// 0, as when the thread is drained: it comes back with a missed branch, which waits for room.
func (th *thread) lookup(orig uint64, f func(*tcache.Space) (uint32, error)) (cache uint64, err error) {
	as := th.p.as
	for {
		if th.zero(orig) {
			return 0, nil
		}
		var c *codeSpace
		func() {
			c = as.enter()
			defer as.exit()
			th.absent = 0
			var off uint32
			off, err = f(c.space)
			cache = c.home.Cache() + uint64(off)
		}()
		switch {
		case err != nil && th.awaitPage():
		case errors.Is(err, tcache.ErrFull):
			th.askForRoom(c)
			th.zeroed.Store(true)
			return 0, nil
		default:
			th.wantsRoom.Store(false)
			return cache, err
		}
	}
}
