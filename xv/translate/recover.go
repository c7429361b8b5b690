package translate

import "sort"

// Map relates the offsets of a fragment to the original program. It is made by translating again.
type Map struct {
	points []point // in order of off
}

// point is the start of an emitted instruction.
type point struct {
	off   uint32
	flags uint8
	Recovery
}

const (
	atBoundary = 1 << iota // control arrives here from outside the translation of one instruction
	atInstr                // the translation of an instruction starts here, with the exact state
	atStart    = atBoundary | atInstr
)

// add notes a point. The first recovery for an offset stays: the same instruction can be the first of a translation and
// have its place in a sequence. But if that accesses a table, so does the first.
func (m *Map) add(off int, flags uint8, r Recovery) {
	if n := len(m.points); n > 0 && m.points[n-1].off == uint32(off) {
		m.points[n-1].flags |= flags
		if r.Kind == KindTable {
			m.points[n-1].Kind = KindTable
		}
		return
	}
	m.points = append(m.points, point{uint32(off), flags, r})
}

// shift notes that nops of the given size were put before the last instruction, which starts at off.
func (m *Map) shift(off, size int) {
	p := m.points[len(m.points)-1]
	p.off, p.flags = uint32(off+size), 0
	m.points = append(m.points, p)
}

// Record translates the region again and returns the map of its fragment.
func Record(src Source, r *Region, base uint32, l *Layout, buf *Buffer) (*Map, error) {
	m := new(Map)
	if _, err := buf.emit(src, r, base, l, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Recover returns the recovery for an offset, which must be where an emitted instruction starts: a thread
// stopped there, or the instruction faulted.
func (m *Map) Recover(off uint32) (Recovery, bool) {
	i := sort.Search(len(m.points), func(i int) bool { return m.points[i].off >= off })
	if i == len(m.points) || m.points[i].off != off {
		return Recovery{}, false
	}
	return m.points[i].Recovery, true
}

// Starts reports whether the translation of an original instruction starts at an offset. What comes between that and the
// instruction itself, a reload of rcx or padding, is no start.
func (m *Map) Starts(off uint32) bool {
	i := sort.Search(len(m.points), func(i int) bool { return m.points[i].off >= off })
	if i == len(m.points) || m.points[i].off != off {
		return false
	}
	p := &m.points[i]
	return p.flags&atInstr != 0 && (i == 0 || m.points[i-1].RIP != p.RIP || m.points[i-1].flags&atInstr == 0)
}

// Boundary returns the offset of a translation of the original instruction at orig. Execution can be entered
// there with the original state.
func (m *Map) Boundary(orig uint64) (off uint32, ok bool) {
	for i := range m.points {
		if p := &m.points[i]; p.RIP == orig && p.flags&atInstr != 0 {
			return p.off, true
		}
	}
	return 0, false
}

// Boundaries returns, in order, all offsets where control arrives from outside the translation of a single
// instruction: the starts of the translated instructions, entries, return sites and exit stubs. A thread that
// runs on comes to one of them or leaves the fragment, so that int3 instructions there stop it. Each holds
// at least one byte that is not part of the field of a link.
func (m *Map) Boundaries() []uint32 {
	var offs []uint32
	for i := range m.points {
		if m.points[i].flags&atBoundary != 0 {
			offs = append(offs, m.points[i].off)
		}
	}
	return offs
}

// Recover is Map.Recover of the recorded translation.
func Recover(src Source, r *Region, base uint32, l *Layout, off uint32) (Recovery, bool) {
	m, err := Record(src, r, base, l, new(Buffer))
	if err != nil {
		return Recovery{}, false
	}
	return m.Recover(off)
}

// Boundary is Map.Boundary of the recorded translation.
func Boundary(src Source, r *Region, base uint32, l *Layout, orig uint64) (off uint32, ok bool) {
	m, err := Record(src, r, base, l, new(Buffer))
	if err != nil {
		return 0, false
	}
	return m.Boundary(orig)
}

// Boundaries is Map.Boundaries of the recorded translation, nil if the original code has changed.
func Boundaries(src Source, r *Region, base uint32, l *Layout) []uint32 {
	m, err := Record(src, r, base, l, new(Buffer))
	if err != nil {
		return nil
	}
	return m.Boundaries()
}
