//go:build linux && amd64

package virt

import (
	"fmt"
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
	asleep  *atomic.Uint32 // servers that sleep on head: 1 or 0; only they write it
	servers sync.WaitGroup

	mu     sync.Mutex
	queue  []*thread // taken off the list, not answered yet
	leader *server   // the one that sleeps on head, or answers a request; nil: none
	idle   []*server // the others that have nothing to do
	count  int       // servers, without those that wait for other threads' requests
}

// server is a thread that answers requests. One at a time, the leader, sleeps on the doorbell: if
// several did, each would be woken in turn, keep a P of the Go scheduler while it sleeps, and leave
// none for the next.
type server struct {
	bell *bell
	turn chan struct{} // tells an idle one that it is the leader, or that the session is over
}

// maxServers bounds the servers of one doorbell. More than one is needed only while one waits for a
// guest thread's remote system calls.
const maxServers = 8

// hangBells makes a doorbell for each CPU that this process may use.
func (s *Session) hangBells() error {
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
		header[abi.CPUMap+cpu] = byte(i)
		s.bells = append(s.bells, &bell{s: s, cpu: cpu, head: word32(header, 64*i), asleep: word32(header, 64*i+4)})
	}
	return nil
}

// startServers starts a server for each doorbell; none runs.
func (s *Session) startServers() {
	for _, b := range s.bells {
		b.mu.Lock()
		b.count = 0
		b.start()
		b.mu.Unlock()
	}
}

// start adds a server, the new leader.
func (b *bell) start() {
	b.count++
	b.servers.Add(1)
	b.leader = &server{bell: b, turn: make(chan struct{}, 1)}
	onOwnThread(b.leader.serve)
}

// serve answers requests until the session is closed, on an OS thread that is pinned to a CPU.
func (me *server) serve() {
	b := me.bell
	defer b.servers.Done()
	defer me.resign()
	var cpus unix.CPUSet
	cpus.Set(b.cpu)
	unix.SchedSetaffinity(0, &cpus) // a CPU that went away since: unpinned works too
	for !b.s.resting.Load() && (!b.s.closed.Load() || len(b.s.alive()) > 0) {
		if !me.lead() {
			<-me.turn
			continue
		}
		b.take()
		if th := b.next(); th != nil {
			th.server = me
			th.handle()
			continue
		}
		b.asleep.Store(1)
		if b.head.Load() == 0 {
			futexWait(b.head, 0, &unix.Timespec{Sec: 1})
		}
		b.asleep.Store(0)
	}
}

// lead makes the server the leader if there is none. It reports whether it is; otherwise it is idle.
func (me *server) lead() bool {
	b := me.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leader == nil {
		b.leader = me
	}
	if b.leader != me {
		b.idle = append(b.idle, me)
		return false
	}
	return true
}

// yield lets another server lead while this one waits. With a single thread in the guest there is no
// need: it is the one that is waited for.
func (me *server) yield() {
	b := me.bell
	if b.s.counters.threads.Load() == 1 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leader != me {
		return
	}
	if last := len(b.idle) - 1; last >= 0 {
		b.leader = b.idle[last]
		b.idle = b.idle[:last]
		b.leader.turn <- struct{}{}
	} else if b.count < maxServers {
		b.start()
	}
}

// resign is called when a server ends; the idle ones then see that the session is over.
func (me *server) resign() {
	b := me.bell
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leader == me {
		b.leader = nil
	}
	for _, other := range b.idle {
		other.turn <- struct{}{}
	}
	b.idle = nil
}

// leave says that a server will wait for other threads' requests to be answered; enter is its inverse.
func (me *server) leave() {
	me.count(-1)
	me.yield()
}

func (me *server) enter() { me.count(1) }

func (me *server) count(n int) {
	me.bell.mu.Lock()
	me.bell.count += n
	me.bell.mu.Unlock()
}

