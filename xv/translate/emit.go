package translate

import (
	"encoding/binary"
	"fmt"
	"slices"

	"xvrun/xv/x86"
)

// Buffer is the working memory of Emit, to be used again and again. The zero value is ready. It must not be
// used by two goroutines at the same time.
type Buffer struct {
	code []byte
	n    int    // bytes emitted
	src  []byte // original bytes of the block

	labels  []uint32 // offset of every block that was reached
	bound   []uint32 // upper bound of the offset of every block, if every instruction takes its room
	entries []Entry
	returns []Entry
	links   []Link
	fixups  []fixup
	detours []detour
	frag    Fragment

	region *Region
	layout *Layout
	base   uint32 // of the fragment, a cache offset
	rec    *Map   // nil: do not record
	moving bool   // note in moves how the fragment can be moved
	moves  Moves

	// The instruction being translated.
	in    x86.Inst
	raw   []byte // its bytes
	pc    uint64
	next  uint64
	block int    // its block
	used  uint32 // room taken in the block, with that of this instruction
	last  int    // where the copy of the instruction before starts, if it may be moved; else -1
	stale bool   // gs:[OffS] need not hold rcx before the instruction
	away  bool   // the register need not hold rcx before the instruction, gs:[OffS] does
}

// fixup is a branch inside the region to a block that was not emitted yet.
type fixup struct {
	at    uint32 // offset of the field, which the instruction ends with
	size  uint8
	block int32
}

// detour is a conditional branch out of the region at a place where gs:[OffS] need not hold rcx.
type detour struct {
	at     uint32 // offset of the rel32, which the instruction ends with
	target uint64
}

const (
	slack   = 256 // at least as much free space in code before each instruction
	srcTail = 16  // readable bytes after the original bytes of a block
)

// Emit translates a region for the cache offset base. The fragment is valid until the next use of buf.
func Emit(src Source, r *Region, base uint32, l *Layout, buf *Buffer) (*Fragment, error) {
	return buf.emit(src, r, base, l, nil)
}

func (b *Buffer) emit(src Source, r *Region, base uint32, l *Layout, rec *Map) (*Fragment, error) {
	if base%Align != 0 {
		return nil, ErrUnaligned
	}
	b.begin(r, base, l, rec)
	for i := range r.Blocks {
		if err := b.emitBlock(src, i); err != nil {
			return nil, err
		}
	}
	if err := b.fix(); err != nil {
		return nil, err
	}
	b.frag.Hot = uint32(b.n)
	b.spillDetours()
	b.exitStubs()
	b.frag.Code = b.code[:b.n]
	b.frag.Entries, b.frag.Returns, b.frag.Links = b.entries, b.returns, b.links
	b.region, b.layout, b.rec = nil, nil, nil
	return &b.frag, nil
}

func (b *Buffer) begin(r *Region, base uint32, l *Layout, rec *Map) {
	b.region, b.base, b.layout, b.rec = r, base, l, rec
	b.n, b.frag = 0, Fragment{}
	b.entries, b.returns, b.links, b.fixups, b.detours = b.entries[:0], b.returns[:0], b.links[:0], b.fixups[:0], b.detours[:0]
	b.labels, b.bound = b.labels[:0], b.bound[:0]
	at := uint32(0)
	for i := range r.Blocks {
		blk := &r.Blocks[i]
		if blk.Addr == r.Entry {
			at += prologueSizes[r.Way]
		}
		b.bound = append(b.bound, at)
		at += blk.room()
		for _, pc := range r.Hashed {
			if pc-blk.Addr < uint64(blk.Len) {
				at += roomHash
			}
		}
	}
}

