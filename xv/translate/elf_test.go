package translate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"xvrun/xv/x86"
)

// image is the code of an ELF file, loaded at bias.
type image struct {
	text
	entries []uint64 // of functions
}

func loadImage(tb testing.TB, path string, bias uint64) *image {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	im := new(image)
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 {
			im.addr, im.code = bias+p.Vaddr, make([]byte, p.Filesz)
			if _, err := p.ReadAt(im.code, 0); err != nil {
				tb.Fatal(err)
			}
		}
	}
	symbols, _ := f.Symbols()
	dynamic, _ := f.DynamicSymbols()
	for _, s := range append(symbols, dynamic...) {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section != elf.SHN_UNDEF {
			im.entries = append(im.entries, bias+s.Value)
		}
	}
	if len(im.entries) == 0 {
		im.entries = append(im.entries, bias+f.Entry)
	}
	slices.Sort(im.entries)
	im.entries = slices.Compact(im.entries)
	return im
}

// images returns the paths of programs and libraries that are there.
func images(tb testing.TB) []string {
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	paths := []string{self}
	if p, err := exec.LookPath("gofmt"); err == nil {
		paths = append(paths, p)
	}
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"} {
		for _, name := range []string{"libc.so.6", "libcrypto.so.3", "libstdc++.so.6"} {
			if p := filepath.Join(dir, name); exists(p) {
				paths = append(paths, p)
			}
		}
	}
	return paths
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestImages translates all code that is reachable from the functions of real programs, and checks each fragment.
func TestImages(t *testing.T) {
	for _, path := range images(t) {
		for _, bias := range []uint64{0x1000000, 0x7f0000000000} {
			t.Run(filepath.Base(path), func(t *testing.T) {
				t.Parallel()
				im := loadImage(t, path, bias)
				var c checker
				c.run(t, im)
				if bias < 1<<31 && slices.Min(c.moved[:]) < c.regions/2 || bias >= 1<<31 && c.moved[0] > c.regions/2 {
					t.Errorf("%v of %d fragments can be moved", c.moved, c.regions)
				}
				t.Logf("%#x: %d regions, %d instructions, %d bytes become %d and %d in exit stubs; %d links, %d cannot be decoded",
					bias, c.regions, c.instrs, c.original, c.hot, c.cold, c.links, c.failed)
			})
		}
	}
}

type checker struct {
	t         *testing.T
	src       Source
	seen      map[uint64]bool
	regions   int
	instrs    int
	original  int
	hot, cold int
	links     int
	failed    int
	buf, buf2 Buffer
	base      uint32
	moved     [4]int // fragments, by the distance
	tight     bool   // rooms are not far from the truth, so that short branches must be
}

func (c *checker) run(t *testing.T, im *image) {
	c.t, c.src, c.seen, c.base, c.tight = t, im, make(map[uint64]bool), testBase, true
	queue := slices.Clone(im.entries)
	ways := make(map[uint64]Way)
	for _, e := range queue {
		ways[e] = ByCall
	}
	limit := len(queue) + 20000
	for i := 0; i < len(queue) && i < limit && !t.Failed(); i++ {
		entry := queue[i]
		if c.seen[entry] {
			continue
		}
		reg, err := Discover(im, entry, ways[entry], Limits{Stop: func(a uint64) bool { return c.seen[a] }})
		if err != nil {
			c.failed++
			continue
		}
		for _, l := range c.check(&reg) {
			if !c.seen[l.Target] {
				ways[l.Target] = wayOf(l)
				queue = append(queue, l.Target)
			}
		}
		c.base += 0x1000
		if c.base >= 0x6f000000 {
			c.base = testBase
		}
	}
}

// wayOf varies how the targets of jumps are reached.
func wayOf(l Link) Way {
	if l.Call {
		return ByCall
	}
	return Way(l.Target >> 1 & 1)
}

// check checks one region and returns its links.
func (c *checker) check(reg *Region) []Link {
	t := c.t
	frag, err := Emit(c.src, reg, c.base, &testLayout, &c.buf)
	if err != nil {
		t.Fatalf("%#x: %v", reg.Entry, err)
	}
	m, err := Record(c.src, reg, c.base, &testLayout, &c.buf2)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frag.Code, c.buf2.code[:c.buf2.n]) {
		t.Fatalf("%#x: not the same bytes", reg.Entry)
	}
	c.regions++
	c.instrs += frag.Instrs
	c.hot += int(frag.Hot)
	c.cold += len(frag.Code) - int(frag.Hot)
	c.links += len(frag.Links)

	// Every emitted instruction has a recovery, and there are no others.
	var in x86.Inst
	starts := make(map[uint32]x86.Inst)
	k := 0
	for off := uint32(0); int(off) < len(frag.Code); off = after(reg, frag, off, &in) {
		if err := x86.Decode(frag.Code[off:], &in); err != nil {
			t.Fatalf("%#x: offset %#x: % x: %v", reg.Entry, off, frag.Code[off:], err)
		}
		starts[off] = in
		if k >= len(m.points) || m.points[k].off != off {
			t.Fatalf("%#x: no recovery at %#x", reg.Entry, off)
		}
		k++
	}
	if k != len(m.points) {
		t.Fatalf("%#x: recoveries where no instruction starts", reg.Entry)
	}
	c.checkLinks(reg, frag, starts)
	c.checkBlocks(reg, frag, m, starts)
	c.checkMove(reg, frag)
	c.checkRCX(reg, frag, m, starts)
	return slices.Clone(frag.Links)
}

