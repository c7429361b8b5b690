//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"

	"xvrun/xv/agent/abi"
)

// A signal frame as the kernel builds it (arch/x86/include/asm/sigframe.h): the return address, struct
// ucontext, struct siginfo; the extended state lies above. Offsets from its start:
const (
	fPretcode = 0
	fFlags    = 8   // uc_flags
	fLink     = 16  // uc_link
	fStack    = 24  // uc_stack: ss_sp, ss_flags, ss_size
	fContext  = 48  // uc_mcontext: struct sigcontext
	fMask     = 304 // uc_sigmask
	fInfo     = 312 // siginfo, 128 bytes
	frameSize = 440
)

// Words of struct sigcontext (arch/x86/include/uapi/asm/sigcontext.h).
const (
	frR8 = iota
	frR9
	frR10
	frR11
	frR12
	frR13
	frR14
	frR15
	frRDI
	frRSI
	frRBP
	frRBX
	frRDX
	frRAX
	frRCX
	frRSP
	frRIP
	frFlags
	frSegments
	frErr
	frTrap
	frOldMask
	frCR2
	frFPState
)

// frameReg is the word of struct sigcontext that holds the general register with an encoding.
var frameReg = [16]int{frRAX, frRCX, frRDX, frRBX, frRSP, frRBP, frRSI, frRDI, frR8, frR9, frR10, frR11, frR12, frR13, frR14, frR15}

// frame is the signal frame of a thread that waits in the agent's handler. It lies in the thread's
// slot, which other threads of the guest can write.
type frame struct {
	mem  []byte // from the start of the frame to the end of the area that holds it
	addr uint64
}

// frame returns the frame that the agent named.
func (th *thread) frame() (frame, error) {
	addr := th.ctx.u64(abi.Frame)
	off := addr - th.ctx.addr
	if off < abi.FrameArea || off > abi.AltStackEnd-frameSize || off%8 != 0 {
		return frame{}, fmt.Errorf("process %d: signal frame at %#x: the guest damaged its thread context", th.p.pid, addr)
	}
	return frame{mem: th.ctx.mem[off:abi.AltStackEnd], addr: addr}, nil
}

func (f frame) u64(off int) uint64     { return word64(f.mem, off).Load() }
func (f frame) set(off int, v uint64)  { word64(f.mem, off).Store(v) }
func (f frame) reg(i int) uint64       { return f.u64(fContext + 8*i) }
func (f frame) setReg(i int, v uint64) { f.set(fContext+8*i, v) }
func (f frame) mask() uint64           { return f.u64(fMask) }
func (f frame) setMask(m uint64)       { f.set(fMask, m) }
func (f frame) info() (si siginfo)     { copy(si[:], f.mem[fInfo:]); return si }

// registers loads the registers of the interrupted thread.
func (f frame) registers() (r registers) {
	for i, w := range frameReg {
		r.gpr[i] = f.reg(w)
	}
	r.rip = f.reg(frRIP)
	r.rflags = f.reg(frFlags)
	return r
}

// setRegisters stores registers for the return from the handler; rip becomes cache.
func (f frame) setRegisters(r *registers, cache uint64) {
	for i, w := range frameReg {
		f.setReg(w, r.gpr[i])
	}
	f.setReg(frRIP, cache)
	f.setReg(frFlags, r.rflags)
}

// Layout of the extended state that a frame points at: struct _fpstate_64, the XSAVE header, and the
// components (Intel SDM vol. 1, 13.4). The kernel's own words are in bytes 464-511.
const (
	xLegacy   = 512
	xFIP      = 8 // address of the last x87 instruction
	xMXCSR    = 24
	xXMM      = 160 // xmm0 to xmm15
	xMagic1   = 464 // FP_XSTATE_MAGIC1
	xExtSize  = 468 // bytes with the magic word at the end
	xSize     = 480 // bytes without it
	xFeatures = 472 // the components that the kernel knows
	xHeader   = 512 // XSTATE_BV

	xHeaderSize = 64
	fpMagic1    = 0x46505853
	maxXState   = abi.FrameEnd - abi.FrameArea - frameSize - 64 - 8
)

