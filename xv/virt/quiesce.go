//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
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

// quiesce is asked, with the cache locked, before the stale memory [lo, hi) is used again.
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

// kick makes th enter the agent soon.
func (th *thread) kick() {
	if time.Since(th.kicked) < time.Millisecond {
		return
	}
	th.kicked = time.Now()
	var si siginfo
	binary.LittleEndian.PutUint32(si[0:], uint32(unix.SIGTRAP))
	code := int32(kickCode)
	binary.LittleEndian.PutUint32(si[8:], uint32(code))
	if th.kickID.Load() == 0 {
		th.kickID.Store(rand.Uint64() | 1)
	}
	binary.LittleEndian.PutUint64(si[24:], th.kickID.Load()) // si_value
	// A thread that has just ended needs no kick.
	unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(th.p.pid), uintptr(th.tid), uintptr(unix.SIGTRAP), uintptr(unsafe.Pointer(&si)), 0, 0)
}

// kickCode is the si_code of a kick; the kernel uses none of these.
const kickCode = -0x7876

// isKick reports whether a signal is the kick on its way to th, which then is no longer.
func (th *thread) isKick(si *siginfo) bool {
	id := binary.LittleEndian.Uint64(si[24:])
	return unix.Signal(si.signo()) == unix.SIGTRAP && si.code() == kickCode && id != 0 && th.kickID.CompareAndSwap(id, 0)
}

// lookup asks the translation cache where th can continue at the original address orig, and waits for
// room in it when it is full.
func (th *thread) lookup(orig uint64, f func(*tcache.Space) (uint32, error)) (uint32, error) {
	as := th.p.as
	for {
		if th.zero(orig) {
			return 0, nil
		}
		cache, err := func() (uint32, error) {
			c := as.enter()
			defer as.exit()
			th.looked = c.generation.Load()
			return f(c.space)
		}()
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
	}
}