// after returns the offset behind an instruction. The nop before D reaches over what D starts with.
func after(reg *Region, frag *Fragment, off uint32, in *x86.Inst) uint32 {
	end := off + uint32(in.Len)
	if d := frag.DirectCallEntry; reg.Way == ByCall && off < d && end > d {
		return d
	}
	return end
}

// FuzzTranslate checks the translation of any bytes.
func FuzzTranslate(f *testing.F) {
	for _, form := range forms {
		f.Add(unhex(f, form.code), form.pc >= farPC, uint8(form.way))
	}
	f.Fuzz(func(t *testing.T, code []byte, far bool, way uint8) {
		src := text{nearPC, code}
		if far {
			src.addr = farPC
		}
		reg, err := Discover(src, src.addr+uint64(len(code)/4), Way(way%3), Limits{Blocks: 40, Bytes: 500})
		if err != nil {
			return
		}
		c := checker{t: t, src: src, seen: make(map[uint64]bool), base: testBase}
		c.check(&reg)
		// Other bytes than Discover saw give another translation or an error.
		src.code = slices.Clone(code)
		for i := range code {
			src.code[i] ^= byte(i * 37)
		}
		if _, err := Emit(src, &reg, testBase, &testLayout, &c.buf); err != nil && !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	})
}

func (c *checker) checkLinks(reg *Region, frag *Fragment, starts map[uint32]x86.Inst) {
	for _, l := range frag.Links {
		rel := binary.LittleEndian.Uint32(frag.Code[l.Off:])
		if (c.base+l.Off)&7 > 4 || l.Off+4+rel != l.Stub || l.Stub < frag.Hot {
			c.t.Fatalf("%#x: link %+v", reg.Entry, l)
		}
		if _, ok := starts[l.Stub]; !ok {
			c.t.Fatalf("%#x: stub of %+v", reg.Entry, l)
		}
		if !l.Call && slices.ContainsFunc(reg.Blocks, func(b Block) bool { return b.Addr == l.Target }) {
			c.t.Fatalf("%#x: link %+v into the region", reg.Entry, l)
		}
	}
}

// checkBlocks walks the original code.
func (c *checker) checkBlocks(reg *Region, frag *Fragment, m *Map, starts map[uint32]x86.Inst) {
	t := c.t
	entries := make(map[uint64]uint32)
	for _, e := range frag.Entries {
		entries[e.Addr] = e.Off
	}
	returns := make(map[uint64]bool)
	for _, e := range frag.Returns {
		returns[e.Addr] = true
		if r, ok := m.Recover(e.Off); !ok || r.RIP != e.Addr || !r.RCXFromS {
			t.Fatalf("return site %#x", e.Addr)
		}
	}
	first := make(map[uint64]uint32) // Boundary of each original instruction
	for _, p := range m.points {
		if _, ok := first[p.RIP]; !ok && p.flags&atInstr != 0 {
			first[p.RIP] = p.off
		}
	}
	if off, ok := m.Boundary(reg.Entry); !ok || off != first[reg.Entry] {
		t.Fatalf("%#x: no boundary", reg.Entry)
	}
	stale := c.staleAt(reg)
	for i, b := range reg.Blocks {
		c.seen[b.Addr] = true
		if stale[b.Addr] != b.stale() {
			t.Fatalf("block %#x: stale %v", b.Addr, b.stale())
		}
		c.original += int(b.Len)
		limit := frag.Hot
		if i+1 < len(frag.Entries) {
			limit = frag.Entries[i+1].Off
		}
		if got := limit - frag.Entries[i].Off; got > b.room()+sizePrologue || got > b.room() && reg.Blocks[min(i+1, len(reg.Blocks)-1)].Addr != reg.Entry {
			t.Fatalf("block %#x takes %d bytes, room for %d", b.Addr, got, b.room())
		}
		code := make([]byte, b.Len)
		c.src.ReadCode(b.Addr, code)
		var in x86.Inst
		for at := 0; at < len(code); at += int(in.Len) {
			if err := x86.Decode(code[at:], &in); err != nil {
				t.Fatal(err)
			}
			pc := b.Addr + uint64(at)
			off, ok := first[pc]
			if r, found := m.Recover(off); !ok || !found || r.RIP != pc || !r.Exact() {
				t.Fatalf("no boundary of %#x", pc)
			}
			if needsS(&in, pc, entries) {
				// A conditional jump has it out of line.
				spills := bytes.HasPrefix(frag.Code[off:], spillRCX) || in.Class == x86.Jcc && bytes.HasPrefix(frag.Code[c.target(frag, off, starts):], spillRCX)
				if spills != stale[pc] {
					t.Fatalf("%#x: spill %v, stale %v", pc, spills, stale[pc])
				}
			}
			c.checkInst(pc, code[at:at+int(in.Len)], &in, frag, off, starts, entries, returns)
		}
	}
}

