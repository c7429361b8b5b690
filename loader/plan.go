//go:build !plan9

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind says what an image is to the process.
type Kind uint8

// The kinds of image in a freshly executed process.
const (
	Program Kind = iota // the executable
	Interp              // its PT_INTERP
	VDSO                // the vdso with its data pages
	Other               // mapped by the kernel for another reason
)

func (k Kind) String() string {
	switch k {
	case Program:
		return "program"
	case Interp:
		return "interpreter"
	case VDSO:
		return "vdso"
	}
	return "other"
}

// A Move takes one mapping to its new place with mremap(OldStart, size, size,
// MREMAP_MAYMOVE|MREMAP_FIXED, NewStart). Where NewStart equals OldStart the
// mapping stays. Either way it loses PROT_EXEC if it had it.
type Move struct {
	OldStart, OldEnd, NewStart uint64
	Prot                       int  // protection without PROT_EXEC
	Exec                       bool // the guest takes the mapping for executable
}

// Stays reports whether the mapping stays where it is.
func (m Move) Stays() bool { return m.OldStart == m.NewStart }

// An AuxPatch is a new value for one entry of the auxiliary vector.
type AuxPatch struct {
	Index      int
	Tag, Value uint64
}

// An Image is a group of mappings that keep their distances from each other.
type Image struct {
	Kind      Kind
	Path      string
	Low, High uint64 // extent before the move
	NewLow    uint64
}

// A Layout is the outcome of Plan.
type Layout struct {
	Images    []Image
	Moves     []Move // in any order: no new place overlaps an old one
	Patches   []AuxPatch
	Stack     VMA
	ExecStack bool // the kernel made the stack executable
}

// Translate returns where an address of an image is after the moves, and
// whether the address lies in an image at all. The initial instruction pointer
// goes through it to become the entry point.
func (l *Layout) Translate(addr uint64) (uint64, bool) {
	for _, m := range l.Moves {
		if m.OldStart <= addr && addr < m.OldEnd {
			return addr - m.OldStart + m.NewStart, true
		}
	}
	return addr, false
}

// placement is the alignment that moves preserve. The kernel aligns an image
// to the largest p_align of its segments; an address that is the same modulo
// 2 MiB is as well aligned as the old one for every p_align up to that.
const placement = 2 << 20

// maxSpan separates two images of one file: an image with a hole of that size
// would not fit into the near zone.
const maxSpan = NearHigh - NearLow

// group collects the mappings of one image.
type group struct {
	kind Kind
	vmas []VMA
}

func (g *group) low() uint64  { return g.vmas[0].Start }
func (g *group) high() uint64 { return g.vmas[len(g.vmas)-1].End }

// Plan decides where the images of a freshly executed process go. maps and aux
// are those of the process before it executed its first instruction. alloc
// returns an unused range, of the near zone if it can.
//
// The executable, the interpreter and the vdso move. An image that is linked to its
// address stays. Stack, heap and vsyscall page stay.
func Plan(maps []VMA, aux []AuxEntry, alloc func(size, align uint64) (uint64, error)) (*Layout, error) {
	if err := checkMaps(maps); err != nil {
		return nil, err
	}
	l := &Layout{}
	groups, err := l.collect(maps)
	if err != nil {
		return nil, err
	}
	classify(groups, aux)
	for _, g := range groups {
		newLow, err := place(g, alloc)
		if err != nil {
			return nil, err
		}
		if err := l.checkPlace(g, newLow, maps); err != nil {
			return nil, err
		}
		l.Images = append(l.Images, Image{Kind: g.kind, Path: g.path(), Low: g.low(), High: g.high(), NewLow: newLow})
		for _, v := range g.vmas {
			l.Moves = append(l.Moves, Move{
				OldStart: v.Start, OldEnd: v.End, NewStart: newLow + (v.Start - g.low()),
				Prot: v.Prot &^ ProtExec, Exec: v.Prot&ProtExec != 0,
			})
		}
	}
	l.patch(aux)
	return l, nil
}

