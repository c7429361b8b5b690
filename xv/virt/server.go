//go:build linux && amd64

package virt

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// bell is the doorbell of a CPU: guest threads that run there push their slot on its list. Its servers
// are pinned to the CPU, since waking a thread of another CPU takes ten times as long.
type bell struct {
	s       *Session
	cpu     int
	head    *atomic.Uint32 // first slot of the list, 0: empty; also the futex
	asleep  *atomic.Uint32 // servers that sleep on head; only they write it
	count   atomic.Int32   // servers
	servers sync.WaitGroup

	mu    sync.Mutex
	queue []*thread // taken off the list, not answered yet
}

// maxServers bounds the servers of one doorbell. More than one is needed only while one waits for a
// guest thread's remote system calls.
const maxServers = 8

// startServers starts a server for each CPU that this process may use.
func (s *Session) startServers() error {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	header := s.contexts.view
	for cpu := 0; cpu < abi.CPUMapSize && len(s.bells) < abi.MaxDoorbells; cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		i := len(s.bells)
		header[abi.CPUMap-abi.Contexts+cpu] = byte(i)
		s.bells = append(s.bells, &bell{s: s, cpu: cpu, head: word32(header, 64*i), asleep: word32(header, 64*i+4)})
	}
	for _, b := range s.bells {
		b.start()
	}
	return nil
}

func (b *bell) start() {
	b.count.Add(1)
	b.servers.Add(1)
	go b.serve()
}

// serve answers requests until the session is closed.
func (b *bell) serve() {
	defer b.servers.Done()
	runtime.LockOSThread() // never unlocked: a pinned thread is of no other use
	var cpus unix.CPUSet
	cpus.Set(b.cpu)
	unix.SchedSetaffinity(0, &cpus) // a CPU that went away since: unpinned works too
	for !b.s.closed.Load() || len(b.s.alive()) > 0 {
		if slot := b.head.Swap(0); slot != 0 {
			b.take(slot)
		}
		if th := b.next(); th != nil {
			th.bell = b
			th.handle()
			continue
		}
		b.asleep.Add(1)
		if b.head.Load() == 0 {
			futexWait(b.head, 0, &unix.Timespec{Sec: 1})
		}
		b.asleep.Add(^uint32(0))
	}
}

// take queues the list of requests that begins with slot, in order of arrival. The guest may have
// damaged the list.
func (b *bell) take(slot uint32) {
	var list []*thread
	for n := 0; slot != 0 && n < abi.MaxSlots; n++ {
		th := b.s.thread(slot)
		if th == nil {
			break
		}
		list = append(list, th)
		slot = th.ctx.u32(abi.Link)
	}
	slices.Reverse(list)
	b.mu.Lock()
	b.queue = append(b.queue, list...)
	b.mu.Unlock()
}

// next takes a request off the queue.
func (b *bell) next() *thread {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return nil
	}
	th := b.queue[0]
	b.queue = b.queue[1:]
	return th
}

// spare makes sure that the doorbell is served while the caller, one of its servers, waits.
func (b *bell) spare() {
	if b.asleep.Load() > 0 {
		b.mu.Lock()
		waiting := len(b.queue) > 0
		b.mu.Unlock()
		if waiting {
			futexWake(b.head)
		}
	} else if b.count.Load() < maxServers {
		b.start()
	}
}

// ringAll wakes all servers, to see that the session is closed.
func (s *Session) ringAll() {
	for _, b := range s.bells {
		for range maxServers {
			futexWake(b.head)
		}
	}
}

// gone is the panic by which a handler ends when its thread died; guard recovers it.
type gone struct{}

// handle answers the request of th.
func (th *thread) handle() {
	defer th.p.s.guard(th.p)
	if !word32(th.ctx.mem, abi.State).CompareAndSwap(abi.StateRequest, abi.StateTaken) {
		th.p.s.trace("%d: rung without a request, state %d", th.tid, th.ctx.u32(abi.State))
		return
	}
	th.p.s.counters.handoffs.Add(1)
	th.away.Store(false)
	switch kind := th.ctx.u32(abi.Kind); kind {
	case abi.KindMiss:
		th.linkMiss()
	case abi.KindSpecial:
		th.special()
	case abi.KindSyscall:
		th.systemCall()
	case abi.KindEFAULT:
		th.retryAfterFault()
	case abi.KindSignal:
		th.signal()
	case abi.KindDone:
		th.callDone()
	case abi.KindStart:
		th.begin()
	case abi.KindFault:
		th.agentFault()
	default:
		th.p.s.fail(th.p, fmt.Errorf("process %d: request of unknown kind %d: the guest damaged its thread context", th.p.pid, kind))
	}
}

// reply answers the request with op, after count system calls of the vector.
func (th *thread) reply(op uint32, count int) {
	switch op {
	case abi.OpGate, abi.OpClone, abi.OpExec:
		th.away.Store(true)
	case abi.OpRemote:
	default:
		th.answered.Store(th.looked)
	}
	switch op {
	case abi.OpResume, abi.OpFinish, abi.OpInt80:
		// Translated code is entered with rcx in S.
		th.ctx.setU64(abi.S, th.ctx.u64(abi.RAX+8*rcx))
	}
	th.ctx.setU32(abi.Count, uint32(count))
	th.ctx.setU32(abi.Op, op)
	state := word32(th.ctx.mem, abi.State)
	state.Store(abi.StateReply)
	futexWake(state)
}

// remote lets th perform system calls and returns their results. It panics with gone if th dies.
func (th *thread) remote(calls ...call) []int64 {
	results := make([]int64, 0, len(calls))
	state := word32(th.ctx.mem, abi.State)
	for len(calls) > 0 {
		n := min(len(calls), abi.MaxVector)
		for i, k := range calls[:n] {
			th.ctx.setCall(abi.Vector+i*abi.CallSize, k)
		}
		th.bell.spare()
		th.reply(abi.OpRemote, n)
		for st := state.Load(); st != abi.StateDone; st = state.Load() {
			if th.p.dead.Load() || th.dead.Load() {
				panic(gone{})
			}
			futexWait(state, st, &unix.Timespec{Nsec: 20e6})
		}
		for i := range n {
			results = append(results, int64(th.ctx.u64(abi.Vector+i*abi.CallSize+callResult)))
		}
		calls = calls[n:]
	}
	return results
}

// remoteErr is remote for calls that must succeed together: the error names the first that failed.
func (th *thread) remoteErr(calls ...call) error {
	for i, r := range th.remote(calls...) {
		if r < 0 && r > -4096 {
			return fmt.Errorf("%s%x: %w", systemCallName(calls[i].nr), calls[i].args, unix.Errno(-r))
		}
	}
	return nil
}
