//go:build linux && amd64

package virt

import (
	"cmp"
	gocontext "context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
	"xvrun/xv/reloc"
)

// Relocation moves the virtualization state of an address space to another home. Its threads are brought to known points:
//
//   - those that run are kicked, and end up with a request that waits (see drain), which says all of their state,
//   - those in a system call stay in it.
//
// Then all are halted. The memory of the region moves to the new place, and each thread is made one that has always been
// there: registers, signal stack and signal frame are rewritten, handlers installed anew. The entries of the lookup tables are rewritten, or another
// cache takes the place of the old one, with tables for what is kept of the translations, and the threads go on. A system call that was
// interrupted so is begun again by the kernel, with the time that is left, at the new place of the agent's syscall instruction. What
// was not kept traps when it is executed, and is translated again.

// Relocate moves the virtualization state of the address space of a process, or of all. It tries again, until ctx is done, while threads
// can't be brought to a known point: they are in vfork(2) or an execve, say. The error is os.ErrProcessDone if the process
// has ended.
func (s *Session) Relocate(ctx gocontext.Context, r Relocation) (list []Relocated, err error) {
	if r.PID != 0 {
		done, err := s.relocateOne(ctx, r)
		if err != nil {
			return nil, err
		}
		return []Relocated{done}, nil
	}
	moved := map[*addressSpace]bool{}
	for _, p := range s.alive() {
		as := p.space()
		if moved[as] {
			continue
		}
		moved[as] = true
		r.PID = p.pid
		done, err := s.relocateOne(ctx, r)
		switch {
		case err == nil:
			list = append(list, done)
		case !errors.Is(err, os.ErrProcessDone):
			return list, err
		}
	}
	if len(list) == 0 {
		return nil, os.ErrProcessDone
	}
	return list, nil
}

func (s *Session) relocateOne(ctx gocontext.Context, r Relocation) (Relocated, error) {
	for start := time.Now(); ; {
		try := time.Now()
		done, err := s.tryRelocate(r.PID, s.chooser(r), r)
		if !errors.Is(err, errBusy) || errors.Is(err, unix.EPERM) && time.Since(start) > deniedLimit {
			return done, err
		}
		select {
		case <-ctx.Done():
			return done, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(time.Millisecond + pausesApart*time.Since(try)):
		}
	}
}

// pausesApart is how much longer than an attempt that failed the guest runs until the next one.
const pausesApart = 10

// deniedLimit is how long EPERM of ptrace(2) may have reasons that pass.
const deniedLimit = 10 * time.Second

// chooser returns the new home of an address space with these mappings, whose home is from. After an error nothing is moved.
type chooser func(maps []loader.VMA, from abi.Home) (to abi.Home, err error)

// tryRelocate moves the address space of a process, if all threads can be brought to known points now. The error is errBusy if not.
// Of r only what it says of the translations matters.
func (s *Session) tryRelocate(pid int, to chooser, r Relocation) (done Relocated, err error) {
	s.handing.Lock() // not while the guest is handed over, or the session closed
	defer s.handing.Unlock()
	s.mu.Lock()
	p := s.processes[pid]
	if p == nil || p.dead.Load() || s.closed.Load() {
		s.mu.Unlock()
		return done, os.ErrProcessDone
	}
	as := p.as
	s.mu.Unlock()
	ended := make(chan struct{})
	onOwnThread(func() {
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // for nap
		m := mover{s: s, as: as, keep: r.Keep, transparent: r.Transparent, hashed: r.NoTables}
		func() {
			defer close(ended)
			defer s.guard(p)
			err = m.relocate(to)
			done = Relocated{pid, m.move.From.Base, m.move.To.Base, m.pause}
		}()
		for _, h := range m.late {
			h.releaseLate()
		}
	})
	<-ended
	return done, err
}

// mover is one relocation. It belongs to an OS thread, which traces the halted threads.
type mover struct {
	s     *Session
	as    *addressSpace
	all   []*halted
	late  []*halted // threads that still have to stop, after which they must go on
	move  reloc.Move
	code  *codeSpace // of the new home, which may be the old one
	pause time.Duration

	keep        Keeping
	transparent bool // return addresses are original ones from now on
	hashed      bool // there are no lookup tables from now on
	maps        []loader.VMA
}

// settleLimit is how long the threads may take to come to known points.
const settleLimit = 50 * time.Millisecond

