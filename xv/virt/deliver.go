//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent"
	"xvrun/xv/agent/abi"
)

// action is a signal's action as the guest set it: struct sigaction of the kernel.
type action struct {
	handler, flags, restorer, mask uint64
}

// Special values of action.handler, and flags that the kernel keeps (sigaction(2)).
const (
	sigDfl = 0
	sigIgn = 1

	saNoCldStop = 0x1
	saNoCldWait = 0x2
	saSigInfo   = 0x4
	saRestorer  = 0x04000000
	saOnStack   = 0x08000000
	saRestart   = 0x10000000
	saNoDefer   = 0x40000000
	saResetHand = 0x80000000
)

// actionTable is the signal handlers of one or more processes (CLONE_SIGHAND).
type actionTable struct {
	mu   sync.Mutex
	acts [65]action
}

func newActionTable() *actionTable { return &actionTable{} }

func (t *actionTable) get(sig int) action {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acts[sig]
}

func (t *actionTable) set(sig int, a action) {
	t.mu.Lock()
	t.acts[sig] = a
	t.mu.Unlock()
}

// copy returns the table of a forked process.
func (t *actionTable) copy() *actionTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &actionTable{acts: t.acts}
}

// afterExec returns the table of an executed program: what was caught has its default action again.
func (t *actionTable) afterExec() *actionTable {
	n := t.copy()
	for i := range n.acts {
		if n.acts[i].handler != sigIgn {
			n.acts[i] = action{}
		} else {
			n.acts[i] = action{handler: sigIgn}
		}
	}
	return n
}

// bit is the bit of a signal in a mask.
func bit(sig int) uint64 { return 1 << (sig - 1) }

// raisedByInstructions reports whether sig is one that the kernel must always deliver to the agent.
func raisedByInstructions(sig int) bool { return bit(sig)&abi.SyncMask != 0 }

// kernelAction is what the kernel is told for the guest's action.
func kernelAction(sig int, a action) action {
	if (a.handler == sigDfl || a.handler == sigIgn) && !raisedByInstructions(sig) {
		return action{handler: a.handler, flags: a.flags & (saNoCldStop | saNoCldWait)}
	}
	return action{
		handler: agent.SignalHandler,
		flags:   saSigInfo | saOnStack | saRestorer | a.flags&(saRestart|saNoCldStop|saNoCldWait),
		mask:    ^uint64(0),
	}
}

func (a action) bytes() []byte {
	b := le64(a.handler)
	b = binary.LittleEndian.AppendUint64(b, a.flags)
	b = binary.LittleEndian.AppendUint64(b, a.restorer)
	return binary.LittleEndian.AppendUint64(b, a.mask)
}

// actionSize is the size of the kernel's struct sigaction.
const actionSize = 32

func parseAction(b []byte) action {
	w := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return action{w(0), w(1), w(2), w(3)}
}

// installFaultHandlers gives the signals that instructions raise to the agent, and ignores what the
// first process is to ignore.
func (th *thread) installFaultHandlers() error {
	var calls []call
	scratch := th.ctx.scratch()
	off := 0
	put := func(sig int, a action) {
		copy(scratch[off:], a.bytes())
		calls = append(calls, call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr() + uint64(off), 0, 8}})
		off += actionSize
	}
	for sig := 1; sig < 32; sig++ {
		if raisedByInstructions(sig) {
			put(sig, kernelAction(sig, th.p.actions.get(sig)))
		}
	}
	if th.p == th.p.s.first && !th.p.ignoredSet {
		th.p.ignoredSet = true
		for _, sig := range th.p.s.cfg.Ignored {
			a := action{handler: sigIgn}
			th.p.actions.set(int(sig), a)
			if !raisedByInstructions(int(sig)) {
				put(int(sig), a)
			}
		}
	}
	return th.remoteErr(calls...)
}

// setMask records the kernel's mask with which the guest goes on.
func (th *thread) setMask(mask uint64) {
	th.mask = mask
	th.ctx.setU64(abi.Mask, mask)
}

// setGuestMask splits the mask that the guest wants: the signals that instructions raise are blocked
// here, not in the kernel.
func (th *thread) setGuestMask(mask uint64) {
	th.blocked = mask & abi.SyncMask
	th.setMask(mask &^ abi.SyncMask)
}

