//go:build linux && amd64

package virt

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// event is a signal that is to be delivered, and the original state that it interrupts.
type event struct {
	info   siginfo
	regs   registers
	fault  bool // an instruction raised it: it can't be blocked or ignored
	inCall bool // it ended a system call of the guest
}

func (ev *event) sig() int { return int(ev.info.signo()) }

// locate makes the address of a fault that is one of an instruction the original one.
func (ev *event) locate() {
	if sig := unix.Signal(ev.sig()); sig == unix.SIGILL || sig == unix.SIGFPE || sig == unix.SIGTRAP && ev.info.code() < siKernel {
		binary.LittleEndian.PutUint64(ev.info[16:], ev.regs.rip)
	}
}

// trapWords are the words of struct sigcontext that tell of the last fault of a thread. Other signals
// show them too.
type trapWords struct {
	trap, err, cr2 uint64
}

// guestMask is the guest's signal mask. The agent keeps it; its bits of the signals that instructions
// raise are not the kernel's.
func (th *thread) guestMask() uint64 {
	return th.ctx.u64(abi.Mask)&^abi.SyncMask | th.ctx.u64(abi.Blocked)&abi.SyncMask
}

// setGuestMask sets the mask with which the guest goes on; the agent tells the kernel.
func (th *thread) setGuestMask(mask uint64) {
	mask &^= bit(int(unix.SIGKILL)) | bit(int(unix.SIGSTOP))
	th.ctx.setU64(abi.Mask, mask&^abi.SyncMask)
	th.ctx.setU64(abi.Blocked, mask&abi.SyncMask)
	th.ctx.setU32(abi.SetMask, 1)
}

// deliver calls the guest's handler for a signal, or does what its action says. f is the frame of the
// agent's handler.
func (th *thread) deliver(f frame, ev event) {
	sig := ev.sig()
	if sig < 1 || sig > 64 {
		th.returnTo(f, ev.regs)
		return
	}
	if th.step != nil {
		th.endStep(&ev.regs)
	}
	if ev.fault {
		ev.locate()
		if th.hostTakes(f, &ev) {
			return
		}
	}
	mask := th.guestMask()
	if ev.inCall {
		mask = th.maskInCall(&ev.regs, mask)
	}
	blocked := mask&bit(sig) != 0
	act := th.p.actions.get(sig)
	switch {
	case ev.fault && (act.handler <= sigIgn || blocked): // force_sig(9)
		th.killBy(sig)
		return
	case blocked:
		th.notInterrupted(&ev)
		th.putBack(ev.info)
		th.returnTo(f, ev.regs)
		return
	case act.handler == sigIgn:
		th.notInterrupted(&ev)
		th.returnTo(f, ev.regs)
		return
	case act.handler == sigDfl && alwaysCaught(sig):
		th.killBy(sig)
		return
	case act.handler == sigDfl: // since it was sent: now the kernel knows what to do
		th.putBack(ev.info)
		th.returnTo(f, ev.regs)
		return
	}
	if act.flags&saResetHand != 0 {
		th.p.actions.set(sig, action{})
		if !alwaysCaught(sig) {
			copy(th.ctx.scratch(), action{}.bytes())
			th.remote(call{unix.SYS_RT_SIGACTION, [6]uint64{uint64(sig), th.ctx.scratchAddr(), 0, 8}})
		}
	}
	th.callHandler(f, ev, act, mask)
}

// notInterrupted undoes that a signal ended a system call which the guest blocks or ignores: the call begins again.
func (th *thread) notInterrupted(ev *event) {
	if ev.inCall && int64(ev.regs.gpr[rax]) == -int64(unix.EINTR) && alwaysCaught(ev.sig()) {
		ev.regs.rip -= syscallLen
		ev.regs.gpr[rax] = th.ctx.u64(abi.GateRAX)
	}
}

// putBack makes a signal pending that can't be delivered now. Everything is blocked in the kernel.
func (th *thread) putBack(si siginfo) {
	if raisedByInstructions(int(si.signo())) {
		th.keep(si)
		return
	}
	th.queue(si)
}