// spillRCX is mov gs:[S],rcx.
var spillRCX = []byte("\x65\x48\x89\x0c\x25\x08\x00\x00\x00")

// needsS reports an instruction after which rcx must be in gs:[OffS]; of calls that is before the callee.
func needsS(in *x86.Inst, pc uint64, entries map[uint64]uint32) bool {
	switch classify(in) {
	case kindCall, kindCallInd, kindJmpInd, kindRet:
		return true
	case kindJmp, kindJcc, kindXbegin:
		_, inside := entries[in.Target(pc)]
		return !inside
	}
	return false
}

// staleAt finds the instructions before which gs:[OffS] need not hold rcx, in the simplest way.
func (c *checker) staleAt(reg *Region) map[uint64]bool {
	stale := make(map[uint64]bool)
	leaders := make(map[uint64]bool)
	for _, b := range reg.Blocks {
		leaders[b.Addr] = true
	}
	for again := true; again; {
		again = false
		reach := func(pc uint64, st bool) {
			if st && !stale[pc] {
				stale[pc], again = true, true
			}
		}
		for _, b := range reg.Blocks {
			code := make([]byte, b.Len)
			c.src.ReadCode(b.Addr, code)
			var in x86.Inst
			for at := 0; at < len(code); at += int(in.Len) {
				if err := x86.Decode(code[at:], &in); err != nil {
					c.t.Fatal(err)
				}
				pc := b.Addr + uint64(at)
				k, st := classify(&in), stale[pc]
				if k != kindCallNext && in.ChangesRCX() {
					st = true
				}
				if k.follows() && leaders[in.Target(pc)] {
					reach(in.Target(pc), st)
				}
				if k == kindCall || k == kindCallInd || k == kindSyscall {
					st = false
				}
				if !k.ends() {
					reach(pc+uint64(in.Len), st)
				}
			}
		}
	}
	return stale
}

// target follows the jump at an offset, over a nop before it.
func (c *checker) target(frag *Fragment, off uint32, starts map[uint32]x86.Inst) uint32 {
	in := starts[off]
	if slices.Contains(nops[:], string(frag.Code[off:off+uint32(in.Len)])) {
		off += uint32(in.Len)
		in = starts[off]
	}
	if in.Class == x86.Other {
		return off
	}
	return uint32(in.Target(uint64(off)))
}

func (c *checker) checkInst(pc uint64, code []byte, in *x86.Inst, frag *Fragment, off uint32, starts map[uint32]x86.Inst, entries map[uint64]uint32, returns map[uint64]bool) {
	t := c.t
	for _, extra := range []string{string(spillRCX), reloadRCX} {
		if bytes.HasPrefix(frag.Code[off:], []byte(extra)) && !bytes.HasPrefix(code, []byte(extra)) {
			off += uint32(len(extra))
		}
	}
	pad := starts[off]
	same := bytes.HasPrefix(frag.Code[off:], code)
	if !same && slices.Contains(nops[:], string(frag.Code[off:off+uint32(pad.Len)])) {
		off += uint32(pad.Len)
		same = bytes.HasPrefix(frag.Code[off:], code)
	}
	switch k := classify(in); k {
	case kindCopy, kindTrap:
		if !same {
			t.Fatalf("%#x: % x is not copied", pc, code)
		}
	case kindCall, kindCallInd, kindSyscall:
		if !returns[pc+uint64(len(code))] {
			t.Fatalf("%#x: no return site", pc)
		}
	case kindJmp, kindJcc, kindXbegin:
		out := starts[off]
		if !slices.Contains([]x86.Class{x86.Jmp, x86.Jcc, x86.Xbegin}, out.Class) || k == kindJcc && out.Opcode&15 != in.Opcode&15 {
			t.Fatalf("%#x: % x becomes % x", pc, code, frag.Code[off:off+uint32(out.Len)])
		}
		to := uint32(out.Target(uint64(off)))
		target := in.Target(pc)
		if dest, ok := entries[target]; ok {
			if to != dest {
				t.Fatalf("%#x: goes to %#x instead of %#x", pc, to, dest)
			}
			if d := int64(dest) - int64(off) - 2; c.tight && out.ImmSize == 4 && k != kindXbegin && d >= -128 && d < 40 {
				t.Fatalf("%#x: a long branch over %d bytes", pc, d)
			}
			return
		}
		if bytes.HasPrefix(frag.Code[to:], spillRCX) && to >= frag.Hot {
			to = c.target(frag, to+uint32(len(spillRCX)), starts)
		}
		if !slices.ContainsFunc(frag.Links, func(l Link) bool { return l.Stub == to && l.Target == target }) {
			t.Fatalf("%#x: no link to %#x", pc, target)
		}
	}
}
