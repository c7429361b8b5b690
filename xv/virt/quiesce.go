//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
	"xvrun/xv/tcache"
)

// When the cache is full, stale memory of it is used again. A thread could still be there, or could be
// about to go there, because an answer with such an address was given to it. So each answer notes the
// generation of the cache in which its address was looked up, and memory is used again when every
// thread
//
//   - was answered in a generation after the memory was first asked for,
//   - or sleeps in a system call: it comes back by a lookup table,
//   - or is parked: its handler holds the original state and waits for room in the cache.
//
// Threads of which none of that holds are kicked: a signal makes them ask for a new address.

// quiesce is asked, with the cache locked, before the stale memory [lo, hi) of it is used again.
func (c *codeSpace) quiesce(lo, hi uint32) bool {
	since, ok := c.asked[lo]
	if !ok {
		since = c.generation.Add(1)
		c.asked[lo] = since
	}
	quiet := true
	for _, th := range c.s.threadsIn(c) {
		if th.answered.Load() >= since || th.parked.Load() || th.away.Load() || th.ctx.u32(abi.InGate) != 0 {
			continue
		}
		quiet = false
		if th.ctx.u32(abi.State) == abi.StateRun {
			th.kick()
		}
	}
	if quiet {
		delete(c.asked, lo)
	}
	return quiet
}

// threadsIn lists the threads that execute from a cache.
func (s *Session) threadsIn(c *codeSpace) []*thread {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*thread
	for _, p := range s.processes {
		if p.as.code != c || p.dead.Load() {
			continue
		}
		for th := range p.threads {
			list = append(list, th)
		}
	}
	return list
}

// kick makes th enter the agent soon. It is called again until th has been answered.
func (th *thread) kick() {
	sig := kickSignal
	blocked := th.guestMask()&bit(int(kickSignal)) != 0
	if th.kicking.Swap(true) && (!blocked || time.Since(th.kicked) < kickPatience) {
		return // it is on its way
	}
	if blocked {
		sig = unix.SIGTRAP
	}
	th.kicked = time.Now()
	var si siginfo
	code := int32(kickCode)
	binary.LittleEndian.PutUint32(si[0:], uint32(sig))
	binary.LittleEndian.PutUint32(si[8:], uint32(code))
	binary.LittleEndian.PutUint64(si[24:], kickValue)
	// A thread that has just ended needs no kick.
	unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(th.p.pid), uintptr(th.tid), uintptr(sig), uintptr(unsafe.Pointer(&si)), 0, 0)
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

// lookup asks the translation cache at which cache address th can continue at the original address orig, and waits for
// room in it when it is full.
func (th *thread) lookup(orig uint64, f func(*tcache.Space) (uint32, error)) (cache uint64, err error) {
	as := th.p.as
	for full := time.Now(); ; {
		if th.zero(orig) {
			return 0, nil
		}
		func() {
			c := as.enter()
			defer as.exit()
			th.looked, th.absent = c.generation.Load(), 0
			var off uint32
			off, err = f(c.space)
			cache = c.home.Cache() + uint64(off)
		}()
		if err != nil && th.awaitPage() {
			continue
		}
		if !errors.Is(err, tcache.ErrFull) {
			th.parked.Store(false)
			return cache, err
		}
		if th.p.dead.Load() || th.dead.Load() {
			panic(gone{})
		}
		th.parked.Store(true)
		th.server.leave()
		time.Sleep(100 * time.Microsecond)
		th.server.enter()
		if time.Since(full) > sharePatience {
			if err := as.privatize(th); err != nil {
				th.p.s.trace("%d: the translation cache is full: %v", th.tid, err)
			}
			full = time.Now()
		}
	}
}

// sharePatience is how long a thread waits for room in a cache that other processes use too. One of them may be stopped.
const sharePatience = 20 * time.Millisecond
