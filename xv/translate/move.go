package translate

import (
	"encoding/binary"
	"math"
)

// Reloc is a 32-bit field of a fragment whose value depends on where the original code or the fragment lies: its offset
// in the fragment, and in the two highest bits how it depends.
type Reloc uint32

const (
	relocOrig    = 0 << relocShift // holds an original address
	relocCache   = 1 << relocShift // holds an offset in the cache inside the fragment
	relocOutside = 2 << relocShift // holds the distance to something of the Layout
	relocShift   = 30
	relocOff     = 1<<relocShift - 1
)

// Off is the offset of the field.
func (r Reloc) Off() uint32 { return uint32(r) & relocOff }

// valid reports that the relocation has a kind, and its field lies in a fragment of n bytes.
func (r Reloc) valid(n int) bool {
	return r>>relocShift <= relocOutside>>relocShift && int(r.Off())+4 <= n
}

// Moves says how a fragment can be moved. Only the bytes that the relocations name depend on its place, as long as the
// original addresses in it stay near, since others take longer instructions.
type Moves struct {
	Relocs []Reloc
	Lo, Hi uint64 // bounds of the original addresses that fields hold; Lo > Hi: none do

	fixed bool // something depends on the place in another way
}

func (m *Moves) reset() { *m = Moves{Relocs: m.Relocs[:0], Lo: math.MaxUint64} }

// To reports whether the fragment can be moved such that the original code lies delta bytes further on.
func (m *Moves) To(delta uint64) bool {
	return !m.fixed && (m.Lo > m.Hi || near(m.Lo+delta) && near(m.Hi+delta))
}

// ValidRelocs reports whether Move can apply the relocations to a fragment of n bytes.
func ValidRelocs(relocs []Reloc, n int) bool {
	for _, r := range relocs {
		if !r.valid(n) {
			return false
		}
	}
	return true
}

// Move changes the code of a fragment for original code that lies orig bytes further on, and a cache offset that does so
// by cache bytes (a multiple of Align). What Moves.To says of orig must hold, and what ValidRelocs says of relocs.
func Move(code []byte, relocs []Reloc, orig uint64, cache uint32) {
	add := [4]uint32{relocOrig >> relocShift: uint32(orig), relocCache >> relocShift: cache, relocOutside >> relocShift: -cache}
	for _, r := range relocs {
		field := code[r.Off():]
		binary.LittleEndian.PutUint32(field, binary.LittleEndian.Uint32(field)+add[r>>relocShift])
	}
}

// EmitMovable is Emit, and tells how the fragment can be moved. Both results are valid until the next use of buf.
func EmitMovable(src Source, r *Region, base uint32, l *Layout, buf *Buffer) (*Fragment, *Moves, error) {
	buf.moves.reset()
	buf.moving = true
	frag, err := buf.emit(src, r, base, l, nil)
	buf.moving = false
	return frag, &buf.moves, err
}

// reloc notes that the next 4 bytes are such a field.
func (b *Buffer) reloc(kind Reloc) {
	if b.moving {
		b.moves.Relocs = append(b.moves.Relocs, kind|Reloc(b.n))
	}
}

// putOrig emits a near original address, or the low half of one, which cannot be moved.
func (b *Buffer) putOrig(v uint64) {
	if b.moving {
		if near(v) {
			b.moves.Lo, b.moves.Hi = min(b.moves.Lo, v), max(b.moves.Hi, v)
		} else {
			b.moves.fixed = true
		}
		b.reloc(relocOrig)
	}
	b.put4(uint32(v))
}

// pin notes that what is emitted next depends on its place in a way that no relocation describes.
func (b *Buffer) pin() {
	if b.moving {
		b.moves.fixed = true
	}
}