func (m *mover) relocate(to chooser) error {
	m.as.moving.Store(true)
	defer func() {
		m.as.moving.Store(false)
		m.s.serveAgain(m.s.threadsOf(m.as))
	}()
	start := time.Now()
	defer func() { m.pause = time.Since(start) }()
	if err := m.halt(); err != nil {
		return err
	}
	pinBeside(m.leader().tid)
	// Other processes may write to the code of this one, and then have translations dropped: in the old cache or the new one.
	if !m.as.mu.TryLock() {
		return errors.Join(errBusy, m.goOn())
	}
	unlock := sync.OnceFunc(m.as.mu.Unlock)
	defer unlock()
	if err := m.prepare(to); err != nil {
		if errors.Is(err, unix.ESRCH) { // the leader was killed
			err = errBusy
		}
		return errors.Join(err, m.goOn())
	}
	if err := m.commit(); err != nil {
		m.s.fail(m.leader().th.p, fmt.Errorf("relocating process %d: %w", m.leader().th.p.pid, err))
	}
	unlock()
	return m.goOn()
}

// leader is the thread that performs what is done once for all.
func (m *mover) leader() *halted { return m.all[0] }

// each calls f for the threads that live. The others were killed, which a halted thread can be too.
func (m *mover) each(f func(h *halted) error) error {
	for i := 0; i < len(m.all); i++ {
		switch err := f(m.all[i]); {
		case err == nil:
		case !errors.Is(err, unix.ESRCH):
			return err
		case len(m.all) == 1:
			return nil // the last one
		default:
			m.all = slices.Delete(m.all, i, i+1)
			i--
		}
	}
	return nil
}

// once calls f for one thread that lives.
func (m *mover) once(f func(h *halted) error) error {
	done := false
	return m.each(func(h *halted) error {
		if done {
			return nil
		}
		err := f(h)
		done = err == nil
		return err
	})
}

// halt brings all threads to known points and halts them. The error is errBusy if that takes too long.
func (m *mover) halt() error {
	for deadline := time.Now().Add(settleLimit); ; {
		list := m.s.threadsOf(m.as)
		if len(list) == 0 {
			return os.ErrProcessDone
		}
		if m.as.users.Load() > 1 && slices.ContainsFunc(list, (*thread).clones) {
			return errBusy // vfork(2): the other process needs service until it executes a program or ends
		}
		if settled(list) {
			err := m.haltAll(list)
			if err == nil && m.known(list) {
				return nil
			}
			if err := errors.Join(err, m.goOn()); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return errBusy
		}
		nap(20 * time.Microsecond)
	}
}

// clones reports whether the thread is making a thread or process.
func (th *thread) clones() bool { return th.cloning.Load() }

// settled reports whether all threads have come to points that may be known ones. It kicks those that run.
func settled(list []*thread) bool {
	all := true
	for _, th := range list {
		switch {
		case th.tid == 0 || th.busy.Load() || th.p.executing.Load():
			all = false
		case th.waits.Load():
		case th.ctx.u32(abi.State) != abi.StateRun:
			all = false
		case th.away.Load():
			all = all && !th.clones()
		case th.ctx.u32(abi.InGate) == 0:
			all = false
			th.kick()
		}
	}
	return all
}

// haltAll halts threads. After an error some may be.
func (m *mover) haltAll(list []*thread) error {
	var asked []*halted
	var failed error
	for _, th := range list {
		h, err := th.haltSoon()
		if failed = err; err != nil {
			break
		}
		asked = append(asked, h)
	}
	m.all = m.all[:0]
	deadline := time.Now().Add(haltLimit)
	for _, h := range asked {
		switch err := h.arrive(deadline); {
		case err == nil:
			m.all = append(m.all, h)
		case errors.Is(err, errLate):
			m.late = append(m.late, h)
			failed = cmp.Or(failed, err)
		default:
			failed = cmp.Or(failed, err)
		}
	}
	return failed
}

