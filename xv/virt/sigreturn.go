//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// rtSigreturn continues where the guest's signal frame says. A frame that is bad raises SIGSEGV, with
// the state that the kernel has restored so far.
func (th *thread) rtSigreturn(regs *registers) {
	addr := regs.gpr[rsp] - 8
	buf := make([]byte, frameSize)
	if th.read(addr, buf) < frameSize {
		th.badFrame(*regs)
		return
	}
	g := frame{mem: buf, addr: addr}
	if cs := g.reg(frSegments)&0xffff | 3; cs != userCS {
		th.p.s.fail(th.p, fmt.Errorf("process %d: unsupported: rt_sigreturn at %#x to code segment %#x", th.p.pid, regs.rip-syscallLen, cs))
		return
	}
	before := th.before(regs)
	th.setGuestMask(g.mask())
	out := g.registers()
	out.rip = th.p.as.original(out.rip)
	out.rflags = out.rflags&guestFlags | 0x202
	x, ok := th.guestXState(g.reg(frFPState))
	if !ok {
		th.badFrame(out)
		return
	}
	th.setAltStack(signalStack{sp: g.u64(fStack), flags: uint32(g.u64(fStack + 8)), size: g.u64(fStack + 16)}, out.gpr[rsp])
	th.backOn(out.gpr[rsp])
	th.resendUnblocked()
	th.undo = before
	th.enter(th.agentFrame(g, x), out)
}

// badFrame raises the SIGSEGV of a bad signal frame.
func (th *thread) badFrame(regs registers) {
	regs.gpr[rax] = 0 // the result of the system call
	th.raiseLater(fault{info: faultInfo(int(unix.SIGSEGV), siKernel, 0), words: th.trap}, regs)
}

// agentFrame makes a frame in the thread's slot from which the agent returns to what the guest's frame
// g says, with extended state x.
func (th *thread) agentFrame(g frame, x []byte) frame {
	area := th.ctx.addr + abi.FrameArea
	f := frame{mem: th.ctx.mem[abi.FrameArea:abi.FrameEnd], addr: area}
	copy(f.mem, g.mem[:frameSize])
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
	th.ctx.setU64(abi.Frame, area)
	return f
}

const (
	userSegments = userDS<<48 | userCS      // ss and cs of 64-bit user code; fs and gs 0
	ucFlags      = 7                        // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	guestFlags   = 0x40dd5 | 1<<21 | flagTF // what rt_sigreturn restores (FIX_EFLAGS), and ID
)

// guestXState reads the extended state that a guest's frame points at. It reports false if the kernel
// would refuse it (fpu__restore_sig): where it can't be read, or the processor faults when it loads it.
func (th *thread) guestXState(ptr uint64) ([]byte, bool) {
	if ptr == 0 {
		return nil, true
	}
	x := make([]byte, xLegacy)
	if ptr%16 != 0 || th.read(ptr, x) < xLegacy || binary.LittleEndian.Uint32(x[xMXCSR:])&^mxcsrBits != 0 {
		return nil, false
	}
	if binary.LittleEndian.Uint32(x[xMagic1:]) != fpMagic1 {
		return x, true
	}
	size := binary.LittleEndian.Uint32(x[xExtSize:])
	if size < xHeader+xHeaderSize || size > maxXState {
		return x, true // the kernel takes such a frame for one without extended state
	}
	x = append(x, make([]byte, size-xLegacy)...)
	if th.read(ptr+xLegacy, x[xLegacy:]) < len(x)-xLegacy {
		return nil, false
	}
	features := binary.LittleEndian.Uint64(x[xHeader:])
	known := th.p.s.xfeatures.Load()
	if known == 0 { // no signal yet
		known = ^uint64(0)
	}
	compact, reserved := binary.LittleEndian.Uint64(x[xHeader+8:]), binary.LittleEndian.Uint64(x[xHeader+16:])
	return x, ptr%64 == 0 && features&^known == 0 && compact == 0 && reserved == 0
}

// mxcsrBits are the bits of MXCSR that some processor knows (Intel SDM vol. 1, 10.2.3; AMD has
// misaligned exceptions in bit 17).
const mxcsrBits = 0xffff | 1<<17