// take queues the requests on the list, in order of arrival.
func (b *bell) take() {
	if b.head.Load() == 0 {
		return
	}
	b.mu.Lock()
	slots := b.listed(b.head.Swap(0))
	b.mu.Unlock()
	var list []*thread
	for _, slot := range slices.Backward(slots) {
		if th := b.s.thread(slot); th != nil {
			list = append(list, th)
		}
	}
	b.mu.Lock()
	b.queue = append(b.queue, list...)
	b.mu.Unlock()
}

// listed returns the slots of the list that begins with slot. The guest may have damaged the list. The
// caller holds mu, so that no slot of it is used by another thread meanwhile.
func (b *bell) listed(slot uint32) (slots []uint32) {
	for slot != 0 && slot <= abi.MaxSlots-1 && len(slots) < abi.MaxSlots {
		slots = append(slots, slot)
		slot = word32(b.s.contexts.view, abi.SlotsStart+int(slot)*abi.SlotSize+abi.Link).Load()
	}
	return slots
}

// lists reports whether a slot is on the list. Its thread, which has ended, may have rung before.
func (b *bell) lists(slot int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.listed(b.head.Load()), uint32(slot))
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

// requeue lets a server look at requests that a server has taken off a doorbell's list and not answered. A request
// that is still on a list must not be answered: its thread could ring again, and would be on the list twice.
func (s *Session) requeue(list ...*thread) {
	b := s.bells[0]
	b.mu.Lock()
	b.queue = append(b.queue, list...)
	b.mu.Unlock()
	futexWake(b.head)
}

// ringAll wakes the leaders, to see that the session is closed.
func (s *Session) ringAll() {
	for _, b := range s.bells {
		futexWake(b.head)
	}
}

// gone is the panic by which a handler ends when its thread died; guard recovers it.
type gone struct{}

// handle answers the request of th.
func (th *thread) handle() {
	s := th.p.s
	defer s.guard(th.p)
	th.busy.Store(true) // the slot is not given to another thread from now on
	defer th.busy.Store(false)
	if s.thread(uint32(th.slot)) != th { // it was: th has ended since it rang
		return
	}
	state := word32(th.ctx.mem, abi.State)
	if !state.CompareAndSwap(abi.StateRequest, abi.StateTaken) {
		s.trace("%d: rung without a request, state %d", th.tid, state.Load())
		return
	}
	if th.hold() {
		return
	}
	th.waits.Store(false)
	s.counters.handoffs.Add(1)
	th.runs.Store(false)
	th.away.Store(false)
	if th.p.as.unmapped.Load() {
		th.mapCache()
	}
	if th.bounce != nil {
		th.endBounce()
	}
	if len(th.admitted) > 0 || th.lent == lendBriefly {
		th.closeAdmitted()
	}
	kind := th.ctx.u32(abi.Kind)
	if th.p.as.tools.jobs.pending.Load() > 0 && kind != abi.KindStart && kind != abi.KindFault {
		th.doJobs()
	}
	switch kind {
	case abi.KindDeferred:
	case abi.KindSignal:
		th.undo = nil
	default:
		th.undo = nil
		th.stepped(kind)
		if th.step != nil {
			th.stepLeft()
		}
	}
	switch kind {
	case abi.KindMiss:
		th.linkMiss()
	case abi.KindSpecial:
		th.special()
	case abi.KindSyscall:
		th.systemCall()
	case abi.KindFailed:
		th.callFailed()
	case abi.KindSignal:
		th.signal()
	case abi.KindDone:
		th.callDone()
	case abi.KindStart:
		th.begin()
	case abi.KindOpened:
		th.fileOpened()
	case abi.KindDeferred:
		th.deferred()
	case abi.KindCalled:
		regs := th.afterCall()
		th.result(&regs, int64(regs.gpr[rax]))
	case abi.KindFault:
		th.agentFault()
	default:
		s.fail(th.p, fmt.Errorf("process %d: request of unknown kind %d: the guest damaged its thread context", th.p.pid, kind))
	}
}