// emitBlock translates block i.
func (b *Buffer) emitBlock(src Source, i int) error {
	blk := &b.region.Blocks[i]
	n := int(blk.Len)
	if cap(b.src) < n+srcTail {
		b.src = make([]byte, 2*n+srcTail)
	}
	b.src = b.src[:n+srcTail]
	if n == 0 || src.ReadCode(blk.Addr, b.src[:n]) < n {
		return fmt.Errorf("%w at %#x", ErrChanged, blk.Addr)
	}
	b.grow()
	var compared patterns
	if b.region.Checked {
		compared = b.patterns(b.src[:n])
		b.grow()
	}
	if blk.Addr == b.region.Entry {
		b.pc = blk.Addr
		b.prologue(blk.NeedsRCX())
	}
	b.labels = append(b.labels, uint32(b.n))
	b.entries = append(b.entries, Entry{blk.Addr, uint32(b.n)})
	b.block, b.used, b.last, b.stale, b.away = i, 0, -1, blk.stale(), blk.away()
	if b.region.Checked {
		b.check(compared)
	}
	k := kindCopy
	for at := 0; at < n; {
		if err := x86.Decode(b.src[at:n], &b.in); err != nil {
			return fmt.Errorf("%w at %#x: %w", ErrChanged, blk.Addr+uint64(at), err)
		}
		b.grow()
		size := int(b.in.Len)
		b.raw = b.src[at : at+size : at+size+srcTail]
		b.pc = blk.Addr + uint64(at)
		b.next = b.pc + uint64(size)
		k = classify(&b.in)
		b.used += room(k, &b.in, b.pc)
		if b.hashed() {
			b.used += roomHash
		}
		if b.stale {
			b.used += roomSpill(k)
		}
		b.frag.Instrs++
		var use uint8
		if !b.stale {
			use = rcxUse(k, &b.in, b.pc)
			if b.away && use&stepUses != 0 {
				b.fetch(b.pc, atStart)
			}
		}
		if b.region.Checked && slices.Contains(b.region.Loose, b.pc) {
			b.loosened(use)
		} else {
			b.instruction(k, use)
		}
		at += size
	}
	if !k.ends() {
		b.grow()
		b.fallThrough()
	}
	return nil
}

func (b *Buffer) grow() {
	if b.n+slack > len(b.code) {
		b.code = append(b.code, make([]byte, len(b.code)+4096)...)
	}
}

// instruction translates an instruction; use is rcxUse of it, if gs:[OffS] holds rcx before.
func (b *Buffer) instruction(k kind, use uint8) {
	if k == kindCopy || k == kindTrap {
		b.start()
		// A constant length is a quarter of the time of copying Len bytes.
		copy(b.code[b.n:b.n+srcTail], b.raw[:srcTail])
		b.last = b.n
		b.n += int(b.in.Len)
		b.changed(use)
		return
	}
	switch k {
	case kindRIP:
		b.ripRelative()
	case kindGS:
		b.gsOperand()
	case kindRdGS:
		b.readGS()
	case kindWrGS:
		b.writeGS()
	case kindJmp:
		b.jump()
	case kindJcc:
		b.condJump()
	case kindLoop:
		b.loop()
	case kindXbegin:
		b.xbegin()
	case kindCall:
		b.call()
	case kindCallNext:
		b.callNext()
	case kindJmpInd:
		b.jumpIndirect()
	case kindCallInd:
		b.callIndirect()
	case kindRet:
		b.ret()
	case kindSyscall:
		b.syscall()
	case kindSpecial:
		b.special()
	}
	b.last = -1
	b.changed(use)
}

// changed notes where rcx is after an instruction, by rcxUse of it.
func (b *Buffer) changed(use uint8) {
	if use&stepChanges != 0 {
		b.stale, b.away = true, false
	}
}

