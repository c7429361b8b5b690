package translate

import (
	"bytes"
	"slices"
	"testing"
)

// shifted is a Source whose code lies delta bytes further on.
type shifted struct {
	Source
	delta uint64
}

func (s shifted) ReadCode(addr uint64, p []byte) int { return s.Source.ReadCode(addr-s.delta, p) }

// checkMove checks that a fragment which was moved is what is emitted at the new place.
func (c *checker) checkMove(reg *Region, frag *Fragment) {
	t := c.t
	var buf Buffer
	got, moves, err := EmitMovable(c.src, reg, c.base, &testLayout, &buf)
	if err != nil || !bytes.Equal(got.Code, frag.Code) {
		t.Fatalf("%#x: EmitMovable gives other bytes, or %v", reg.Entry, err)
	}
	if !ValidRelocs(moves.Relocs, len(got.Code)) {
		t.Fatalf("%#x: relocations outside of the fragment", reg.Entry)
	}
	// Further on, back, and to where addresses are no longer near.
	for i, delta := range []uint64{0x1234567, -(reg.Entry & 0x3ff000), 1 << 30, 0} {
		if !moves.To(delta) {
			continue
		}
		c.moved[i]++
		cache := uint32(Align * (0x1111*i - 0x10))
		code := slices.Clone(got.Code)
		Move(code, moves.Relocs, delta, cache)
		there := Region{Entry: reg.Entry + delta, Way: reg.Way, Blocks: slices.Clone(reg.Blocks)}
		for k := range there.Blocks {
			there.Blocks[k].Addr += delta
		}
		want, err := Emit(shifted{c.src, delta}, &there, c.base+cache, &testLayout, &c.buf2)
		if err != nil {
			t.Fatalf("%#x moved by %#x: %v", reg.Entry, delta, err)
		}
		if !bytes.Equal(code, want.Code) {
			t.Fatalf("%#x moved by %#x: other bytes than emitted there", reg.Entry, delta)
		}
		if want.JumpEntry != frag.JumpEntry || want.CallEntry != frag.CallEntry || want.DirectCallEntry != frag.DirectCallEntry || want.Instrs != frag.Instrs {
			t.Fatalf("%#x moved by %#x: other entries", reg.Entry, delta)
		}
		for k, e := range want.Returns {
			if (Entry{e.Addr - delta, e.Off}) != frag.Returns[k] {
				t.Fatalf("%#x moved by %#x: other return sites", reg.Entry, delta)
			}
		}
		for k, l := range want.Links {
			l.Target -= delta
			if l != frag.Links[k] {
				t.Fatalf("%#x moved by %#x: other links", reg.Entry, delta)
			}
		}
	}
}

func TestMoveFar(t *testing.T) {
	// call f: the return address of far code takes another instruction.
	src := text{farPC, unhex(t, "e8 00 01 00 00 c3")}
	reg, err := Discover(src, farPC, ByCall, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	_, moves, err := EmitMovable(src, &reg, testBase, &testLayout, new(Buffer))
	if err != nil || moves.To(0) {
		t.Errorf("far code can be moved, error %v", err)
	}
}
