package translate

import (
	"encoding/binary"
	"slices"
)

// pad emits nops such that the rel32 field which follows after lead more bytes can be patched: it must lie
// inside one aligned 8 bytes. movable says that the nops may go before the copied instruction before, so
// that the processor can still fuse it with a conditional jump. rip is the original address here.
func (b *Buffer) pad(lead int, movable bool, rip uint64, flags uint8) {
	size := padding(b.n + lead)
	if size == 0 {
		return
	}
	at := b.n
	if movable && b.last >= 0 {
		at = b.last
		copy(b.code[at+size:], b.code[at:b.n])
		if b.rec != nil {
			b.rec.shift(at, size)
		}
	} else if b.rec != nil {
		b.rec.add(at, flags, b.here(rip))
	}
	end := b.n + size
	b.n = at
	b.lit(nops[size])
	b.n = end
}

// padding returns how much must go before a rel32 at an offset, such that it can be patched.
func padding(off int) int {
	if off&7 <= 4 {
		return 0
	}
	return 8 - off&7
}

const prefixDS = 0x3e

var nops = [4]string{
	1: "\x90",         // nop
	2: "\x66\x90",     // data16 nop
	3: "\x0f\x1f\x00", // nop dword [rax]
}

// link emits the rel32 of a direct branch that leaves the region. Its exit stub comes later.
func (b *Buffer) link(target uint64, call bool) {
	b.links = append(b.links, Link{Target: target, Off: uint32(b.n), Call: call, Away: b.away})
	b.n += 4
}

// exitHead is mov dword gs:[Stub],imm32 without the immediate, which is the offset of the exit stub in the cache.
const exitHead = "\x65\xc7\x04\x25\x30\x00\x00\x00"

// exitStub emits an exit stub that goes to one of the agent's entries. The first instruction is marked by
// the caller.
func (b *Buffer) exitStub(to uint32, r Recovery) {
	at := b.n
	b.lit(exitHead)
	b.reloc(relocCache)
	b.put4(b.base + uint32(at))
	b.mark(r)
	b.put1(0xe9) // jmp rel32
	b.putTo(to)
}

func (b *Buffer) special() {
	r := Recovery{RIP: b.pc, Kind: KindSpecial}
	if b.rec != nil {
		b.rec.add(b.n, atStart, r)
	}
	b.exitStub(b.layout.Special, r)
}

// jmp emits a jump to an original address, here where the original address is rip.
func (b *Buffer) jmp(target, rip uint64, flags uint8) {
	i := b.blockAt(target)
	if i < 0 {
		flags = b.spillBefore(rip, flags)
		b.pad(1, false, rip, flags)
	} else {
		flags = b.fetchFor(i, rip, flags)
	}
	if b.rec != nil {
		b.rec.add(b.n, flags, b.here(rip))
	}
	switch {
	case i < 0:
		b.put1(0xe9) // jmp rel32
		b.link(target, false)
	case b.short(i, 2):
		b.put1(0xeb) // jmp rel8
		b.relative(i, 1)
	default:
		b.put1(0xe9) // jmp rel32
		b.relative(i, 4)
	}
}

func (b *Buffer) jump() { b.jmp(b.in.Target(b.pc), b.pc, atStart) }

// fallThrough goes on to the next original instruction after a block.
func (b *Buffer) fallThrough() {
	blocks := b.region.Blocks
	i := b.block + 1
	if i < len(blocks) && blocks[i].Addr == b.next && !(b.region.Way != ByLink && b.next == b.region.Entry) {
		b.fetchFor(i, b.next, 0)
		return
	}
	b.used += roomJmp
	if b.stale {
		b.used += sizeGS
	}
	b.jmp(b.next, b.next, 0)
}

func (b *Buffer) condJump() {
	target := b.in.Target(b.pc)
	cc := b.in.Opcode & 15
	i := b.blockAt(target)
	if i >= 0 {
		b.fetchBeforeLast(i)
	}
	if i >= 0 && b.short(i, 2) {
		b.start()
		b.put1(0x70 | cc) // jcc rel8
		b.relative(i, 1)
		return
	}
	if i < 0 && !b.stale {
		b.pad(2, true, b.pc, atStart)
	}
	b.start()
	b.put1(0x0f) // jcc rel32
	b.put1(0x80 | cc)
	switch {
	case i >= 0:
		b.relative(i, 4)
	case b.stale:
		b.detours = append(b.detours, detour{uint32(b.n), target})
		b.n += 4
	default:
		b.link(target, false)
	}
}

