package translate

import (
	"slices"

	"xvrun/xv/x86"
)

// A checked region translates code that the guest changes without anyone noticing. Control that enters its body meets,
// instead of the first instruction:
//
//	movups gs:[V],xmm0 ; movups gs:[V+16],xmm1
//	movups xmm0,[rip+word]         ; the highest bits of its bytes are ones while the code may be executed
//	pand xmm0,[rip+other word]     ; if the code reaches into another page that has its own
//	mov rcx,code                   ; if it is far
//	movups xmm1,[code]             ; for each 16 bytes that hold some of the original code
//	pcmpeqb xmm1,[rip+what they were]
//	por xmm1,[rip+mask]            ; of bytes that are not compared, if there are any of these 16
//	pand xmm0,xmm1
//	...
//	pmovmskb ecx,xmm0
//	lea ecx,[rcx-0xffff]
//	movups xmm1,gs:[V+16] ; movups xmm0,gs:[V]
//	jrcxz same
//	out: jmp link
//	same: mov ecx,gs:[Fuel] ; lea ecx,[rcx-1] ; mov gs:[Fuel],ecx ; jrcxz out
//
// No flag changes, and rcx is in gs:[S] wherever control enters a region: in the register it is needed neither before nor
// after. All memory operands are aligned: so none reaches into a page that holds no code, and none faults where the program
// has set AC (SDM vol. 1 sec. 3.4.3.3).
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

// Bytes of a checked region, at most: its last instruction may begin at the last of MaxChecked. What a check takes besides the
// comparison is worth that of 50 bytes.
const MaxChecked = 192

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

// vectorBias is where the base of an 8-bit displacement points in the original code, of which a check compares at most 16 vectors.
const vectorBias = 128

// vectorsAt returns the address of the first vector that holds code of the region, which has n bytes, and how many there are.
func (r *Region) vectorsAt(n int) (lo uint64, count int) {
	lo = r.Entry &^ (vector - 1)
	return lo, int(r.Entry+uint64(n)-lo+vector-1) / vector
}

// patterns are vectors that a check compares the code with, in the fragment.
type patterns struct {
	was   uint32  // offset of the first vector of the code
	masks []int32 // for each of these, the offset of the mask of its bytes that are not compared; noMask: all are
}

const noMask = -1

// patterns emits the patterns of a region with this code.
func (b *Buffer) patterns(code []byte) patterns {
	lo, count := b.region.vectorsAt(len(code))
	at := int(b.region.Entry - lo)
	bytes, open := make([]byte, vector*count), make([]byte, vector*count)
	copy(bytes[at:], code)
	for i := range open {
		open[i] = 0xff
	}
	b.region.fixed(code, func(off, n int) { clear(open[at+off : at+off+n]) })
	p := patterns{was: b.vectors(bytes), masks: make([]int32, count)}
	for i := range p.masks {
		p.masks[i] = noMask
		if mask := open[vector*i : vector*(i+1)]; slices.Contains(mask, 0xff) {
			p.masks[i] = int32(b.vectors(mask))
		}
	}
	return p
}

// vectors emits vectors and returns the offset of the first.
func (b *Buffer) vectors(data []byte) uint32 {
	first := uint32(b.n)
	for ; len(data) > 0; data = data[vector:] {
		b.grow()
		b.lit(string(data[:vector]))
	}
	return first
}

// check emits the check before the first block.
func (b *Buffer) check(p patterns) {
	b.pin()
	state := Recovery{RIP: b.region.Entry, RCXFromS: true}
	b.stop(state)
	b.compare(int(b.region.Blocks[0].Len), p)
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

// compare leaves zero in ecx if n bytes of code are as they were and may be executed.
func (b *Buffer) compare(n int, p patterns) {
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
	b.lit("\x0f\x10\x05") // movups xmm0,[rip+disp32]
	b.putTo(b.region.Words[0])
	state.Vectors = true
	if other := b.region.Words[1]; other != b.region.Words[0] {
		at()
		b.lit("\x66\x0f\xdb\x05") // pand xmm0,[rip+disp32]
		b.putTo(other)
	}
	lo, count := b.region.vectorsAt(n)
	far := !near(lo + uint64(vector*count))
	if far {
		at()
		b.movImm(rcx, lo+vectorBias)
	}
	for i := range count {
		off := uint32(vector * i)
		at()
		if far {
			b.lit("\x0f\x10\x49") // movups xmm1,[rcx+disp8]
			b.put1(byte(off - vectorBias))
		} else {
			b.lit("\x0f\x10\x0c\x25") // movups xmm1,[disp32]
			b.put4(uint32(lo) + off)
		}
		at()
		b.lit("\x66\x0f\x74\x0d") // pcmpeqb xmm1,[rip+disp32]
		b.putInside(p.was + off)
		if mask := p.masks[i]; mask != noMask {
			at()
			b.lit("\x66\x0f\xeb\x0d") // por xmm1,[rip+disp32]
			b.putInside(uint32(mask))
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
