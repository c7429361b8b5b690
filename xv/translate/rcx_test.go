package translate

import (
	"bytes"

	"xvrun/xv/x86"
)

// Where rcx is, in checkRCX.
const (
	inRegister = 1 << iota
	inS
)

// rcxChecker follows the emitted code of a fragment, from all places where control enters it, and finds where rcx is.
type rcxChecker struct {
	*checker
	reg    *Region
	frag   *Fragment
	m      *Map
	starts map[uint32]x86.Inst
	links  map[uint32]Link // by the end of the branch
	at     map[uint32]int  // index of the point at an offset
	where  []uint8         // of the points: where rcx is, whatever way control comes
	seen   []bool
	work   []int
}

// checkRCX checks that every recovery tells where rcx is, that no instruction uses rcx where it is not in its register, and
// that it is where other regions expect it whenever control leaves the region.
func (c *checker) checkRCX(reg *Region, frag *Fragment, m *Map, starts map[uint32]x86.Inst) {
	x := rcxChecker{checker: c, reg: reg, frag: frag, m: m, starts: starts, links: map[uint32]Link{}, at: map[uint32]int{},
		where: make([]uint8, len(m.points)), seen: make([]bool, len(m.points))}
	for i, p := range m.points {
		x.at[p.off] = i
	}
	for _, l := range frag.Links {
		x.links[l.Off+4] = l
	}
	for i, e := range frag.Entries {
		if reg.Blocks[i].NeedsRCX() {
			x.reach(e.Off, inRegister|inS)
		} else {
			x.reach(e.Off, inS)
		}
	}
	for _, e := range frag.Returns {
		x.reach(e.Off, inS)
	}
	if reg.Way != ByLink {
		x.reach(frag.JumpEntry, inS)
	}
	if reg.Way == ByCall {
		x.reach(frag.CallEntry, inS)
		if frag.DirectCallEntry == frag.CallEntry {
			x.reach(frag.DirectCallEntry, inS)
		} else {
			x.reach(frag.DirectCallEntry, inRegister|inS)
		}
	}
	for len(x.work) > 0 {
		i := x.work[len(x.work)-1]
		x.work = x.work[:len(x.work)-1]
		x.step(i)
	}
}

// reach notes that control comes to an offset.
func (x *rcxChecker) reach(off uint32, where uint8) {
	i, ok := x.at[off]
	if !ok {
		x.t.Fatalf("control comes to %#x, where no instruction starts", off)
	}
	if now := x.where[i] & where; !x.seen[i] {
		x.seen[i], x.where[i] = true, where
	} else if now == x.where[i] {
		return
	} else {
		x.where[i] = now
	}
	x.work = append(x.work, i)
}

func (x *rcxChecker) step(i int) {
	p, where := &x.m.points[i], x.where[i]
	in := x.starts[p.off]
	want := uint8(inRegister)
	if p.RCXFromS {
		want = inS
	}
	if where&want == 0 && p.Kind != KindGate { // where rcx is lost, as after any system call
		x.t.Fatalf("at %#x, original %#x: rcx is in %d, recovered from %d", p.off, p.RIP, where, want)
	}
	emitted := x.frag.Code[p.off : p.off+uint32(in.Len)]
	var code [x86.MaxLen]byte
	var orig x86.Inst
	if x86.Decode(code[:x.src.ReadCode(p.RIP, code[:])], &orig) != nil {
		orig.Class = x86.Trap // an exit stub
	}
	same := bytes.HasPrefix(code[:], emitted)
	switch k := classify(&orig); {
	case !same && bytes.Equal(emitted, []byte(reloadRCX)):
		where |= inRegister
	case !same && bytes.Equal(emitted, spillRCX):
		where |= inS
	case k == kindCall, k == kindCallInd, k == kindRet, k == kindJmpInd, k == kindSyscall:
		if in.ChangesRCX() && in.Class == x86.Other {
			where &^= inRegister
		}
	case in.Class == x86.Jmp && orig.Class != x86.Jmp:
		// On to the original instruction.
	case i+1 < len(x.m.points) && x.m.points[i+1].RIP == p.RIP:
		// Not the last instruction of the translation.
	case k != kindTrap && k != kindXbegin && k != kindCallNext:
		needs, changes := orig.UseRCX()
		if needs && where&inRegister == 0 {
			x.t.Fatalf("at %#x: % x of %#x uses rcx, which is in %d", p.off, emitted, p.RIP, where)
		}
		if changes {
			where = inRegister
		}
	}
	x.leave(p, &in, where)
}

// leave follows control out of an emitted instruction.
func (x *rcxChecker) leave(p *point, in *x86.Inst, where uint8) {
	end := p.off + uint32(in.Len)
	l, isLink := x.links[end]
	switch {
	case isLink && where&inS == 0:
		x.t.Fatalf("the branch at %#x to %#x leaves with rcx in %d", p.off, l.Target, where)
	case isLink && !l.Away && where&inRegister == 0:
		x.t.Fatalf("the branch at %#x to %#x leaves without rcx", p.off, l.Target)
	}
	switch in.Class {
	case x86.Jmp, x86.Jcc, x86.Loop, x86.Xbegin:
		if to := uint32(in.Target(uint64(p.off))); !isLink && to < uint32(len(x.frag.Code)) {
			x.reach(to, where)
		}
	}
	switch in.Class {
	case x86.Jmp, x86.JmpInd, x86.Ret, x86.Call, x86.CallInd, x86.Trap:
	default:
		x.reach(after(x.reg, x.frag, p.off, in), where)
	}
}
