package translate

import (
	"cmp"
	"slices"
	"sync"

	"xvrun/xv/x86"
)

// Discover finds the region at entry: it follows fall-throughs and the direct targets of jumps, breadth
// first. Calls are not followed, but the code after them is. The only error is a DecodeError, when not even the first instruction can be translated.
func Discover(src Source, entry uint64, way Way, lim Limits) (Region, error) {
	e := explorers.Get().(*explorer)
	defer explorers.Put(e)
	e.start(src, entry, lim)
	r := Region{Entry: entry, Way: way, Checked: lim.Checked}
	err := e.explore()
	if err == nil {
		e.resolve()
		e.flow()
		if !lim.Checked { // behind a check rcx need not be in its register
			e.needs()
		}
		r.Blocks = e.blocks(way)
	}
	e.src, e.lim.Stop = nil, nil
	return r, err
}

var explorers = sync.Pool{New: func() any { return new(explorer) }}

// step is one instruction that was found. Steps that follow each other in the list follow each other in the
// code, unless the first of them has stepLast.
type step struct {
	off    int32 // from the entry
	target int32 // of a direct branch, from the entry, and later the index of its step; valid if stepFollowed
	room   uint16
	len    uint8
	kind   kind
	flags  uint8
}

const (
	stepLeader   = 1 << iota // a block starts here
	stepLast                 // the step after it in the list is not the next in the code
	stepEnds                 // does not fall through
	stepFollowed             // direct branch within reach, and later within the region
	stepChanges              // may change rcx
	stepUses                 // needs rcx in its register
	stepStale                // of a leader: a way in from within the region leaves rcx not in gs:[OffS]
	stepNeeds                // of a leader: rcx must be in its register
)

// slot of the hash table from offsets to steps; valid if gen is the explorer's.
type slot struct {
	off  int32
	gen  uint32
	step int32
}

const (
	windowSize = 256
	pageSize   = 4096
	maxReach   = 1 << 30 // offsets from the entry fit an int32
)

// explorer is the working memory of Discover.
type explorer struct {
	src   Source
	entry uint64
	lim   Limits

	steps   []step
	table   []slot
	mask    uint32
	gen     uint32
	queue   []uint64
	leaders int
	bytes   int
	in      x86.Inst

	window     [windowSize]byte // original code
	windowAddr uint64
	windowLen  int
	cross      [x86.MaxLen]byte // an instruction that crosses the end of a page
}

func (e *explorer) start(src Source, entry uint64, lim Limits) {
	if lim.Blocks <= 0 {
		lim.Blocks = DefaultBlocks
	}
	if lim.Bytes <= 0 {
		lim.Bytes = DefaultBytes
	}
	if lim.Reach == 0 {
		lim.Reach = DefaultReach
	}
	lim.Reach, lim.Bytes = min(lim.Reach, maxReach), min(lim.Bytes, maxReach)
	e.src, e.entry, e.lim = src, entry, lim
	e.steps, e.queue = e.steps[:0], e.queue[:0]
	e.leaders, e.bytes, e.windowLen = 0, 0, 0
	size := 1024
	for size < 2*lim.Bytes {
		size *= 2
	}
	e.gen++
	if len(e.table) < size || e.gen == 0 {
		e.table, e.gen = make([]slot, size), 1
	}
	e.mask = uint32(len(e.table) - 1)
}

func (e *explorer) explore() error {
	if err := e.run(e.entry); err != nil {
		return err
	}
	for i := 0; i < len(e.queue) && e.leaders < e.lim.Blocks; i++ {
		addr := e.queue[i]
		if s := e.find(addr); s.gen == e.gen {
			e.lead(s.step)
			continue
		}
		if e.bytes < e.lim.Bytes && !e.stop(addr) {
			// An address that cannot be decoded stays outside the region.
			_ = e.run(addr)
		}
	}
	return nil
}