// queue lets the thread send a signal to itself.
func (th *thread) queue(si siginfo) {
	copy(th.ctx.scratch(), si[:])
	th.remote(call{unix.SYS_RT_TGSIGQUEUEINFO, [6]uint64{uint64(th.ctx.u32(abi.PID)), uint64(th.ctx.u32(abi.TID)), uint64(si.signo()), th.ctx.scratchAddr()}})
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
// into the guest's. mask is the one in force.
func (th *thread) callHandler(f frame, ev event, act action, mask uint64) {
	x, err := th.xstate(f)
	if err != nil {
		th.p.s.fail(th.p, err)
		return
	}
	addr, xAddr, ok := th.frameAddress(ev.regs.gpr[rsp], len(x), act.flags&saOnStack != 0)
	if !ok || act.flags&saRestorer == 0 || !th.write(addr, th.guestFrame(f, &ev, act, addr, xAddr, x)) {
		th.cannotDeliver(f, ev)
		return
	}
	mask |= act.mask
	if act.flags&saNoDefer == 0 {
		mask |= bit(ev.sig())
	}
	th.setGuestMask(mask)
	if th.alt.contains(addr) && !th.alt.contains(ev.regs.gpr[rsp]) {
		th.noteBeneath(ev.regs.gpr[rsp])
	}
	if th.alt.flags&ssAutodisarm != 0 {
		th.alt = signalStack{flags: ssDisable}
	}
	handler := registers{rip: act.handler, rflags: ev.regs.rflags &^ (flagDF | flagTF | flagRF)}
	handler.gpr = ev.regs.gpr
	handler.gpr[rax] = 0
	handler.gpr[rdi] = uint64(ev.sig())
	handler.gpr[rsi] = addr + fInfo
	handler.gpr[rdx] = addr + fFlags
	handler.gpr[rsp] = addr
	f.resetXState()
	th.enter(f, handler)
}

// enter lets the thread return from the agent's handler to the original state regs, with the guest's
// mask. What can't be executed there faults there.
func (th *thread) enter(f frame, regs registers) {
	cache, err := th.jump(regs.rip)
	if err != nil {
		cache = 0
	}
	th.sigreturn(f, &regs, cache)
}

// guestFrame makes the signal frame for address addr, with the extended state x for xAddr.
func (th *thread) guestFrame(f frame, ev *event, act action, addr, xAddr uint64, x []byte) []byte {
	buf := make([]byte, xAddr+uint64(len(x))-addr)
	th.originalFIP(x)
	copy(buf[xAddr-addr:], x)
	copy(buf[:frameSize], f.mem[:frameSize])
	g := frame{mem: buf, addr: addr}
	g.set(fPretcode, th.p.as.returnEntry(act.restorer))
	g.set(fLink, 0)
	g.set(fStack, th.alt.sp)
	g.set(fStack+8, uint64(th.alt.flags))
	g.set(fStack+16, th.alt.size)
	g.setRegisters(&ev.regs, ev.regs.rip)
	if x == nil {
		xAddr = 0
	}
	g.setReg(frFPState, xAddr)
	if ev.fault {
		th.trap.trap, th.trap.err = f.reg(frTrap), f.reg(frErr)
		if th.trap.trap == trapPF {
			th.trap.cr2 = f.reg(frCR2)
		}
	}
	g.setReg(frTrap, th.trap.trap)
	g.setReg(frErr, th.trap.err)
	g.setReg(frCR2, th.trap.cr2)
	saved := th.guestMask()
	g.setReg(frOldMask, saved)
	g.setMask(saved)
	copy(buf[fInfo:], ev.info[:])
	return buf
}

// originalFIP replaces the address of the last x87 instruction in the extended state x.
func (th *thread) originalFIP(x []byte) {
	c := th.p.as.enter()
	defer th.p.as.exit()
	c.originalFIP(x)
}

func (c *codeSpace) originalFIP(x []byte) {
	if len(x) < xLegacy {
		return
	}
	fip := binary.LittleEndian.Uint64(x[xFIP:])
	if !c.home.InCache(fip) {
		return
	}
	if rec, ok := c.space.Recover(c.home.CacheOffset(fip)); ok {
		binary.LittleEndian.PutUint64(x[xFIP:], rec.RIP)
	}
}

// frameAddress places a signal frame with xSize bytes of extended state, as the kernel's get_sigframe
// does: it reports false where the frame would leave the alternate stack.
func (th *thread) frameAddress(sp uint64, xSize int, onStack bool) (addr, xAddr uint64, ok bool) {
	onAlt := th.alt.contains(sp)
	sp -= redZone
	if onStack && th.alt.size > 0 && !th.alt.contains(sp) {
		sp = th.alt.sp + th.alt.size
		onAlt = true
	}
	xAddr = (sp - uint64(xSize)) &^ 63
	addr = (xAddr-frameSize)&^15 - 8 // as at a function's first instruction: 8 below a multiple of 16
	return addr, xAddr, !onAlt || addr > th.alt.sp && addr-th.alt.sp <= th.alt.size
}

// cannotDeliver is what the kernel does when there is no room for the frame of a signal: SIGSEGV
// instead (force_sigsegv).
func (th *thread) cannotDeliver(f frame, ev event) {
	if ev.sig() == int(unix.SIGSEGV) {
		th.killBy(ev.sig())
		return
	}
	th.deliverForced(f, ev.regs)
}

// deliverForced delivers the SIGSEGV by which the kernel says that a signal frame is bad.
func (th *thread) deliverForced(f frame, regs registers) {
	th.trap.store(f)
	th.deliver(f, event{info: faultInfo(int(unix.SIGSEGV), siKernel, 0), regs: regs, fault: true})
}

// store makes the words those of the signal in f.
func (w trapWords) store(f frame) {
	f.setReg(frTrap, w.trap)
	f.setReg(frErr, w.err)
	f.setReg(frCR2, w.cr2)
}

// redZone is the memory below rsp that a signal handler must not touch (System V ABI, 3.2.2).
const redZone = 128

// Bits of rflags.
const (
	flagTF = 1 << 8
	flagDF = 1 << 10
	flagRF = 1 << 16
)

// maskInCall is the mask with which the handler of a signal starts that ended a system call which
// waits with a mask of its own: not the mask that the frame restores. Else it is saved.
func (th *thread) maskInCall(regs *registers, saved uint64) uint64 {
	if int64(regs.gpr[rax]) != -int64(unix.EINTR) {
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
	case unix.SYS_PSELECT6, unix.SYS_IO_PGETEVENTS:
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