// maxMaps bounds the mappings of a fresh process. The kernel makes at most two
// for each program header of two files.
const maxMaps = 4 * 1170

func checkMaps(maps []VMA) error {
	if len(maps) > maxMaps {
		return fmt.Errorf("loader: %d mappings in a fresh process", len(maps))
	}
	end := uint64(0)
	for _, v := range maps {
		if v.Start < end || v.End <= v.Start || (v.Start|v.End)%pageSize != 0 {
			return fmt.Errorf("loader: mapping %#x-%#x is out of order or not whole pages", v.Start, v.End)
		}
		end = v.End
	}
	return nil
}

// collect groups the mappings that belong to images.
func (l *Layout) collect(maps []VMA) ([]*group, error) {
	var groups []*group
	var loose []VMA // anonymous memory, to be given to the nearest image
	var vdso *group
	for i, v := range maps {
		switch {
		case v.File():
			if g := sameImage(groups, v); g != nil {
				g.vmas = append(g.vmas, v)
			} else {
				groups = append(groups, &group{kind: Other, vmas: []VMA{v}})
			}
		case v.Path == "[vdso]" || strings.HasPrefix(v.Path, "[vvar"):
			// The vdso reads its data pages relative to its own address.
			if vdso == nil {
				vdso = &group{kind: VDSO}
			}
			vdso.vmas = append(vdso.vmas, v)
		case v.Path == "[stack]":
			l.Stack = v
			l.ExecStack = v.Prot&ProtExec != 0
		case v.Path == "":
			loose = append(loose, v)
		case v.Path == "[heap]" && i > 0 && maps[i-1].End == v.Start && !maps[i-1].special():
			// Nothing was allocated yet. Kernels before 6.6 give the name to
			// the bss when the break starts right after it.
			loose = append(loose, v)
		}
	}
	if len(groups) == 0 {
		return nil, errors.New("loader: process has no executable mapped")
	}
	if l.Stack.End == 0 {
		return nil, errors.New("loader: process has no stack")
	}
	giveAway(groups, loose)
	if vdso != nil {
		groups = append(groups, vdso)
	}
	return groups, nil
}

// sameImage returns the group of which v continues the file.
func sameImage(groups []*group, v VMA) *group {
	for _, g := range slices.Backward(groups) {
		last := g.vmas[len(g.vmas)-1]
		if last.Dev == v.Dev && last.Inode == v.Inode && last.Path == v.Path && v.Start-last.End < maxSpan {
			return g
		}
	}
	return nil
}

// giveAway adds anonymous mappings to images. In a fresh process each is the
// bss of an image: it follows the file part directly, or after a hole where a
// segment has no file part at all.
func giveAway(groups []*group, loose []VMA) {
	owner := make([]*group, len(loose))
	given := make(map[*group]uint64) // end of the last mapping given to a group
	for i, v := range loose {
		best := ^uint64(0)
		closer := func(g *group, distance uint64) {
			if distance < best {
				best, owner[i] = distance, g
			}
		}
		for _, g := range groups {
			for _, o := range g.vmas {
				if o.End <= v.Start {
					closer(g, v.Start-o.End)
				} else {
					closer(g, o.Start-v.End)
				}
			}
			if end, ok := given[g]; ok {
				closer(g, v.Start-end)
			}
		}
		given[owner[i]] = v.End
	}
	for i, v := range loose {
		owner[i].vmas = append(owner[i].vmas, v)
	}
	for _, g := range groups {
		slices.SortFunc(g.vmas, func(a, b VMA) int { return cmp.Compare(a.Start, b.Start) })
	}
}

