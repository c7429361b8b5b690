package translate

import (
	"bytes"
	"slices"

	"xvrun/xv/x86"
)

// A checked region translates code that the guest changes without anyone noticing. Control that enters its body meets,
// instead of the first instruction:
//
//	movups gs:[V],xmm0 ; movups gs:[V+16],xmm1
//	movups xmm0,[word+16]          ; all ones while the code may be executed
//	movups xmm1,[code]             ; for each 16 bytes of the original code
//	pcmpeqb xmm1,[what they were]
//	por xmm1,[loose bytes]         ; if there are any
//	pand xmm0,xmm1
//	...
//	pmovmskb ecx,xmm0
//	lea ecx,[rcx-0xffff]
//	movups xmm1,gs:[V+16] ; movups xmm0,gs:[V]
//	jrcxz same
//	out: jmp link
//	same: mov ecx,gs:[Fuel] ; lea ecx,[rcx-1] ; mov gs:[Fuel],ecx ; jrcxz out
//
// No flag changes, and rcx is in gs:[S] wherever control enters a region: in the register it is needed neither before nor after. Code of less than 16 bytes, behind which may be no
// memory, is compared by
//
//	mov gs:[X0],rdx
//	mov ecx,[word]                 ; 0 while the code may be executed
//	mov edx,[code]                 ; for each 4 bytes
//	lea edx,[rdx-what they were]
//	lea rcx,[rcx+rdx]
//	...
//	mov rdx,gs:[X0]
//	jrcxz same
//
// where the sum of few differences of 32 bits is zero only if all of them are.
//
// The block ends where something may have changed behind the check: after a store, since it may have hit the block
// itself, and after every branch, system call and serializing instruction, since one of those stands between learning
// of another processor's changes and executing them (SDM vol. 3 sec. 9.1.3, APM vol. 2 sec. 7.6.1).

// endsChecked reports whether an instruction ends a checked region.
func endsChecked(k kind, in *x86.Inst) bool {
	switch k {
	case kindCopy, kindRIP, kindGS:
		return in.Stores() || in.Serializes() || in.Class != x86.Other
	case kindRdGS, kindWrGS:
		return false
	}
	return true
}

// Bytes of a checked region, at most: its last instruction may begin at the last of MaxChecked.
const (
	MaxChecked     = 128
	maxCheckedCode = MaxChecked + x86.MaxLen
)

// loose is the part of an instruction that is loaded from the original code when it runs.
type loose struct {
	off, size uint8
}

// looseImm returns the immediate operand of an instruction that can be loaded from the original code; size is 0 if there
// is none.
func looseImm(in *x86.Inst) loose {
	if in.Encoding != x86.Legacy || in.Map != 0 || in.OpSize || in.Lock || in.Seg != 0 {
		return loose{}
	}
	part := loose{in.ImmOff, in.ImmSize}
	op := in.Opcode
	switch {
	case op >= 0xb8 && op <= 0xbf: // mov r,imm
		if op&7|in.Ext&1<<3 == rsp {
			return loose{}
		}
		return part
	case op == 0xc7, op == 0x81, op == 0x83: // mov r,imm ; add r,imm and the like
		if in.ModRM >= 0xc0 && in.RM() != rsp && (op != 0xc7 || in.ModRM>>3&7 == 0) {
			return part
		}
	case op < 0x40 && op&7 == 5: // add eax,imm and the like
		return part
	}
	return loose{}
}

// Loosen compares old and new code of a checked region that starts at addr. If they differ only in immediate operands that
// can be loaded from the original code, it returns the addresses of all instructions of which that is to be done;
// known are those of which it is already.
func Loosen(old, now []byte, addr uint64, known []uint64) ([]uint64, bool) {
	if len(old) > len(now) {
		return nil, false
	}
	all := slices.Clone(known)
	for at := 0; at < len(old); {
		var a, b x86.Inst
		if x86.Decode(old[at:], &a) != nil || x86.Decode(now[at:], &b) != nil || a.Len != b.Len {
			return nil, false
		}
		part := looseImm(&a)
		differs := false
		for i := 0; i < int(a.Len); i++ {
			if old[at+i] == now[at+i] {
				continue
			}
			if i < int(part.off) || i >= int(part.off+part.size) {
				return nil, false
			}
			differs = true
		}
		if pc := addr + uint64(at); differs && !slices.Contains(all, pc) {
			all = append(all, pc)
		}
		at += int(a.Len)
	}
	slices.Sort(all)
	return all, true
}

// Matches reports whether the checks of a checked region with this code would pass now.
func (r *Region) Matches(code, now []byte) bool {
	if len(now) < len(code) {
		return false
	}
	same := true
	r.fixed(code, func(off, n int) {
		same = same && string(code[off:off+n]) == string(now[off:off+n])
	})
	return same
}

