//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
	"xvrun/xv/seccomp"
	"xvrun/xv/x86"
)

// special answers a thread at an instruction that cannot be copied: what user code can do with these
// is emulated, the rest is refused.
func (th *thread) special() {
	s := th.p.s
	stub := th.exitStub()
	addr, ok := th.p.as.enter().space.SpecialAt(stub)
	th.p.as.exit()
	if !ok {
		s.fail(th.p, fmt.Errorf("process %d: %#x is no exit stub: the guest damaged its thread context", th.p.pid, stub))
		return
	}
	regs := th.ctx.registers()
	regs.rip = addr
	var b [maxInst]byte
	n := th.read(addr, b[:])
	var in x86.Inst
	if err := x86.Decode(b[:n], &in); err != nil { // changed since it was translated
		th.resumeAt(regs)
		return
	}
	if !th.emulate(&in, &regs) {
		s.fail(th.p, fmt.Errorf("process %d: unsupported instruction at %#x: % x (see docs/supported.md)", th.p.pid, addr, b[:in.Len]))
	}
}

// emulate does an instruction of class x86.Special; it reports whether it is one that is known.
func (th *thread) emulate(in *x86.Inst, regs *registers) bool {
	if in.Encoding != x86.Legacy {
		return false
	}
	switch {
	case in.Map == 0 && in.Opcode == 0xcf: // iret
		th.iret(in, regs)
	case in.Map == 0 && (in.Opcode == 0xca || in.Opcode == 0xcb): // retf imm16, retf
		th.farReturn(in, regs)
	case in.Map == 0 && in.Opcode == 0xcd: // int 0x80
		th.int80(in, regs)
	case in.Map == 0 && in.Opcode == 0x8e && in.ModRM>>3&7 == 5 && in.ModRM >= 0xc0: // mov gs, r
		th.loadGS(in, regs, uint16(regs.gpr[in.ModRM&7|in.REX&1<<3]), 0)
	case in.Map == 1 && in.Opcode == 0xa9: // pop gs
		var b [2]byte
		if th.read(regs.gpr[rsp], b[:]) < len(b) {
			return false
		}
		th.loadGS(in, regs, binary.LittleEndian.Uint16(b[:]), 8)
	case in.Map == 1 && in.Opcode == 0x34: // sysenter, which is for the 32-bit kernel interface
		th.raiseLater(fault{info: faultInfo(int(unix.SIGILL), illOPN, regs.rip), words: trapWords{trap: trapUD}}, *regs)
	default:
		return th.emulateGS(in, regs)
	}
	return true
}

// Selectors of 64-bit user code and data, as Linux gives them to a process.
const (
	userCS = 0x33
	userDS = 0x2b
)

// popped reads n words of the operand size from the stack.
func (th *thread) popped(in *x86.Inst, regs *registers, n int) ([]uint64, uint64, bool) {
	size := 4
	switch {
	case in.REX&8 != 0:
		size = 8
	case in.OpSize:
		size = 2
	}
	b := make([]byte, n*size+8)
	if th.read(regs.gpr[rsp], b[:n*size]) < n*size {
		return nil, 0, false
	}
	words := make([]uint64, n)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(b[i*size:]) & (1<<(8*size-1)<<1 - 1)
	}
	return words, uint64(n * size), true
}

// iret returns within 64-bit user code; other segments fault as the processor does for a selector
// that user code may not load (Intel SDM vol. 2, IRET).
func (th *thread) iret(in *x86.Inst, regs *registers) {
	w, _, ok := th.popped(in, regs, 5)
	switch {
	case !ok:
		th.raiseLater(fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, regs.gpr[rsp]), words: trapWords{trapPF, 4, regs.gpr[rsp]}}, *regs)
	case uint16(w[1]) != userCS:
		th.raiseLater(protection(w[1]&0xfffc), *regs)
	case uint16(w[4]) != userDS:
		th.raiseLater(protection(w[4]&0xfffc), *regs)
	default:
		regs.rip = w[0]
		regs.rflags = regs.rflags&^guestFlags | w[2]&guestFlags
		regs.gpr[rsp] = w[3]
		th.resumeAt(*regs)
	}
}

// farReturn returns within 64-bit user code.
func (th *thread) farReturn(in *x86.Inst, regs *registers) {
	w, size, ok := th.popped(in, regs, 2)
	switch {
	case !ok:
		th.raiseLater(fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, regs.gpr[rsp]), words: trapWords{trapPF, 4, regs.gpr[rsp]}}, *regs)
	case uint16(w[1]) != userCS:
		th.raiseLater(protection(w[1]&0xfffc), *regs)
	default:
		regs.rip = w[0]
		regs.gpr[rsp] += size
		if in.Opcode == 0xca {
			regs.gpr[rsp] += uint64(in.Imm) & 0xffff
		}
		th.resumeAt(*regs)
	}
}

// loadGS loads a selector into GS. Only the base matters in 64-bit mode: it becomes 0 for the null
// selector and for the flat data segment.
func (th *thread) loadGS(in *x86.Inst, regs *registers, selector uint16, pop uint64) {
	if selector > 3 && selector != userDS {
		th.raiseLater(protection(uint64(selector&^3)), *regs)
		return
	}
	th.ctx.setU64(abi.GuestGS, 0)
	regs.gpr[rsp] += pop
	regs.rip += uint64(in.Len)
	th.resumeAt(*regs)
}