// classify finds the program and its interpreter by the auxiliary vector. The
// program is where AT_PHDR points, or AT_ENTRY where no segment holds the
// program headers. AT_BASE is the interpreter's load bias, so it can lie below
// the image; then the image that is left over is the interpreter.
func classify(groups []*group, aux []AuxEntry) {
	find := func(tag uint64) *group {
		addr, ok := lookup(aux, tag)
		if !ok || addr == 0 {
			return nil
		}
		for _, g := range groups {
			if g.kind != VDSO && slices.ContainsFunc(g.vmas, func(v VMA) bool { return v.Contains(addr) }) {
				return g
			}
		}
		return nil
	}
	program := find(AtPhdr)
	if program == nil {
		program = find(AtEntry)
	}
	if program == nil {
		program = groups[0]
	}
	program.kind = Program
	if base, _ := lookup(aux, AtBase); base == 0 {
		return
	}
	if g := find(AtBase); g != nil && g != program {
		g.kind = Interp
		return
	}
	for _, g := range groups {
		if g.kind == Other {
			g.kind = Interp
			return
		}
	}
}

func lookup(aux []AuxEntry, tag uint64) (uint64, bool) {
	for _, e := range aux {
		if e.Tag == tag {
			return e.Value, true
		}
	}
	return 0, false
}

// place chooses the new start of an image.
func place(g *group, alloc func(size, align uint64) (uint64, error)) (uint64, error) {
	low, high := g.low(), g.high()
	switch {
	case low >= NearLow && high <= fixedBelow:
		return low, nil
	case low < NearLow:
		return 0, fmt.Errorf("loader: %s %q at %#x-%#x lies across the border of the near zone", g.kind, g.path(), low, high)
	case high-low > maxSpan:
		return 0, fmt.Errorf("loader: %s %q spans %d MiB, more than the near zone", g.kind, g.path(), (high-low)>>20)
	}
	align := uint64(placement)
	if g.kind == VDSO {
		align = pageSize
	}
	lead := low % align
	base, err := alloc(lead+high-low, align)
	if err != nil {
		return 0, fmt.Errorf("loader: no place for %s %q: %w", g.kind, g.path(), err)
	}
	if base%align != 0 {
		return 0, fmt.Errorf("loader: place %#x for %s is not aligned to %#x", base, g.kind, align)
	}
	if base > fixedBelow {
		return 0, fmt.Errorf("loader: place %#x for %s is above %#x", base, g.kind, uint64(fixedBelow))
	}
	return base + lead, nil
}

// checkPlace makes sure that a move replaces nothing: MREMAP_FIXED unmaps what
// it finds.
func (l *Layout) checkPlace(g *group, newLow uint64, maps []VMA) error {
	if newLow == g.low() {
		return nil
	}
	newHigh := newLow + (g.high() - g.low())
	if newLow < NearLow || newHigh > fixedBelow {
		return fmt.Errorf("loader: place %#x-%#x for %s is not between %#x and %#x", newLow, newHigh, g.kind, uint64(NearLow), uint64(fixedBelow))
	}
	for _, v := range maps {
		if v.Start < newHigh && newLow < v.End {
			return fmt.Errorf("loader: place %#x-%#x for %s is taken by %#x-%#x", newLow, newHigh, g.kind, v.Start, v.End)
		}
	}
	for _, img := range l.Images {
		if img.NewLow < newHigh && newLow < img.NewLow+(img.High-img.Low) {
			return fmt.Errorf("loader: place %#x-%#x for %s is that of another image", newLow, newHigh, g.kind)
		}
	}
	return nil
}

// patch lists the auxiliary entries whose addresses moved.
func (l *Layout) patch(aux []AuxEntry) {
	for i, e := range aux {
		value := e.Value
		switch e.Tag {
		case AtPhdr, AtEntry, AtSysinfoEhdr:
			value, _ = l.Translate(e.Value)
		case AtBase:
			if e.Value == 0 {
				break
			}
			for _, img := range l.Images {
				if img.Kind == Interp {
					value = e.Value - img.Low + img.NewLow
				}
			}
		}
		if value != e.Value {
			l.Patches = append(l.Patches, AuxPatch{Index: i, Tag: e.Tag, Value: value})
		}
	}
}

func (g *group) path() string {
	for _, v := range g.vmas {
		if v.File() {
			return v.Path
		}
	}
	return "[vdso]"
}