// spillDetours emits the rest of the conditional branches out of the region before which gs:[OffS] need not hold rcx.
func (b *Buffer) spillDetours() {
	b.stale, b.away = true, false
	for _, d := range b.detours {
		b.grow()
		binary.LittleEndian.PutUint32(b.code[d.at:], uint32(b.n)-d.at-4)
		b.jmp(d.target, d.target, atBoundary)
	}
}

// loop translates loopne, loope, loop, jrcxz and jecxz, which have only a rel8.
func (b *Buffer) loop() {
	target := b.in.Target(b.pc)
	i := b.blockAt(target)
	b.start()
	if b.in.AddrSize {
		b.put1(0x67)
	}
	if i >= 0 && b.short(i, 2) {
		b.put1(b.in.Opcode) // loop rel8
		b.relative(i, 1)
		return
	}
	// loop taken ; jmp over ; taken: jmp target ; over:
	b.put1(b.in.Opcode)
	b.put1(2)
	b.mark(Recovery{RIP: b.next})
	b.put1(0xeb) // jmp rel8
	over := b.n
	b.n++
	if b.in.ChangesRCX() {
		b.stale = true
	}
	b.jmp(target, target, 0)
	b.code[over] = byte(b.n - over - 1)
}

func (b *Buffer) xbegin() {
	target := b.in.Target(b.pc)
	i := b.blockAt(target)
	flags := uint8(atStart)
	if i < 0 {
		flags = b.spillBefore(b.pc, flags)
		b.pad(2, false, b.pc, flags)
	}
	if b.rec != nil {
		b.rec.add(b.n, flags, Recovery{RIP: b.pc})
	}
	b.lit("\xc7\xf8") // xbegin rel32
	if i >= 0 {
		b.relative(i, 4)
	} else {
		b.link(target, false)
	}
}

// spill starts the translation of an indirect branch: gs:[OffS] gets rcx, if it does not hold it.
func (b *Buffer) spill() {
	b.start()
	if b.stale {
		b.storeGS(rcx, OffS)
	}
}

// spillBefore emits the spill before a direct branch out of the region, where gs:[OffS] must hold rcx: the code there need
// not spill it again. It returns what is left of the flags for the next instruction.
func (b *Buffer) spillBefore(rip uint64, flags uint8) uint8 {
	if !b.stale {
		return flags
	}
	if b.rec != nil {
		b.rec.add(b.n, flags, Recovery{RIP: rip})
	}
	b.storeGS(rcx, OffS)
	return 0
}

// fetch reloads rcx, before code of the original address rip that needs it in its register.
func (b *Buffer) fetch(rip uint64, flags uint8) {
	if b.rec != nil {
		b.rec.add(b.n, flags, b.here(rip))
	}
	b.loadGS(rcx, OffS)
	b.away = false
}

// fetchFor is fetch before control goes on to block i, if that needs rcx. It returns what is left of the flags for the next
// instruction.
func (b *Buffer) fetchFor(i int, rip uint64, flags uint8) uint8 {
	if !b.away || !b.region.Blocks[i].NeedsRCX() {
		return flags
	}
	b.fetch(rip, flags)
	return 0
}

// fetchBeforeLast is fetchFor before a conditional jump to block i: if it can, before the copied instruction before, so
// that the processor can still fuse the two. That one does not use rcx.
func (b *Buffer) fetchBeforeLast(i int) {
	if b.last < 0 {
		b.fetchFor(i, b.pc, atStart)
		return
	}
	if !b.away || !b.region.Blocks[i].NeedsRCX() {
		return
	}
	at, end := b.last, b.n+sizeGS
	copy(b.code[at+sizeGS:], b.code[at:b.n])
	b.n = at
	b.loadGS(rcx, OffS)
	b.n, b.last, b.away = end, at+sizeGS, false
	if b.rec != nil {
		b.rec.shift(at, sizeGS)
		b.rec.points[len(b.rec.points)-1].RCXFromS = false
	}
}