// known reports whether the halted threads, which should be those of list, are all at known points, and the only ones.
func (m *mover) known(list []*thread) bool {
	now := m.s.threadsOf(m.as)
	if len(now) != len(list) || slices.ContainsFunc(now, func(th *thread) bool { return !slices.Contains(list, th) }) {
		return false
	}
	home := m.as.home()
	for _, h := range m.all {
		th := h.th
		off := h.regs.Rip - home.Agent()
		_, inCall := agent.InCall(off)
		switch {
		case th.busy.Load() || th.owns():
			return false
		case th.waits.Load():
			// With another stack pointer it is in the agent's handler of a signal that came since: see defer in agent.asm.
			sp := home.Slot(th.slot) + abi.AgentStack
			if th.ctx.u32(abi.Kind) == abi.KindSignal {
				sp = th.ctx.u64(abi.Frame)
			}
			if !home.InAgent(h.regs.Rip) || h.regs.Rsp != sp {
				return false
			}
		case !inCall || th.ctx.u32(abi.State) != abi.StateRun:
			return false
		}
	}
	return true
}

// goOn lets the halted threads continue.
func (m *mover) goOn() error {
	var failed error
	for _, h := range m.all {
		if err := h.goOn(); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = errors.Join(failed, err)
		}
	}
	m.all = nil
	return failed
}

// prepare chooses the new place, makes cache and tables if others are needed, and moves the memory of the region. After an error nothing has
// changed.
func (m *mover) prepare(choose chooser) error {
	from := m.as.code.home
	var err error
	if m.maps, err = m.leader().th.maps(); err != nil {
		return err
	}
	to, err := m.choose(choose, from)
	if err != nil {
		return err
	}
	if to.Base >= abi.TablesEnd {
		m.s.watchBreak() // it may meet the region
	}
	m.move = reloc.Move{From: from, To: to}
	old := m.as.code
	m.as.untoggle(old, 0, userLimit) // they have addresses of the home
	switch {
	case m.leaves():
		m.code, err = m.collect(old, to)
	case old.users.Load() > 1:
		m.code, err = old.copy()
	default:
		m.code = old
	}
	if err != nil {
		return err
	}
	if to.Base != from.Base {
		err = m.shift()
	}
	if err != nil && m.code != old {
		m.code.close()
	}
	return err
}

// chooser returns what chooses the new home of a relocation.
func (s *Session) chooser(r Relocation) chooser {
	if r.Base != 0 {
		return r.place
	}
	return func(maps []loader.VMA, from abi.Home) (abi.Home, error) {
		return s.anywhere(maps, from, r.Far)
	}
}

// anywhere is a home like from at a random place.
func (s *Session) anywhere(maps []loader.VMA, from abi.Home, far bool) (abi.Home, error) {
	for _, z := range s.zones(far) {
		if to, ok := reloc.Choose(maps, from, z); ok {
			return to, nil
		}
	}
	return from, errNoRoom
}

// place is a chooser of the place at Base.
func (r Relocation) place(maps []loader.VMA, from abi.Home) (abi.Home, error) {
	to := from
	to.Base = r.Base
	within := func(lo, hi uint64) bool { return to.Base >= lo && to.Base < hi && to.End()-to.Base <= hi-to.Base }
	if to.Base%pageSize != 0 || !within(abi.NearFirst, abi.LowEnd) && !within(abi.TablesEnd, abi.UserEnd) {
		return to, fmt.Errorf("no place for a region: %#x (it takes %#x bytes, at a multiple of %#x, from %#x to %#x or from %#x to %#x)", to.Base,
			to.End()-to.Base, pageSize, uint64(abi.NearFirst), uint64(abi.LowEnd), uint64(abi.TablesEnd), uint64(abi.UserEnd))
	}
	if v, ok := mappingIn(maps, to.Base, to.End()); ok {
		return to, fmt.Errorf("no place for a region: %#x: the process has memory at %#x-%#x, or code that is looked up there", to.Base, v.Start, v.End)
	}
	return to, nil
}

// injector returns a caller that uses the agent of a home. Its arguments are where frames for rt_sigreturn are made, of
// which none is in use.
func (m *mover) injector(h *halted, home abi.Home) *injector {
	in := h.at(home.Agent()+agent.SyscallAt, home.Slot(h.th.slot)+abi.FrameArea)
	in.many = true
	return in
}

// shift moves the memory of the region to the new place, with what the kernel knows of it: agent, contexts, and the tables of the hash and the
// cache if these stay the same. So the guest finds its pages there without a fault.
func (m *mover) shift() error {
	from, to := m.move.From, m.move.To
	end := from.End()
	if m.code != m.as.code {
		end = from.Hash()
	}
	err := m.remap(m.maps, from, to, end)
	if err == nil {
		return nil
	}
	if back := m.remap(nil, to, from, to.Base+(end-from.Base)); back != nil {
		m.s.fail(m.leader().th.p, fmt.Errorf("relocating process %d: %w; back: %w", m.leader().th.p.pid, err, back))
	}
	return fmt.Errorf("moving xv's memory: %w", err)
}