// fixed calls f for each run of bytes of the region that its check compares.
func (r *Region) fixed(code []byte, f func(off, n int)) {
	from := 0
	var in x86.Inst
	for _, addr := range r.Loose {
		at := int(addr - r.Entry)
		if at < 0 || at >= len(code) || x86.Decode(code[at:], &in) != nil {
			continue
		}
		if part := looseImm(&in); part.size > 0 {
			if to := at + int(part.off); to > from {
				f(from, to-from)
			}
			from = at + int(part.off+part.size)
		}
	}
	if from < len(code) {
		f(from, len(code)-from)
	}
}

// vector is the size of what one vector register compares.
const vector = 16

// patterns emits what the check compares the code with, in vectors: the code, and where there are loose bytes, a mask of them.
// It returns the address of the first vector of each, 0 if there is none.
func (b *Buffer) patterns(code []byte) (was, loose uint32) {
	if len(code) < vector {
		return 0, 0
	}
	mask := bytes.Repeat([]byte{0xff}, len(code))
	b.region.fixed(code, func(off, n int) { clear(mask[off : off+n]) })
	was = b.base + uint32(b.n)
	b.vectors(code)
	if bytes.Contains(mask, []byte{0xff}) {
		loose = b.base + uint32(b.n)
		b.vectors(mask)
	}
	return was, loose
}

// vectors emits data in the vectors at vectorsOf.
func (b *Buffer) vectors(data []byte) {
	for _, off := range vectorsOf(len(data)) {
		b.grow()
		b.lit(string(data[off : off+vector]))
	}
}

// vectorsOf returns the offsets of vectors that cover n bytes, of which the last two may overlap.
func vectorsOf(n int) (offs []int) {
	for off := 0; off+vector <= n; off += vector {
		offs = append(offs, off)
	}
	if n%vector != 0 {
		offs = append(offs, n-vector)
	}
	return offs
}

// check emits the check before the first block; was and loose are what patterns returned.
func (b *Buffer) check(was, loose uint32) {
	b.pin()
	code := b.src[:b.region.Blocks[0].Len]
	state := Recovery{RIP: b.region.Entry, RCXFromS: true}
	b.stop(state)
	if was != 0 {
		b.checkVectors(len(code), was, loose)
	} else {
		b.checkWords(code)
	}
	b.mark(state)
	b.lit("\xe3") // jrcxz same
	same := b.n
	b.n++
	out := b.n
	b.away = true
	b.pad(1, false, b.region.Entry, 0)
	b.mark(state)
	b.put1(0xe9) // jmp rel32
	b.links = append(b.links, Link{Target: b.region.Entry, Off: uint32(b.n), Check: true, Away: true})
	b.n += 4
	b.code[same] = byte(b.n - same - 1)
	b.mark(state)
	b.lit("\x65\x8b\x0c\x25\x34\x00\x00\x00") // mov ecx,gs:[Fuel]
	b.mark(state)
	b.lit("\x8d\x49\xff") // lea ecx,[rcx-1]
	b.mark(state)
	b.lit("\x65\x89\x0c\x25\x34\x00\x00\x00") // mov gs:[Fuel],ecx
	b.mark(state)
	b.lit("\xe3") // jrcxz out
	b.put1(byte(out - b.n - 1))
}

// checkVectors leaves zero in ecx if n bytes of code are as they were and may be executed.
func (b *Buffer) checkVectors(n int, was, loose uint32) {
	state := Recovery{RIP: b.region.Entry, RCXFromS: true}
	at := func() {
		b.grow()
		b.mark(state)
	}
	b.lit("\x65\x0f\x11\x04\x25") // movups gs:[V],xmm0
	b.put4(OffV)
	at()
	b.lit("\x65\x0f\x11\x0c\x25") // movups gs:[V+16],xmm1
	b.put4(OffV + vector)
	at()
	b.lit("\x0f\x10\x04\x25") // movups xmm0,[disp32]
	b.put4(b.region.Word + vector)
	state.Vectors = true
	far := !near(b.region.Entry + maxCheckedCode)
	if far {
		at()
		b.movImm(rcx, b.region.Entry)
	}
	for i, off := range vectorsOf(n) {
		at()
		if far {
			b.lit("\x0f\x10\x89") // movups xmm1,[rcx+disp32]
			b.put4(uint32(off))
		} else {
			b.lit("\x0f\x10\x0c\x25") // movups xmm1,[disp32]
			b.put4(uint32(b.region.Entry) + uint32(off))
		}
		at()
		b.lit("\x66\x0f\x74\x0c\x25") // pcmpeqb xmm1,[disp32]
		b.put4(was + uint32(vector*i))
		if loose != 0 {
			at()
			b.lit("\x66\x0f\xeb\x0c\x25") // por xmm1,[disp32]
			b.put4(loose + uint32(vector*i))
		}
		at()
		b.lit("\x66\x0f\xdb\xc1") // pand xmm0,xmm1
	}
	at()
	b.lit("\x66\x0f\xd7\xc8") // pmovmskb ecx,xmm0
	at()
	b.lit("\x8d\x89\x01\x00\xff\xff") // lea ecx,[rcx-0xffff]
	at()
	b.lit("\x65\x0f\x10\x0c\x25") // movups xmm1,gs:[V+16]
	b.put4(OffV + vector)
	at()
	b.lit("\x65\x0f\x10\x04\x25") // movups xmm0,gs:[V]
	b.put4(OffV)
}