// returnSite notes where control comes back after a call or a system call: with rcx in gs:[OffS].
func (b *Buffer) returnSite() {
	b.returns = append(b.returns, Entry{b.next, uint32(b.n)})
	b.stale, b.away = false, true
	b.stop(b.here(b.next))
}

// adjustRSP is lea rsp,[rsp+8].
const adjustRSP = "\x48\x8d\x64\x24\x08"

// overAdjust makes adjustRSP behind it the end of nop dword [rax+rcx*2+disp32], whatever the first byte of
// adjustRSP: an int3 there turns it into another nop.
const overAdjust = "\x0f\x1f\x84"

// prologue emits the inline entries: IC, for indirect calls, J, for indirect jumps, and D, for direct calls with rcx in its
// register. Nothing in it jumps: most calls of shared libraries come as an indirect jump of a procedure linkage table. Where
// rcx need not be in its register, IC and D are one, and J is the body.
func (b *Buffer) prologue(needs bool) {
	away := Recovery{RIP: b.pc, RCXFromS: true}
	called := Recovery{RIP: b.pc, RCXFromS: true, RSPAdd: 8}
	if b.region.Way == ByCall {
		b.frag.CallEntry, b.frag.DirectCallEntry = uint32(b.n), uint32(b.n)
		b.stop(called)
		b.lit(adjustRSP)
	}
	b.frag.JumpEntry = uint32(b.n)
	if b.region.Way == ByLink || !needs {
		return
	}
	b.stop(away)
	b.loadGS(rcx, OffS)
	if b.region.Way == ByCall {
		b.mark(Recovery{RIP: b.pc})
		b.lit(overAdjust)
		b.frag.DirectCallEntry = uint32(b.n)
		b.stop(Recovery{RIP: b.pc, RSPAdd: 8})
		b.lit(adjustRSP)
	}
}

// pushReturn pushes the original return address. r is the state before.
func (b *Buffer) pushReturn(r Recovery) {
	b.put1(0x68) // push imm32
	b.putOrig(b.next)
	if !near(b.next) {
		r.RSPAdd += 8
		b.mark(r)
		b.lit("\xc7\x44\x24\x04") // mov dword [rsp+4],imm32
		b.put4(uint32(b.next >> 32))
	}
}

func (b *Buffer) call() {
	flags := b.spillBefore(b.pc, atStart)
	if b.layout.NativeReturns {
		b.pad(1, false, b.pc, flags)
		if b.rec != nil {
			b.rec.add(b.n, flags, b.here(b.pc))
		}
		b.put1(0xe8) // call rel32
		b.link(b.in.Target(b.pc), false)
		b.returnSite()
		return
	}
	if b.rec != nil {
		b.rec.add(b.n, flags, b.here(b.pc))
	}
	// Instead of nops the push gets prefixes that mean nothing.
	for range padding(b.n + int(roomPush(b.next)) + 1) {
		b.put1(prefixDS)
	}
	r := b.here(b.pc)
	b.pushReturn(r)
	r.RSPAdd = 8
	b.mark(r)
	b.put1(0xe8) // call rel32
	b.link(b.in.Target(b.pc), true)
	b.returnSite()
}

func (b *Buffer) callNext() {
	b.start()
	b.pushReturn(b.here(b.pc))
}

// Instructions of opcode ff, as the reg field of ModRM.
const (
	opCall = 2
	opJmp  = 4
	opPush = 6
)

// throughTable emits call, jmp or push of the table entry of the original address in rcx, which stays there: a branch to an
// entry that is not filled goes to address 0. r is the state at the branch; throughTable returns whether it uses the hash.
func (b *Buffer) throughTable(op byte, r Recovery) (hashed bool) {
	if b.hashed() {
		b.throughHash(op, r)
		return true
	}
	r.Kind = KindTable
	b.mark(r)
	b.put1(0xff) // op qword [rcx*8+disp32]
	b.put1(0x04 | op<<3)
	b.put1(0xcd)
	b.put4(b.layout.Table)
	return false
}