// remap moves the mappings from the start of a region to end. maps are those of the process, nil if they may be others by now.
func (m *mover) remap(maps []loader.VMA, from, to abi.Home, end uint64) error {
	return m.once(func(h *halted) (err error) {
		if maps == nil {
			if maps, err = h.th.maps(); err != nil {
				return err
			}
		}
		err = m.remapBy(h, maps, from, to, end)
		maps = nil // if the thread was killed in between, the next one finds a part done
		return err
	})
}

// remapBy is remap by the system calls of one thread, by the agent that moves along.
func (m *mover) remapBy(h *halted, maps []loader.VMA, from, to abi.Home, end uint64) error {
	at := to
	callFrom := from.Agent() + agent.SyscallAt
	if _, here := mappingIn(maps, callFrom, callFrom+1); here {
		at = from
	}
	var rest []call
	for _, v := range maps {
		lo, hi := max(v.Start, from.Base), min(v.End, end)
		if lo >= hi {
			continue
		}
		k := call{unix.SYS_MREMAP, [6]uint64{lo, hi - lo, hi - lo, unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED, lo - from.Base + to.Base}}
		if lo >= from.Hash() {
			rest = append(rest, k)
			continue
		}
		// Agent and contexts, with which several calls are made at one go.
		if err := perform(m.injector(h, at), k); err != nil {
			return err
		}
		if v.Contains(callFrom) {
			at = to
		}
	}
	return perform(m.injector(h, to), rest...)
}

// commit makes the new place the only one. After an error the guest can't go on.
func (m *mover) commit() error {
	from, to, old := m.move.From, m.move.To, m.as.code
	m.s.trace("%d: xv moves from %#x to %#x", m.leader().th.p.pid, from.Base, to.Base)
	if err := m.each(m.forgetFIP); err != nil {
		return err
	}
	m.as.leavePlace(old, m.leaves())
	if m.code != old {
		if err := m.replaceCode(); err != nil {
			return err
		}
	}
	if to.Base != from.Base {
		if err := m.installAllHandlers(); err != nil {
			return err
		}
	}
	if err := m.each(m.rehome); err != nil {
		return err
	}
	m.rewriteReturns()
	m.code.rebase(to)
	m.as.code = m.code
	m.as.unmapped.Store(false)
	if m.code != old {
		old.abandon()
	}
	return nil
}

// replaceCode maps cache and tables at the new place, and unmaps what is left of the old region.
func (m *mover) replaceCode() error {
	from, to := m.move.From, m.move.To
	err := m.once(func(h *halted) error {
		return mapParts(m.injector(h, to), borrower{h.th.p.pid, h.tid}, append(m.code.regionParts(to), m.code.lookupParts(to)...))
	})
	if err != nil {
		return err
	}
	var calls []call
	gone := (extent{from.Hash(), from.End()}).without(extent{to.Base, to.End()})
	if m.code.hashed {
		gone = append(gone, m.as.code.tablePlaces()...)
	}
	for _, left := range gone {
		calls = append(calls, call{unix.SYS_MUNMAP, [6]uint64{left.lo, left.hi - left.lo}})
	}
	return m.once(func(h *halted) error { return perform(m.injector(h, to), calls...) })
}

// perform performs system calls that must succeed together: the error names the first that failed.
func perform(c caller, calls ...call) error {
	results, err := c.perform(calls...)
	if err == nil {
		err = firstError(calls, results)
	}
	return err
}

// installAllHandlers is installHandlers for each process.
func (m *mover) installAllHandlers() error {
	installed := map[*process]bool{}
	return m.each(func(h *halted) error {
		if installed[h.th.p] {
			return nil
		}
		installed[h.th.p] = true
		return m.installHandlers(h)
	})
}