// checkWords leaves zero in rcx if less than 16 bytes of code are as they were and may be executed.
func (b *Buffer) checkWords(code []byte) {
	state := Recovery{RIP: b.region.Entry, RCXFromS: true}
	b.storeGS(rdx, OffX0)
	state.Saved[0] = Saved{OffX0, rdx}
	b.mark(state)
	b.lit("\x8b\x0c\x25") // mov ecx,[disp32]
	b.put4(b.region.Word)
	far := !near(b.region.Entry + maxCheckedCode)
	if far {
		b.mark(state)
		b.storeGS(rax, OffX1)
		b.mark(state)
		b.movImm(rax, b.region.Entry)
		state.Saved[1] = Saved{OffX1, rax}
	}
	b.region.fixed(code, func(off, n int) {
		switch last := off + n - 4; {
		case n >= 4:
			for ; off < last; off += 4 {
				b.compare(code, off, 4, far, state)
			}
			b.compare(code, last, 4, far, state)
		case n == 1:
			b.compare(code, off, 1, far, state)
		default:
			b.compare(code, off, 2, far, state)
			if n == 3 {
				b.compare(code, off+1, 2, far, state)
			}
		}
	})
	if far {
		b.mark(state)
		b.loadGS(rax, OffX1)
		state.Saved[1] = Saved{}
	}
	b.mark(state)
	b.loadGS(rdx, OffX0)
}

// compare adds the difference of size bytes of the original code to rcx: 0 if they are as in code. s is the state before.
func (b *Buffer) compare(code []byte, off, size int, far bool, s Recovery) {
	b.grow()
	b.mark(s)
	was := uint32(0)
	for i := size - 1; i >= 0; i-- {
		was = was<<8 | uint32(code[off+i])
	}
	switch size { // mov edx,dword ; movzx edx,word ; movzx edx,byte
	case 1:
		b.lit("\x0f\xb6")
	case 2:
		b.lit("\x0f\xb7")
	default:
		b.lit("\x8b")
	}
	if far {
		b.put1(0x50) // [rax+disp8]
		b.put1(byte(off))
	} else {
		b.lit("\x14\x25") // [disp32]
		b.put4(uint32(b.region.Entry) + uint32(off))
	}
	b.mark(s)
	b.lit("\x8d\x92") // lea edx,[rdx+disp32]
	b.put4(-was)
	b.mark(s)
	b.lit("\x48\x8d\x0c\x11") // lea rcx,[rcx+rdx]
}

// loosened translates an instruction whose immediate operand is loaded from the original code; use is as in instruction.
func (b *Buffer) loosened(use uint8) {
	b.loadOperand()
	b.last = -1
	b.changed(use)
}

func (b *Buffer) loadOperand() {
	in := &b.in
	part := looseImm(in)
	addr := b.pc + uint64(part.off)
	reg, op := in.RM(), byte(0x8b) // mov r,r/m
	switch {
	case in.Opcode >= 0xb8:
		if in.Opcode != 0xc7 {
			reg = in.Opcode&7 | in.Ext&1<<3
		}
	case in.Opcode < 0x40:
		reg, op = rax, in.Opcode&0x38|3 // add r,r/m and the like
	default:
		op = in.ModRM&0x38 | 3
	}
	wide := in.Ext & 8
	b.start()
	plain := part.size == 8 || part.size == 4 && wide == 0 // the operand is as long as the immediate
	if plain && near(addr+8) {
		b.absoluteOperand(wide, op, reg, uint32(addr))
		return
	}
	r := lowest(highScratch &^ (1 << reg))
	b.storeGS(r, OffX0)
	state := b.here(b.pc)
	b.mark(state)
	b.movImm(r, addr)
	state.Saved[0] = Saved{OffX0, r}
	b.mark(state)
	// The scratch registers, r8 and higher, are bases without SIB or displacement.
	if plain {
		b.put1(0x41 | wide | reg>>3<<2)
		b.put1(op)
		b.put1(reg&7<<3 | r&7)
	} else {
		b.put1(0x4d) // REX.W, R, B
		if part.size == 1 {
			b.lit("\x0f\xbe") // movsx r64,byte [r]
		} else {
			b.put1(0x63) // movsxd r64,dword [r]
		}
		b.put1(r&7<<3 | r&7)
		b.mark(state)
		b.put1(0x41 | wide | reg>>3<<2)
		b.put1(op)
		b.put1(0xc0 | reg&7<<3 | r&7)
	}
	state.RIP, state.RCXFromS = b.next, state.RCXFromS && reg != rcx
	b.mark(state)
	b.loadGS(r, OffX0)
}

// absoluteOperand emits an instruction of a register and [disp32].
func (b *Buffer) absoluteOperand(wide, op, reg byte, addr uint32) {
	if rex := wide | reg>>3<<2; rex != 0 {
		b.put1(0x40 | rex)
	}
	b.put1(op)
	b.put1(0x04 | reg&7<<3)
	b.put1(0x25)
	b.put4(addr)
}
