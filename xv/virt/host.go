//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
	"xvrun/xv/trap"
)

// The host program sees faults of the guest before the guest does (package trap). The thread waits for the answer to its request
// meanwhile, and other servers answer the other threads.

// hostTakes shows a fault to the host, if it wants to see it. It reports whether it has answered the thread; else the
// fault is delivered, with the state that the host has left.
func (th *thread) hostTakes(f frame, ev *event) bool {
	if th.p.s.cfg.OnFault == nil {
		return false
	}
	c := th.trapContext(f, ev.regs, trap.Event{
		Pid: th.p.pid, Tid: th.tid,
		Signal: unix.Signal(ev.sig()), Code: ev.info.code(), Addr: ev.info.addr(), Access: accessOf(f),
	})
	action := th.callHost(func() trap.Action { return th.p.s.cfg.OnFault(c) })
	return th.act(f, c, ev, action)
}

// adopt makes what the host has changed the thread's state.
func (th *thread) adopt(f frame, c *trap.Context, ev *event) {
	if x := c.End(); x != nil {
		if err := th.storeXState(f, x); err != nil {
			th.p.s.fail(th.p, err)
			panic(gone{})
		}
	}
	ev.regs = fromHost(&c.Registers, ev.regs.rflags)
}

// act does what the host has answered to the event ev; it reports whether the thread is answered with that.
func (th *thread) act(f frame, c *trap.Context, ev *event, action trap.Action) bool {
	length := 0
	if action == trap.Skip {
		length = len(c.Instruction())
	}
	th.adopt(f, c, ev)
	if th.step != nil {
		th.endStep(&ev.regs)
	}
	switch action {
	case trap.Retry, trap.Proceed:
	case trap.Skip:
		if c.Signal != unix.SIGTRAP {
			if length == 0 {
				return false
			}
			ev.regs.rip += uint64(length)
		}
	case trap.Kill:
		th.killBy(ev.sig())
		return true
	default:
		return false
	}
	th.returnTo(f, ev.regs)
	return true
}

// callHost calls a function of the host. Other servers answer requests meanwhile, and the thread holds nothing of the
// translation cache: its state is an original one.
func (th *thread) callHost(f func() trap.Action) trap.Action {
	th.parked.Store(true)
	th.server.leave()
	unhost := th.host()
	returned := false
	defer func() {
		unhost()
		th.server.enter()
		th.parked.Store(false)
		if returned {
			return
		}
		switch r := recover().(type) {
		case gone:
		case nil: // the server ends with this goroutine
			th.p.s.fail(th.p, fmt.Errorf("a callback for a fault of thread %d called runtime.Goexit, as testing.T.FailNow does", th.tid))
		default:
			th.p.s.fail(th.p, fmt.Errorf("a callback for a fault of thread %d panicked: %v\n%s", th.tid, r, debug.Stack()))
		}
		panic(gone{})
	}()
	action := f()
	returned = true
	return action
}

// trapContext makes what a callback sees of the thread, with the original state regs.
func (th *thread) trapContext(f frame, regs registers, e trap.Event) *trap.Context {
	if area := f.legacyState(); area != nil {
		th.originalFIP(area)
	}
	return trap.New(&hostView{th, f}, e, toHost(&regs))
}

// accessOf is the access of the page fault that f tells of, 0 if it is of another exception (Intel SDM vol. 3, 4.7).
func accessOf(f frame) trap.Access {
	err := f.reg(frErr)
	switch {
	case f.reg(frTrap) != trapPF:
		return 0
	case err&pfFetch != 0:
		return trap.Fetch
	case err&pfWrite != 0:
		return trap.Write
	}
	return trap.Read
}

// toHost gives the registers their names.
func toHost(regs *registers) (r trap.Registers) {
	for n, v := range regs.gpr {
		*r.General(n) = v
	}
	r.RIP, r.RFLAGS = regs.rip, regs.rflags
	return r
}

// fromHost is the inverse. Of the flags the host changes those only that the guest itself can.
func fromHost(r *trap.Registers, rflags uint64) (regs registers) {
	for n := range regs.gpr {
		regs.gpr[n] = *r.General(n)
	}
	regs.rip = r.RIP
	regs.rflags = rflags&^guestFlags | r.RFLAGS&guestFlags
	return regs
}

// hostView is a thread as a trap.Thread: it waits in its handler with the frame f.
type hostView struct {
	th *thread
	f  frame
}

// alive does what needs the thread, which a page tool may want at the same time. The error is os.ErrProcessDone if it dies.
func (h *hostView) alive(f func() error) error {
	h.th.hostMu.Lock()
	defer h.th.hostMu.Unlock()
	h.th.inHost = true
	defer func() { h.th.inHost = false }()
	return survive(f)
}

func (h *hostView) ReadMemory(addr uint64, p []byte) (n int) {
	h.alive(func() error {
		n = h.th.read(addr, p)
		return nil
	})
	return n
}

func (h *hostView) WriteMemory(addr uint64, p []byte) error {
	return h.alive(func() error {
		if !h.th.write(addr, p) {
			return &trap.MemoryError{Addr: addr}
		}
		return nil
	})
}

func (h *hostView) Base(s trap.Segment) (base uint64, err error) {
	if s == trap.GS {
		return h.th.ctx.u64(abi.GuestGS), nil
	}
	err = h.alive(func() error {
		at := h.th.ctx.scratchAddr()
		if err := h.th.remoteErr(call{unix.SYS_ARCH_PRCTL, [6]uint64{archGetFS, at}}); err != nil {
			return err
		}
		base = binary.LittleEndian.Uint64(h.th.ctx.scratch())
		return nil
	})
	return base, err
}

func (h *hostView) SetBase(s trap.Segment, base uint64) error {
	if base >= userLimit {
		return fmt.Errorf("xv: segment base %#x: %w", base, unix.EINVAL)
	}
	if s == trap.GS {
		h.th.ctx.setU64(abi.GuestGS, base)
		return nil
	}
	return h.alive(func() error { return h.th.remoteErr(call{unix.SYS_ARCH_PRCTL, [6]uint64{archSetFS, base}}) })
}

func (h *hostView) ExtendedState() ([]byte, func(uint32) uint32, error) {
	if h.f.mem == nil {
		return nil, nil, errors.New("xv: vector registers are not known in a system call")
	}
	x, err := h.th.xstate(h.f)
	return x, componentOffset, err
}