// hashed reports whether the instruction is an indirect branch that uses the hash.
func (b *Buffer) hashed() bool {
	return len(b.region.Hashed) > 0 && slices.Contains(b.region.Hashed, b.pc)
}

// throughHash is throughTable by the hash: the address goes to gs:[T], and the entry to rcx. A branch to an entry that is not filled
// has zero there, as if it came from the null page. The table may be anywhere, so that its address takes a register.
func (b *Buffer) throughHash(op byte, r Recovery) {
	table := b.layout.Hash
	if op == opCall && !b.layout.NativeReturns {
		table += 8 * HashSize
	}
	b.mark(r)
	b.storeGS(rcx, OffT)
	b.mark(r)
	b.storeGS(rax, OffX0)
	b.mark(r)
	b.lit("\x0f\xb7\xc9") // movzx ecx,cx
	b.mark(r)
	b.lit("\x48\x8d\x05") // lea rax,[rip+disp32]
	b.putTo(table)
	saved := r
	saved.Saved[0] = Saved{OffX0, rax}
	b.mark(saved)
	b.lit("\x48\x8b\x0c\xc8") // mov rcx,[rax+rcx*8]
	b.mark(saved)
	b.loadGS(rax, OffX0)
	r.Kind, r.Hashed = KindTable, true
	b.mark(r)
	b.put1(0xff) // op rcx
	b.put1(0xc0 | op<<3 | rcx)
}

func (b *Buffer) callIndirect() {
	if b.layout.NativeReturns {
		b.branchIndirect(opCall)
		b.returnSite()
		return
	}
	b.spill()
	r := Recovery{RIP: b.pc, RCXFromS: true}
	reg := b.loadTarget(r)
	b.mark(r)
	b.pushReturn(r)
	r.RSPAdd = 8
	b.mark(r)
	b.put1(0x48 | reg>>3)
	b.put1(0x8d) // lea rcx,[reg+CallBias]
	b.put1(0x80 | rcx<<3 | reg&7)
	b.put4(CallBias)
	b.throughTable(opCall, r)
	b.returnSite()
}

func (b *Buffer) jumpIndirect() { b.branchIndirect(opJmp) }

// branchIndirect translates an indirect branch that pushes nothing besides what op does.
func (b *Buffer) branchIndirect(op byte) {
	b.spill()
	r := Recovery{RIP: b.pc, RCXFromS: true}
	if reg := b.loadTarget(r); reg != rcx {
		b.moveTarget(reg, r)
	}
	b.throughTable(op, r)
}

func (b *Buffer) ret() {
	if b.layout.NativeReturns {
		b.nativeReturn()
		return
	}
	b.spill()
	r := Recovery{RIP: b.pc, RCXFromS: true}
	b.mark(r)
	b.put1(0x59) // pop rcx
	r.RSPAdd = -8
	hashed := b.throughTable(opPush, r)
	// The return address on the stack is gone: only forward from here.
	b.mark(Recovery{RIP: b.pc, RIPFromRCX: true, RCXFromS: true, Hashed: hashed, RSPAdd: 8 + int32(uint16(b.in.Imm))})
	b.putReturn()
}

// putReturn emits the return itself.
func (b *Buffer) putReturn() {
	if b.in.ImmSize == 0 {
		b.put1(0xc3) // ret
		return
	}
	b.put1(0xc2) // ret imm16
	b.put1(byte(b.in.Imm))
	b.put1(byte(b.in.Imm >> 8))
}

// nativeReturn leaves rcx in gs:[OffS], and ReturnMark in the register: so a return to address 0 is told from missed branches.
func (b *Buffer) nativeReturn() {
	b.spill()
	r := Recovery{RIP: b.pc, RCXFromS: true}
	b.mark(r)
	b.put1(0xb8 | rcx) // mov ecx,imm32
	b.put4(ReturnMark)
	b.mark(r)
	b.putReturn()
}

func (b *Buffer) syscall() {
	b.start()
	b.movImm(rcx, b.next)
	b.mark(Recovery{RIP: b.pc, Kind: KindGate})
	b.put1(0xe9) // jmp rel32
	b.putTo(b.layout.Gate)
	b.returnSite()
}