// int80Calls are the 32-bit system calls (arch/x86/entry/syscalls/syscall_32.tbl) that a 64-bit program
// may make: those that neither change the address space, nor signals, nor start anything.
var int80Calls = map[uint32]bool{
	3: true, 4: true, 5: true, 6: true, 13: true, 19: true, 20: true, 33: true, 37: true, 39: true, 40: true, // read .. rmdir
	41: true, 42: true, 54: true, 55: true, 60: true, 63: true, 64: true, 65: true, 78: true, 85: true, 91 + 31: true, // dup .. uname
	140: true, 145: true, 146: true, 158: true, 162: true, 183: true, // _llseek .. getcwd
	199: true, 200: true, 201: true, 202: true, 220: true, 221: true, 224: true, 252: true, 265: true, 270: true,
}

// int80 does a system call of the 32-bit entry.
func (th *thread) int80(in *x86.Inst, regs *registers) {
	nr := uint32(regs.gpr[rax])
	if th.p.s.cfg.Trace != nil {
		th.p.s.trace("%d: int 0x80, number %d", th.tid, nr)
	}
	regs.rip += uint64(in.Len)
	g := &regs.gpr
	args := [6]uint64{g[rbx], g[rcx], g[rdx], g[rsi], g[rdi], g[rbp]}
	for i := range args {
		args[i] &= 0xffffffff
	}
	if !th.permits(regs, seccomp.ArchI386, args) {
		return
	}
	if !int80Calls[nr] {
		th.result(regs, -int64(unix.ENOSYS))
		return
	}
	th.p.as.unprotectAny(th, 0, userLimit) // it may store there
	cache, err := th.jump(regs.rip)
	if err != nil {
		th.raiseLater(th.fetchFault(regs.rip, err), *regs)
		return
	}
	th.resuming = *regs
	th.ctx.setRegisters(regs, cache)
	th.ctx.setCall(abi.Call, call{uintptr(nr), args})
	th.reply(abi.OpInt80, 0)
}

// emulateGS does an instruction with an operand relative to the guest's GS base that the translator
// doesn't rewrite: the string instructions, xlat, and mov with an absolute address, one element at a
// time, so that a fault in the middle shows the state so far.
func (th *thread) emulateGS(in *x86.Inst, regs *registers) bool {
	if in.Seg != 0x65 || in.Map != 0 {
		return false
	}
	base := th.ctx.u64(abi.GuestGS)
	size := th.elementSize(in)
	step := uint64(size)
	if regs.rflags&flagDF != 0 {
		step = -step
	}
	load := func(addr uint64) (uint64, bool) {
		var b [8]byte
		if th.read(addr, b[:size]) < size {
			th.raiseLater(fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, addr), words: trapWords{trapPF, 4, addr}}, *regs)
			return 0, false
		}
		return binary.LittleEndian.Uint64(b[:]), true
	}
	store := func(addr, v uint64) bool {
		if !th.write(addr, le64(v)[:size]) {
			th.raiseLater(fault{info: faultInfo(int(unix.SIGSEGV), segvMAPERR, addr), words: trapWords{trapPF, 6, addr}}, *regs)
			return false
		}
		return true
	}
	repeated := in.Rep || in.Repne
	switch in.Opcode {
	case 0xa4, 0xa5: // movs
		for !repeated || regs.gpr[rcx] != 0 {
			v, ok := load(base + regs.gpr[rsi])
			if !ok || !store(regs.gpr[rdi], v) {
				return true
			}
			regs.gpr[rsi] += step
			regs.gpr[rdi] += step
			if !repeated {
				break
			}
			regs.gpr[rcx]--
		}
	case 0xac, 0xad: // lods
		for !repeated || regs.gpr[rcx] != 0 {
			v, ok := load(base + regs.gpr[rsi])
			if !ok {
				return true
			}
			regs.setPart(rax, size, v)
			regs.gpr[rsi] += step
			if !repeated {
				break
			}
			regs.gpr[rcx]--
		}
	case 0xd7: // xlat
		size = 1
		v, ok := load(base + regs.gpr[rbx] + regs.gpr[rax]&0xff)
		if !ok {
			return true
		}
		regs.setPart(rax, 1, v)
	case 0xa0, 0xa1: // mov rax, moffs
		v, ok := load(base + uint64(in.Disp))
		if !ok {
			return true
		}
		regs.setPart(rax, size, v)
	case 0xa2, 0xa3: // mov moffs, rax
		if !store(base+uint64(in.Disp), regs.gpr[rax]) {
			return true
		}
	default:
		return false
	}
	regs.rip += uint64(in.Len)
	th.resumeAt(*regs)
	return true
}

// elementSize is the operand size of a string instruction or mov with an absolute address, in bytes.
func (th *thread) elementSize(in *x86.Inst) int {
	switch {
	case in.Opcode&1 == 0:
		return 1
	case in.REX&8 != 0:
		return 8
	case in.OpSize:
		return 2
	}
	return 4
}

// setPart writes the low size bytes of a register as the processor does: 4 bytes clear the upper half.
func (r *registers) setPart(reg, size int, v uint64) {
	switch size {
	case 1:
		r.gpr[reg] = r.gpr[reg]&^0xff | v&0xff
	case 2:
		r.gpr[reg] = r.gpr[reg]&^0xffff | v&0xffff
	case 4:
		r.gpr[reg] = v & 0xffffffff
	default:
		r.gpr[reg] = v
	}
}