// deliver calls the guest's handler for si, or does what the default action says. f is the frame of
// the interruption and regs the original state.
func (th *thread) deliver(f frame, si siginfo, regs registers) {
	sig := int(si.signo())
	if sig < 1 || sig > 64 {
		th.returnTo(f, regs)
		return
	}
	fault := th.isFault(&si)
	act := th.p.actions.get(sig)
	switch {
	case fault && (act.handler <= sigIgn || th.blocked&bit(sig) != 0): // force_sig(9)
		th.killBy(sig)
		return
	case act.handler == sigIgn:
		th.returnTo(f, regs)
		return
	case act.handler == sigDfl:
		th.killBy(sig)
		return
	case !fault && th.blocked&bit(sig) != 0:
		// Blocked by the guest, but not in the kernel: it stays pending until the guest unblocks it.
		th.pendingFaults = append(th.pendingFaults, si)
		th.returnTo(f, regs)
		return
	}
	if fault && (sig == int(unix.SIGILL) || sig == int(unix.SIGFPE) || sig == int(unix.SIGTRAP) && si.code() < siKernel) {
		binary.LittleEndian.PutUint64(si[16:], regs.rip)
	}
	if act.flags&saResetHand != 0 {
		th.p.actions.set(sig, action{})
		if !raisedByInstructions(sig) {
			copy(th.ctx.scratch(), action{}.bytes())
			th.remote(call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr(), 0, 8}})
		}
	}
	th.callHandler(f, si, regs, act)
}

// killBy ends the process by the default action of sig.
func (th *thread) killBy(sig int) {
	scratch := th.ctx.scratch()
	copy(scratch, action{}.bytes())
	copy(scratch[actionSize:], le64(bit(sig)))
	at := th.ctx.scratchAddr()
	th.remote(
		call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), at, 0, 8}},
		call{unix.SYS_TGKILL, [6]uint64{uint64(th.ctx.u32(abi.PID)), uint64(th.ctx.u32(abi.TID)), uint64(sig)}},
		call{unix.SYS_RT_SIGPROCMASK, [6]uint64{unix.SIG_UNBLOCK, at + actionSize, 0, 8}},
		// A signal whose default action is not to end the process: it was a fault, so end it all the same.
		call{unix.SYS_EXIT_GROUP, [6]uint64{128 + uint64(sig)}},
	)
}

// callHandler builds the guest's signal frame and lets the thread return from the agent's handler
// into the guest's.
func (th *thread) callHandler(f frame, si siginfo, regs registers, act action) {
	sig := int(si.signo())
	x, err := f.xstate()
	if err != nil {
		th.p.s.fail(th.p, err)
		return
	}
	sp := regs.gpr[rsp] - redZone
	if act.flags&saOnStack != 0 && th.alt.usable() && !th.alt.contains(regs.gpr[rsp]) {
		sp = th.alt.sp + th.alt.size
	}
	xAddr := (sp - uint64(len(x))) &^ 63
	addr := (xAddr-frameSize)&^15 - 8 // as at a function's first instruction: 8 below a multiple of 16
	buf := make([]byte, xAddr+uint64(len(x))-addr)
	copy(buf[xAddr-addr:], x)
	g := frame{mem: buf, addr: addr}
	copy(buf[:frameSize], f.mem[:frameSize])
	g.set(fPretcode, act.restorer)
	g.set(fLink, 0)
	g.set(fStack, th.alt.sp)
	g.set(fStack+8, uint64(th.alt.flags))
	g.set(fStack+16, th.alt.size)
	g.setRegisters(&regs, regs.rip)
	if x == nil {
		xAddr = 0
	}
	g.setReg(frFPState, xAddr)
	saved := f.mask() &^ abi.SyncMask
	g.setMask(saved | th.blocked)
	copy(buf[fInfo:], si[:])
	if !th.write(addr, buf) {
		th.killBy(int(unix.SIGSEGV)) // force_sigsegv: there is no stack for the handler
		return
	}
	base := th.maskInCall(&regs, saved|th.blocked)
	base |= act.mask
	if act.flags&saNoDefer == 0 {
		base |= bit(sig)
	}
	th.setGuestMask(base &^ (bit(int(unix.SIGKILL)) | bit(int(unix.SIGSTOP))))
	if th.alt.flags&ssAutodisarm != 0 {
		th.alt = signalStack{flags: ssDisable}
	}
	handler := registers{rip: act.handler, rflags: regs.rflags &^ (flagDF | flagTF | flagRF)}
	handler.gpr = regs.gpr
	handler.gpr[rax] = 0
	handler.gpr[rdi] = uint64(sig)
	handler.gpr[rsi] = addr + fInfo
	handler.gpr[rdx] = addr + fFlags
	handler.gpr[rsp] = addr
	f.resetXState()
	f.setMask(th.mask)
	cache, err := th.jump(handler.rip)
	if err != nil { // the handler's address is not executable
		th.ctx.setU64(abi.T, handler.rip)
		th.ctx.setU64(abi.S, handler.gpr[rcx])
		cache = 0
	}
	th.sigreturn(f, &handler, uint64(cache))
}

// redZone is the memory below rsp that a signal handler must not touch (System V ABI, 3.2.2).
const redZone = 128

// Bits of rflags.
const (
	flagTF = 1 << 8
	flagDF = 1 << 10
	flagRF = 1 << 16
)

func (a *signalStack) usable() bool { return a.flags&ssDisable == 0 && a.size > 0 }

// contains reports whether sp is on the stack; an autodisarmed one is never taken to be in use.
func (a *signalStack) contains(sp uint64) bool {
	return a.usable() && a.flags&ssAutodisarm == 0 && sp > a.sp && sp-a.sp <= a.size
}