// run decodes from addr to the end of the control flow, to known code or to a limit.
func (e *explorer) run(addr uint64) error {
	first := len(e.steps)
	stale := false // on the way from addr: what is stale stays so up to the next return site
	for pc := addr; ; {
		s := e.find(pc)
		if s.gen == e.gen {
			e.lead(s.step)
			break
		}
		if pc != addr && (e.bytes >= e.lim.Bytes || e.stop(pc)) {
			break
		}
		if err := e.decode(pc); err != nil {
			if len(e.steps) == first {
				return err
			}
			break
		}
		in := &e.in
		k := classify(in)
		st := step{off: int32(pc - e.entry), len: in.Len, kind: k, room: uint16(room(k, in, pc))}
		if k.ends() {
			st.flags = stepEnds
		}
		if !stale {
			st.flags |= rcxUse(k, in, pc)
		}
		stale = st.stale(stale)
		*s = slot{st.off, e.gen, int32(len(e.steps))}
		e.steps = append(e.steps, st)
		e.bytes += int(in.Len)
		if k.follows() && !e.lim.Checked && e.push(in.Target(pc)) {
			e.steps[len(e.steps)-1].target = int32(in.Target(pc) - e.entry)
			e.steps[len(e.steps)-1].flags |= stepFollowed
		}
		if k.ends() || e.lim.Checked && endsChecked(k, in) {
			break
		}
		pc += uint64(in.Len)
	}
	e.lead(int32(first))
	e.steps[len(e.steps)-1].flags |= stepLast
	return nil
}

func (e *explorer) stop(addr uint64) bool { return e.lim.Stop != nil && e.lim.Stop(addr) }

func (e *explorer) lead(i int32) {
	if s := &e.steps[i]; s.flags&stepLeader == 0 {
		s.flags |= stepLeader
		e.leaders++
	}
}

// push queues the target of a branch, if it is near enough.
func (e *explorer) push(addr uint64) bool {
	if d := int64(addr - e.entry); d > int64(e.lim.Reach) || d < -int64(e.lim.Reach) {
		return false
	}
	e.queue = append(e.queue, addr)
	return true
}

// resolve replaces the targets of followed branches by the indices of their steps. A branch out of the region is not followed.
func (e *explorer) resolve() {
	for i := range e.steps {
		s := &e.steps[i]
		if s.flags&stepFollowed == 0 {
			continue
		}
		if t := e.leaderAt(s.target); t >= 0 {
			s.target = t
		} else {
			s.flags &^= stepFollowed
		}
	}
}

// leaderAt returns the index of the step that leads the block at an offset from the entry, or -1.
func (e *explorer) leaderAt(off int32) int32 {
	t := e.find(e.entry + uint64(int64(off)))
	if t.gen != e.gen || e.steps[t.step].flags&stepLeader == 0 {
		return -1
	}
	return t.step
}

// flow finds the blocks at whose start gs:[OffS] need not hold rcx. Control that comes from outside the region finds rcx
// there. Blocks are taken not to be stale until a way to them is found that is.
func (e *explorer) flow() {
	for again := true; again; {
		again = false
		stale := false
		for i := range e.steps {
			s := &e.steps[i]
			if s.flags&stepLeader != 0 {
				if stale {
					s.flags |= stepStale
				}
				stale = s.flags&stepStale != 0
			}
			after := s.stale(stale)
			if s.flags&stepFollowed != 0 && (stale || s.kind == kindLoop && after) {
				again = e.taint(s.target, i) || again
			}
			stale = after
			if s.flags&stepLast != 0 {
				if stale && s.flags&stepEnds == 0 {
					if t := e.leaderAt(s.off + int32(s.len)); t >= 0 {
						again = e.taint(t, i) || again
					}
				}
				stale = false
			}
		}
	}
}

// taint marks the block of a leader as stale, and reports whether the step from where it is reached is too late in the
// list to have been seen with that.
func (e *explorer) taint(leader int32, from int) bool {
	s := &e.steps[leader]
	if s.flags&stepStale != 0 {
		return false
	}
	s.flags |= stepStale
	return int(leader) <= from
}

// needs finds the blocks that need rcx in its register: where it is used before it is overwritten and before control
// leaves the region, which it does with rcx in gs:[OffS], or where it is nowhere else. Steps are taken not to need it until a
// way on is found that does.
func (e *explorer) needs() {
	for again := true; again; {
		again = false
		need := false
		for i := len(e.steps) - 1; i >= 0; i-- {
			s := &e.steps[i]
			if s.flags&stepLast != 0 {
				need = false
				if s.flags&stepEnds == 0 {
					t := e.leaderAt(s.off + int32(s.len))
					need = t >= 0 && e.steps[t].flags&stepNeeds != 0
				}
			}
			need = s.flags&stepUses != 0 || need && !s.settles() || s.flags&stepFollowed != 0 && e.steps[s.target].flags&stepNeeds != 0
			if s.flags&stepLeader != 0 {
				need = need || s.flags&stepStale != 0
				if need && s.flags&stepNeeds == 0 {
					s.flags |= stepNeeds
					again = true
				}
			}
		}
	}
}