// installHandlers tells the kernel where the agent's signal handler is now, for all signals of a process that go to it.
func (m *mover) installHandlers(h *halted) error {
	in := m.injector(h, m.move.To)
	var text []byte
	var calls []call
	for sig := 1; sig <= 64; sig++ {
		a := kernelAction(m.move.To, sig, h.th.p.actions.get(sig))
		if a.handler == sigDfl || a.handler == sigIgn {
			continue
		}
		calls = append(calls, call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), in.arg + uint64(len(text)), 0, 8}})
		text = append(text, a.bytes()...)
	}
	copy(h.th.ctx.mem[abi.FrameArea:listStart], text)
	return perform(in, calls...)
}

// rehome makes a halted thread one of the new home.
func (m *mover) rehome(h *halted) error {
	th, from, to := h.th, m.move.From, m.move.To
	passed, inCall := agent.InCall(h.regs.Rip - from.Agent())
	inHandler := false
	switch {
	case th.waits.Load():
		m.shiftRegisters(&h.regs)
		inHandler = th.ctx.u32(abi.Kind) == abi.KindSignal
	case inCall && passed:
		m.shiftRegisters(&h.regs)
	}
	h.regs.Rip = m.move.Addr(h.regs.Rip)
	h.regs.Rcx = m.move.Addr(h.regs.Rcx) // where syscall has left it
	h.regs.Gs_base = to.Slot(th.slot)
	live := uint64(abi.AltStackEnd)
	if inHandler {
		f, err := th.frame()
		if err != nil {
			return err
		}
		live = f.addr - th.ctx.addr
		f.set(fStack, m.move.Addr(f.u64(fStack)))
		f.setReg(frFPState, m.move.Addr(f.reg(frFPState)))
	}
	m.move.Context(th.ctx.mem)
	th.setNoTables(m.code.hashed)
	th.ctx.addr = to.Slot(th.slot)
	if !inHandler && to.Base != from.Base {
		err := perform(m.injector(h, to), call{unix.SYS_SIGALTSTACK, [6]uint64{th.ctx.addr + abi.SigStack, 0}})
		if err != nil {
			return err
		}
	}
	return m.s.wipe(th.slot, live)
}

// shiftRegisters rewrites the registers of a thread whose registers are the agent's.
func (m *mover) shiftRegisters(r *unix.PtraceRegs) {
	for _, reg := range []*uint64{&r.Rax, &r.Rbx, &r.Rcx, &r.Rdx, &r.Rsi, &r.Rdi, &r.Rbp, &r.Rsp, &r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15} {
		*reg = m.move.Addr(*reg)
	}
}

// wipe clears what is dead of a slot, that is all between the context and live: old frames, with old addresses.
func (s *Session) wipe(slot int, live uint64) error {
	start := int64(abi.SlotsStart + slot*abi.SlotSize)
	whole := live &^ (pageSize - 1)
	clear(s.contexts.view[start+int64(whole) : start+int64(live)])
	const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(s.contexts.fd, punch, start+abi.Scratch, int64(whole)-abi.Scratch); err != nil {
		return fmt.Errorf("fallocate of the contexts: %w", err)
	}
	return nil
}

// forgetFIP replaces the address of the last x87 instruction by the original one, in the processor's state and in that of
// the thread's signal frame.
func (m *mover) forgetFIP(h *halted) error {
	if h.th.waits.Load() && h.th.ctx.u32(abi.Kind) == abi.KindSignal {
		f, err := h.th.frame()
		if err != nil {
			return err
		}
		if off := f.reg(frFPState) - f.addr; off < uint64(len(f.mem)) {
			m.as.code.originalFIP(f.mem[off:])
		}
	}
	var x [4096 * 4]byte
	iov := unix.Iovec{Base: &x[0], Len: uint64(len(x))}
	if err := ptrace(unix.PTRACE_GETREGSET, h.tid, ntX86XState, uintptr(unsafe.Pointer(&iov))); err != nil {
		return fmt.Errorf("PTRACE_GETREGSET: %w", err)
	}
	if fip := binary.LittleEndian.Uint64(x[xFIP:]); !m.move.Left(fip) {
		return nil
	}
	m.as.code.originalFIP(x[:])
	if err := ptrace(unix.PTRACE_SETREGSET, h.tid, ntX86XState, uintptr(unsafe.Pointer(&iov))); err != nil {
		return fmt.Errorf("PTRACE_SETREGSET: %w", err)
	}
	return nil
}

// ntX86XState is NT_X86_XSTATE of elf.h: the extended state as XSAVE stores it.
const ntX86XState = 0x202