// maskInCall is the mask with which the handler of a signal starts that ended a system call which
// waits with a mask of its own: not the mask that the frame restores. Else it is saved.
func (th *thread) maskInCall(regs *registers, saved uint64) uint64 {
	if int64(regs.gpr[rax]) != -int64(unix.EINTR) || regs.rip != th.ctx.u64(abi.Next) {
		return saved
	}
	var at uint64
	switch th.ctx.u64(abi.GateRAX) {
	case unix.SYS_RT_SIGSUSPEND:
		at = regs.gpr[rdi]
	case unix.SYS_PPOLL:
		at = regs.gpr[r10]
	case unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2:
		at = regs.gpr[r8]
	case unix.SYS_PSELECT6:
		var b [8]byte
		if regs.gpr[r9] == 0 || th.read(regs.gpr[r9], b[:]) < 8 {
			return saved
		}
		at = binary.LittleEndian.Uint64(b[:])
	}
	var b [8]byte
	if at == 0 || th.read(at, b[:]) < 8 {
		return saved
	}
	return binary.LittleEndian.Uint64(b[:])
}

// rtSigreturn continues where the guest's signal frame says.
func (th *thread) rtSigreturn(regs *registers) {
	addr := regs.gpr[rsp] - 8
	buf := make([]byte, frameSize+8)
	if th.read(addr, buf[:frameSize]) < frameSize {
		th.killBy(int(unix.SIGSEGV))
		return
	}
	g := frame{mem: buf, addr: addr}
	x, ok := th.guestXState(g.reg(frFPState))
	if !ok {
		th.killBy(int(unix.SIGSEGV))
		return
	}
	area := th.ctx.addr + abi.FrameArea
	f := frame{mem: th.ctx.mem[abi.FrameArea:abi.FrameEnd], addr: area}
	copy(f.mem, buf[:frameSize])
	xAddr := uint64(0)
	if x != nil {
		xAddr = (area + frameSize + 63) &^ 63
		copy(f.mem[xAddr-area:], x)
	}
	f.setReg(frFPState, xAddr)
	f.setReg(frSegments, userSegments)
	f.set(fFlags, g.u64(fFlags)&ucFlags)
	f.set(fStack, th.ctx.addr+abi.AltStack)
	f.set(fStack+8, ssAutodisarm)
	f.set(fStack+16, abi.AltStackEnd-abi.AltStack)
	th.setGuestMask(g.mask() &^ (bit(int(unix.SIGKILL)) | bit(int(unix.SIGSTOP))))
	f.setMask(th.mask)
	th.alt.restore(g.u64(fStack), uint32(g.u64(fStack+8)), g.u64(fStack+16))
	out := g.registers()
	out.rflags = out.rflags&guestFlags | 0x202
	th.ctx.setU64(abi.Frame, area)
	if th.deliverPending(f, out) {
		return
	}
	cache, err := th.jump(out.rip)
	if err != nil {
		th.ctx.setU64(abi.T, out.rip)
		th.ctx.setU64(abi.S, out.gpr[rcx])
		cache = 0
	}
	th.sigreturn(f, &out, uint64(cache))
}

// deliverPending delivers a signal that the guest had blocked here, and has unblocked.
func (th *thread) deliverPending(f frame, regs registers) bool {
	for i, si := range th.pendingFaults {
		if th.blocked&bit(int(si.signo())) == 0 {
			th.pendingFaults = append(th.pendingFaults[:i:i], th.pendingFaults[i+1:]...)
			th.deliver(f, si, regs)
			return true
		}
	}
	return false
}

const (
	userSegments = 0x2b<<48 | 0x33          // ss and cs of 64-bit user code; fs and gs 0
	ucFlags      = 7                        // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	guestFlags   = 0x40dd5 | 1<<21 | flagTF // what rt_sigreturn restores (FIX_EFLAGS), and ID
)

// guestXState reads the extended state that a guest's frame points at.
func (th *thread) guestXState(ptr uint64) ([]byte, bool) {
	if ptr == 0 {
		return nil, true
	}
	x := make([]byte, xLegacy)
	if th.read(ptr, x) < xLegacy {
		return nil, false
	}
	if binary.LittleEndian.Uint32(x[xMagic1:]) != fpMagic1 {
		return x, true
	}
	size := binary.LittleEndian.Uint32(x[xExtSize:])
	if size < xLegacy+64 || size > maxXState {
		return x, true // the kernel takes such a frame for one without extended state
	}
	rest := make([]byte, size-xLegacy)
	if th.read(ptr+xLegacy, rest) < len(rest) {
		return x, true
	}
	return append(x, rest...), true
}

// restore sets the alternate stack from a signal frame, as rt_sigreturn does.
func (a *signalStack) restore(sp uint64, flags uint32, size uint64) {
	if flags&ssDisable != 0 {
		*a = signalStack{flags: ssDisable}
		return
	}
	*a = signalStack{sp: sp, flags: flags & ssAutodisarm, size: size}
}