// xstate copies the extended state that the frame points at, in the size that the kernel gave it.
func (th *thread) xstate(f frame) ([]byte, error) {
	ptr := f.reg(frFPState)
	if ptr == 0 {
		return nil, nil
	}
	off := ptr - f.addr
	if off < frameSize || off > uint64(len(f.mem)) || off%64 != (-f.addr)%64 || uint64(len(f.mem))-off < xLegacy {
		return nil, fmt.Errorf("extended state at %#x", ptr)
	}
	area := f.mem[off:]
	size := uint64(xLegacy)
	if binary.LittleEndian.Uint32(area[xMagic1:]) == fpMagic1 {
		size = uint64(binary.LittleEndian.Uint32(area[xExtSize:]))
	}
	if size < xLegacy || size > uint64(len(area)) || size > maxXState {
		return nil, fmt.Errorf("extended state of %d bytes", size)
	}
	th.p.s.xfeatures.Store(binary.LittleEndian.Uint64(area[xFeatures:]))
	return append([]byte(nil), area[:size]...), nil
}

// storeXState gives the frame extended state that xstate returned, and that was changed since.
func (th *thread) storeXState(f frame, x []byte) error {
	ptr := f.reg(frFPState)
	off := ptr - f.addr
	if ptr == 0 || off < frameSize || off > uint64(len(f.mem)) || copy(f.mem[off:], x) < len(x) {
		return fmt.Errorf("process %d: extended state at %#x: the guest damaged its thread context", th.p.pid, ptr)
	}
	return nil
}

// resetXState gives the extended state in the frame the values that a handler starts with: the kernel
// clears the registers when it calls one.
func (f frame) resetXState() {
	area := f.legacyState()
	if area == nil || binary.LittleEndian.Uint32(area[xMagic1:]) != fpMagic1 {
		return
	}
	binary.LittleEndian.PutUint64(area[xHeader:], 0) // XSTATE_BV: all components in their initial state
	if features := binary.LittleEndian.Uint64(area[xFeatures:]); features&xPKRU != 0 {
		setPKRU(area[:min(uint64(len(area)), maxXState)], features, pkruOffset())
	}
	binary.LittleEndian.PutUint16(area[0:], 0x37f) // FCW
	binary.LittleEndian.PutUint32(area[xMXCSR:], 0x1f80)
}

// setXMM01 gives xmm0 and xmm1 in the frame these 32 bytes.
func (f frame) setXMM01(b []byte) {
	area := f.legacyState()
	if area == nil {
		return
	}
	const sse = 1 << 1 // in XSTATE_BV
	if binary.LittleEndian.Uint32(area[xMagic1:]) == fpMagic1 {
		if bv := binary.LittleEndian.Uint64(area[xHeader:]); bv&sse == 0 { // all of them are zero
			clear(area[xXMM : xXMM+256])
			binary.LittleEndian.PutUint64(area[xHeader:], bv|sse)
		}
	}
	copy(area[xXMM:], b)
}

// legacyState is the extended state in the frame up to the XSAVE header and with it, nil if there is none.
func (f frame) legacyState() []byte {
	ptr := f.reg(frFPState)
	off := ptr - f.addr
	if ptr == 0 || off > uint64(len(f.mem)) || uint64(len(f.mem))-off < xLegacy+64 {
		return nil
	}
	return f.mem[off:]
}

// siginfo is struct siginfo.
type siginfo [128]byte

func (si *siginfo) signo() int32 { return int32(binary.LittleEndian.Uint32(si[0:])) }
func (si *siginfo) code() int32  { return int32(binary.LittleEndian.Uint32(si[8:])) }
func (si *siginfo) addr() uint64 { return binary.LittleEndian.Uint64(si[16:]) }

// faultInfo is the siginfo of a fault.
func faultInfo(sig int, code int32, addr uint64) (si siginfo) {
	binary.LittleEndian.PutUint32(si[0:], uint32(sig))
	binary.LittleEndian.PutUint32(si[8:], uint32(code))
	binary.LittleEndian.PutUint64(si[16:], addr)
	return si
}

// Codes of siginfo (sigaction(2)).
const (
	segvMAPERR = 1
	segvACCERR = 2
	busADRALN  = 1
	illOPN     = 2
	siUser     = 0
	siKernel   = 0x80
)

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