// settles reports that it does not matter before the step whether rcx is needed after it.
func (s *step) settles() bool {
	switch s.kind {
	case kindCall, kindCallInd, kindSyscall:
		return true
	}
	return s.flags&stepChanges != 0
}

// stale tells whether gs:[OffS] need not hold rcx after the step, if it need not before.
func (s *step) stale(before bool) bool {
	switch s.kind {
	case kindCall, kindCallInd, kindSyscall:
		return false
	}
	return before || s.flags&stepChanges != 0
}

// find returns the slot of addr, or the free one where it belongs.
func (e *explorer) find(addr uint64) *slot {
	off := int32(addr - e.entry)
	h := uint32(off)
	for i := h ^ h>>14*0x9e37; ; i++ {
		s := &e.table[i&e.mask]
		if s.gen != e.gen || s.off == off {
			return s
		}
	}
}

// decode decodes the instruction at pc. It reads no page before it needs it.
func (e *explorer) decode(pc uint64) error {
	at := pc - e.windowAddr
	rest := e.windowLen - int(at)
	if at >= uint64(e.windowLen) || rest < x86.MaxLen && (pc+uint64(rest))%pageSize != 0 {
		n := min(windowSize, int(pageSize-pc%pageSize))
		e.windowAddr, e.windowLen, at = pc, e.src.ReadCode(pc, e.window[:n]), 0
		if e.windowLen <= 0 {
			e.windowLen = 0
			return &DecodeError{Addr: pc}
		}
	}
	code := e.window[at:e.windowLen]
	err := x86.Decode(code, &e.in)
	if err == x86.ErrTruncated {
		code = e.cross[:max(0, e.src.ReadCode(pc, e.cross[:]))]
		err = x86.Decode(code, &e.in)
	}
	if err != nil {
		return &DecodeError{Addr: pc, Bytes: slices.Clone(code[:min(len(code), x86.MaxLen)]), Err: err}
	}
	return nil
}

// blocks makes the blocks out of the steps.
func (e *explorer) blocks(way Way) []Block {
	blocks := make([]Block, 0, e.leaders)
	ends := true // the block before ends with the step before
	stale := false
	for i := range e.steps {
		s := &e.steps[i]
		if ends || s.flags&stepLeader != 0 {
			blocks = append(blocks, Block{Addr: e.entry + uint64(int64(s.off))})
			stale = s.flags&stepStale != 0
			if stale {
				blocks[len(blocks)-1].Room |= blockStale
			}
			if s.flags&stepNeeds != 0 {
				blocks[len(blocks)-1].Room |= blockNeeds
			}
		}
		b := &blocks[len(blocks)-1]
		b.Len += uint32(s.len)
		b.Room += uint32(s.room)
		if stale {
			b.Room += roomSpill(s.kind)
		}
		stale = s.stale(stale)
		b.Room &^= roomStale
		if stale {
			b.Room |= roomStale
		}
		ends = s.flags&stepLast != 0
		if s.flags&stepEnds != 0 {
			b.Room |= roomEnds
		}
	}
	slices.SortFunc(blocks, func(a, b Block) int { return cmp.Compare(a.Addr, b.Addr) })
	for i := range blocks {
		b := &blocks[i]
		next := b.Addr + uint64(b.Len)
		if b.Room&roomEnds == 0 && (i+1 == len(blocks) || blocks[i+1].Addr != next || way != ByLink && next == e.entry) {
			b.Room += roomJmp
			if b.Room&roomStale != 0 {
				b.Room += sizeGS
			}
		}
		b.Room &^= roomEnds | roomStale
	}
	return blocks
}

// Marks in Room while blocks are made.
const (
	roomEnds  = 1 << 29 // does not fall through
	roomStale = 1 << 28 // gs:[OffS] need not hold rcx at the end
)
