//go:build linux && amd64

package virt

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// Draining brings every thread of the guest to a state of which the supervisor knows nothing that it
// could not tell another one. All translations go stale, and nothing is translated any more: a thread
// that would continue at an original address is sent to address 0 with that address in rcx, as if a lookup
// table had no entry for it, and comes back with a request that waits. So each thread ends up
//
//   - with a request that says all: a system call, or a missed branch; it waits,
//   - in a system call, from which it comes back by the tables, which are empty,
//   - or in one that the supervisor passed on, whose end is a request, see passed.

// errBusy says that some thread did not get that far: it is stopped, say.
var errBusy = errors.New("threads of the guest cannot be brought to a known state")

// drainLimit is how long drain waits for threads. One that runs gets there within microseconds.
const drainLimit = time.Second

// drain stops the service. If it fails, undrain must follow as well.
func (s *Session) drain() error {
	s.draining.Store(true)
	deadline := time.Now().Add(drainLimit)
	for round := 0; ; round++ {
		if round%8 == 0 { // also what a handler translated that had begun before
			s.eachCode(func(c *codeSpace) { c.space.Flush() })
		}
		if s.still() {
			s.resting.Store(true)
			s.ringAll()
			for _, b := range s.bells {
				b.servers.Wait()
			}
			if s.still() {
				return nil
			}
			return errBusy
		}
		if time.Now().After(deadline) {
			return errBusy
		}
		time.Sleep(time.Millisecond)
	}
}

// undrain goes on with the service.
func (s *Session) undrain() {
	s.draining.Store(false)
	s.serveAgain(s.allThreads())
	if s.resting.Swap(false) {
		s.startServers()
	}
}

// serveAgain lets threads go on that were drained.
func (s *Session) serveAgain(list []*thread) {
	for _, th := range list {
		th.zeroed.Store(false)
		if th.waits.Swap(false) {
			s.requeue(th)
		}
	}
}

// still reports whether every thread is in a state that drain brings it to, and no process or program
// is being started.
func (s *Session) still() bool {
	for _, p := range s.alive() {
		if p.executing.Load() {
			return false
		}
	}
	for _, th := range s.allThreads() {
		switch {
		case th.waits.Load() || th.zeroed.Load() || th.away.Load():
		case th.ctx.u32(abi.InGate) == 0 || th.ctx.u32(abi.State) != abi.StateRun:
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.births) > 0 {
		return false
	}
	return !slices.ContainsFunc(s.free, func(slot int) bool { return s.slots[slot].lingers() })
}

// draining reports whether the thread is to be brought to such a state: all threads, or those of an address space that moves.
func (th *thread) draining() bool { return th.p.s.draining.Load() || th.p.as.moving.Load() }

// heldUp reports whether the thread is not to go on now.
func (th *thread) heldUp() bool {
	return th.draining() || th.wantsRoom.Load() && th.p.as.room.working.Load()
}

// hold puts a request back that is to wait while the service is drained, or for room in the cache; it reports whether it is one.
func (th *thread) hold() bool {
	if !th.heldUp() {
		return false
	}
	switch th.ctx.u32(abi.Kind) {
	case abi.KindSyscall, abi.KindFailed:
	case abi.KindSignal: // a missed branch; anything else is handled, and ends with one
		f, err := th.frame()
		if err != nil || f.reg(frRIP) != 0 || th.raising != nil {
			return false
		}
		if si := f.info(); unix.Signal(si.signo()) != unix.SIGSEGV || si.code() <= 0 {
			return false
		}
		th.forgetCall(f)
	default:
		return false
	}
	th.setAside()
	if !th.heldUp() && th.waits.Swap(false) { // undrain has not seen it
		th.p.s.requeue(th)
	}
	return true
}

// forgetCall makes a missed branch a jump, if it is a call: another supervisor doesn't know the return site in the cache.
func (th *thread) forgetCall(f frame) {
	regs, pos, err := th.original(f)
	if err != nil || pos != atCallMiss {
		return
	}
	live := f.registers()
	live.gpr[rcx], live.gpr[rsp] = sentBy(regs.rip), regs.gpr[rsp]
	th.ctx.setU64(abi.T, regs.rip)
	f.setRegisters(&live, 0)
}

// zero sends the thread to address 0 instead of orig if the service is drained.
func (th *thread) zero(orig uint64) bool {
	draining := th.draining()
	th.zeroed.Store(draining)
	th.target = orig
	return draining
}

// allThreads lists the threads of living processes.
func (s *Session) allThreads() []*thread {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*thread
	for _, p := range s.processes {
		for th := range p.threads {
			list = append(list, th)
		}
	}
	return list
}

// eachCode calls f for each translation cache in use.
func (s *Session) eachCode(f func(c *codeSpace)) {
	seen := map[*codeSpace]bool{}
	for _, as := range s.spaces() {
		as.mu.RLock() // its last process may end meanwhile
		if c := as.code; !as.closed && !seen[c] {
			seen[c] = true
			f(c)
		}
		as.mu.RUnlock()
	}
}

// spaces lists the address spaces of living processes, some several times.
func (s *Session) spaces() []*addressSpace {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*addressSpace
	for _, p := range s.processes {
		list = append(list, p.as)
	}
	return list
}