// blockAt returns the block that starts at addr and can be entered from where the region is now, or -1. A checked region
// is entered as if from outside, since it is to be checked again.
func (b *Buffer) blockAt(addr uint64) int {
	if b.region.Checked {
		return -1
	}
	blocks := b.region.Blocks
	lo, hi := 0, len(blocks)
	for lo < hi {
		m := int(uint(lo+hi) / 2)
		if blocks[m].Addr < addr {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(blocks) && blocks[lo].Addr == addr {
		return lo
	}
	return -1
}

// short reports that a branch of the given size at the present place reaches block i with a rel8.
func (b *Buffer) short(i, size int) bool {
	if i < len(b.labels) {
		return int(b.labels[i])-b.n-size >= -128
	}
	// The distance is at most the room of what lies between. used has that of this instruction already, and that of the
	// reload after a call before it.
	d := b.bound[i] - b.bound[b.block] - b.used
	if b.away {
		d += sizeGS
	}
	return d <= 127
}

// relative emits the relative field of a branch to block i; the instruction ends with it.
func (b *Buffer) relative(i, size int) {
	if i < len(b.labels) {
		b.putRel(size, int(b.labels[i])-b.n-size)
		return
	}
	b.fixups = append(b.fixups, fixup{uint32(b.n), uint8(size), int32(i)})
	b.n += size
}

func (b *Buffer) putRel(size, rel int) {
	if size == 1 {
		b.code[b.n] = byte(rel)
	} else {
		binary.LittleEndian.PutUint32(b.code[b.n:], uint32(rel))
	}
	b.n += size
}

// fix fills in the forward branches.
func (b *Buffer) fix() error {
	end := b.n
	for _, f := range b.fixups {
		rel := int(b.labels[f.block]) - int(f.at) - int(f.size)
		if f.size == 1 && rel != int(int8(rel)) {
			return fmt.Errorf("%w: block %#x takes more than its room", ErrChanged, b.region.Entry)
		}
		b.n = int(f.at)
		b.putRel(int(f.size), rel)
	}
	b.n = end
	return nil
}

// exitStubs emits the exit stubs of the links and makes the links lead to them.
func (b *Buffer) exitStubs() {
	for i := range b.links {
		b.grow()
		k := &b.links[i]
		k.Stub = uint32(b.n)
		binary.LittleEndian.PutUint32(b.code[k.Off:], k.Stub-k.Off-4)
		s := Recovery{RIP: k.Target, RCXFromS: true, Kind: KindExit}
		if k.Call {
			s.Kind, s.RSPAdd = KindCallExit, 8
		}
		b.stop(s)
		b.exitStub(b.layout.Miss, s)
	}
}

// lit emits machine code.
func (b *Buffer) lit(code string) { b.n += copy(b.code[b.n:], code) }

func (b *Buffer) put1(v byte) {
	b.code[b.n] = v
	b.n++
}

func (b *Buffer) put4(v uint32) {
	binary.LittleEndian.PutUint32(b.code[b.n:], v)
	b.n += 4
}

func (b *Buffer) put8(v uint64) {
	binary.LittleEndian.PutUint64(b.code[b.n:], v)
	b.n += 8
}

// putTo emits the distance to something outside the fragment, at a cache offset; the instruction ends with it.
func (b *Buffer) putTo(to uint32) {
	b.reloc(relocOutside)
	b.put4(to - (b.base + uint32(b.n) + 4))
}

// putInside is the same for an offset in the fragment.
func (b *Buffer) putInside(off uint32) { b.put4(off - (uint32(b.n) + 4)) }

// here is the recovery of a place between instructions.
func (b *Buffer) here(rip uint64) Recovery { return Recovery{RIP: rip, RCXFromS: b.away} }

// start notes that the translation of the instruction starts here.
func (b *Buffer) start() {
	if b.rec != nil {
		b.rec.add(b.n, atStart, b.here(b.pc))
	}
}

// mark notes how to recover the original state at this place, where an emitted instruction starts.
func (b *Buffer) mark(r Recovery) {
	if b.rec != nil {
		b.rec.add(b.n, 0, r)
	}
}

// stop notes the same of a place that is entered from elsewhere.
func (b *Buffer) stop(r Recovery) {
	if b.rec != nil {
		b.rec.add(b.n, atBoundary, r)
	}
}