// reply answers the request with op, after count system calls of the vector.
func (th *thread) reply(op uint32, count int) {
	if op != abi.OpRemote && op != abi.OpTouch {
		th.op = op
	}
	switch op {
	case abi.OpResume, abi.OpFinish, abi.OpAttempt, abi.OpInt80:
		// Translated code is entered with rcx in S.
		th.ctx.setU64(abi.S, th.ctx.u64(abi.RAX+8*rcx))
		if th.ctx.u64(abi.RIP) == 0 { // see zero
			th.ctx.setU64(abi.RAX+8*rcx, sentBy(th.target))
			th.ctx.setU64(abi.T, th.target)
		}
	}
	switch op {
	case abi.OpRemote, abi.OpTouch, abi.OpExit:
	default:
		th.runs.Store(true) // before putOff, see mayRun
		if th.p.as.tools.exclusive.putOff(th, op, count) {
			th.runs.Store(false)
			return
		}
	}
	th.answer(op, count)
}

// answer has the agent do op. It gets on from there on its own.
func (th *thread) answer(op uint32, count int) {
	switch op {
	case abi.OpGate, abi.OpClone, abi.OpExec:
		th.away.Store(true)
	}
	th.runs.Store(runsCode[op])
	if op != abi.OpRemote && op != abi.OpTouch {
		th.answered.Add(1)
	}
	th.ctx.setU32(abi.Count, uint32(count))
	th.ctx.setU32(abi.Op, op)
	state := word32(th.ctx.mem, abi.State)
	state.Store(abi.StateReply)
	futexWake(state)
}

// runsCode tells the answers after which a thread executes code of the guest before its next request.
var runsCode = [...]bool{
	abi.OpResume: true, abi.OpSigreturn: true, abi.OpInt80: true, abi.OpFinish: true, abi.OpAttempt: true,
	abi.OpRemote: false, abi.OpTouch: false, abi.OpGate: false, abi.OpClone: false, abi.OpExec: false, abi.OpExit: false, abi.OpRaise: false,
}

// remote lets th perform system calls and returns their results. It panics with gone if th dies.
func (th *thread) remote(calls ...call) []int64 {
	th.server.yield()
	return th.vectors(calls)
}

// vectors is remote for any goroutine.
func (th *thread) vectors(calls []call) []int64 {
	results := make([]int64, 0, len(calls))
	for len(calls) > 0 {
		n := min(len(calls), abi.MaxVector)
		for i, k := range calls[:n] {
			th.ctx.setCall(abi.Vector+i*abi.CallSize, k)
		}
		th.reply(abi.OpRemote, n)
		th.awaitDone()
		for i := range n {
			results = append(results, int64(th.ctx.u64(abi.Vector+i*abi.CallSize+callResult)))
		}
		calls = calls[n:]
	}
	return results
}

// awaitDone waits until th has done what OpRemote or OpTouch asks for. It panics with gone if th dies.
func (th *thread) awaitDone() {
	state := word32(th.ctx.mem, abi.State)
	for st := state.Load(); st != abi.StateDone; st = state.Load() {
		if th.p.dead.Load() || th.dead.Load() {
			panic(gone{})
		}
		if futexWait(state, st, &unix.Timespec{Nsec: 20e6}) == unix.ETIMEDOUT && th.stopped() {
			th.pushOn()
		}
	}
}

// touch lets th read a byte of its memory in user mode, where it waits for the page as long as that takes, which may be for ever. It reports
// whether there is one.
func (th *thread) touch(addr uint64) bool {
	th.ctx.setCall(abi.Call, call{args: [6]uint64{addr}})
	th.reply(abi.OpTouch, 0)
	th.awaitDone()
	return th.ctx.u64(abi.Call+callResult) == 0
}

// remoteErr is perform by the thread.
func (th *thread) remoteErr(calls ...call) error { return perform(th, calls...) }

func firstError(calls []call, results []int64) error {
	for i, k := range calls {
		if r := results[i]; failed(r) {
			return fmt.Errorf("%s%x: %w", systemCallName(k.nr), k.args, unix.Errno(-r))
		}
	}
	return nil
}
