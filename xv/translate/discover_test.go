package translate

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"xvrun/xv/x86"
)

// pieces is a Source of several runs of code.
type pieces []text

func (s pieces) ReadCode(addr uint64, p []byte) int {
	for _, t := range s {
		if n := t.ReadCode(addr, p); n > 0 {
			return n
		}
	}
	return 0
}

func addrs(r Region) []uint64 {
	var a []uint64
	for _, b := range r.Blocks {
		a = append(a, b.Addr)
	}
	return a
}

func TestDiscover(t *testing.T) {
	// jcc to 10, 20 and 30; nop; ret; at each a nop, jmp to the next.
	ladder := slices.Concat(unhex(t, "740e 751c 762a 90c3"), make([]byte, 8), unhex(t, "90eb0d"), make([]byte, 13), unhex(t, "90eb0d"), make([]byte, 13), unhex(t, "90c3"))
	far := pieces{{0x1000, unhex(t, "0f84fa0f2000 c3")}, {0x202000, unhex(t, "90c3")}}
	edge := make([]byte, 0x1000)
	for i := range edge {
		edge[i] = 0x90
	}
	copy(edge[0xffd:], "\x48\xb8\x01") // movabs rax, which crosses into the next page
	crossing := pieces{{0x1000, append(edge, 2, 3, 4, 5, 6, 7, 8, 0xc3)}}
	for _, c := range []struct {
		name  string
		src   Source
		entry uint64
		lim   Limits
		want  []uint64
	}{
		{"everything", text{0x1000, ladder}, 0x1000, Limits{}, []uint64{0x1000, 0x1010, 0x1020, 0x1030}},
		{"two blocks", text{0x1000, ladder}, 0x1000, Limits{Blocks: 2}, []uint64{0x1000, 0x1010}},
		{"eight bytes", text{0x1000, ladder}, 0x1000, Limits{Bytes: 8}, []uint64{0x1000}},
		{"three bytes", text{0x1000, ladder}, 0x1000, Limits{Bytes: 3}, []uint64{0x1000}},
		{"reach", text{0x1000, ladder}, 0x1000, Limits{Reach: 0x1f}, []uint64{0x1000, 0x1010}},
		{"stop", text{0x1000, ladder}, 0x1000, Limits{Stop: func(a uint64) bool { return a == 0x1020 }}, []uint64{0x1000, 0x1010, 0x1030}},
		{"entry at a stop", text{0x1000, ladder}, 0x1020, Limits{Stop: func(a uint64) bool { return a == 0x1020 }}, []uint64{0x1020, 0x1030}},
		{"out of reach", far, 0x1000, Limits{}, []uint64{0x1000}},
		{"in reach", far, 0x1000, Limits{Reach: 4 << 20}, []uint64{0x1000, 0x202000}},
		{"across pages", crossing, 0x1ff0, Limits{}, []uint64{0x1ff0}},
	} {
		r, err := Discover(c.src, c.entry, ByLink, c.lim)
		if err != nil || !slices.Equal(addrs(r), c.want) {
			t.Errorf("%s: %x, %v; want %x", c.name, addrs(r), err, c.want)
			continue
		}
		var buf Buffer
		if _, err := Emit(c.src, &r, testBase, &testLayout, &buf); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if r, _ := Discover(crossing, 0x1ff0, ByLink, Limits{}); len(r.Blocks) != 1 || r.Blocks[0].Len != 24 {
		t.Errorf("across pages: %+v", r.Blocks)
	}
}

func TestDiscoverErrors(t *testing.T) {
	var d *DecodeError
	_, err := Discover(text{0x1000, nil}, 0x1000, ByLink, Limits{})
	if !errors.As(err, &d) || d.Addr != 0x1000 || len(d.Bytes) != 0 || d.Err != nil {
		t.Errorf("not executable: %v", err)
	}
	_, err = Discover(text{0x1000, []byte{6, 1}}, 0x1000, ByLink, Limits{})
	if !errors.As(err, &d) || !errors.Is(err, x86.ErrInvalid) || d.Bytes[0] != 6 {
		t.Errorf("invalid: %v", err)
	}
	_, err = Discover(text{0x1ffe, []byte{0x48, 0xb8}}, 0x1ffe, ByLink, Limits{})
	if !errors.Is(err, x86.ErrTruncated) {
		t.Errorf("truncated: %v", err)
	}
}

func TestEmitErrors(t *testing.T) {
	src := text{0x1000, []byte{0x90, 0xc3}}
	r, err := Discover(src, 0x1000, ByLink, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var buf Buffer
	if _, err := Emit(src, &r, testBase+8, &testLayout, &buf); err != ErrUnaligned {
		t.Error(err)
	}
	for _, changed := range []string{"", "90", "9006", "48b8"} {
		if _, err := Emit(text{0x1000, unhex(t, changed)}, &r, testBase, &testLayout, &buf); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", changed, err)
		}
		if Boundaries(text{0x1000, unhex(t, changed)}, &r, testBase, &testLayout) != nil {
			t.Error("boundaries of changed code")
		}
	}
}

func TestStubs(t *testing.T) {
	const at, to = 0x50000010, 0x50000100
	for _, c := range []struct {
		name    string
		code    []byte
		size    int
		want    string
		recover func(uint64, uint32) (Recovery, bool)
		states  map[uint32]Recovery
	}{
		// mov rcx,gs:[S] ; jmp body
		{"J", EmitJumpEntry(at, to), JumpEntrySize, "65488b0c2508000000e9e2000000", RecoverJumpEntry,
			map[uint32]Recovery{0: {RIP: 7, RCXFromS: true}, 9: {RIP: 7}}},
		// mov rcx,gs:[S] ; lea rsp,[rsp+8] ; jmp body
		{"IC", EmitCallEntry(at, to), CallEntrySize, "65488b0c2508000000488d642408e9dd000000", RecoverCallEntry,
			map[uint32]Recovery{0: {RIP: 7, RCXFromS: true, RSPAdd: 8}, 9: {RIP: 7, RSPAdd: 8}, 14: {RIP: 7}}},
		// lea rsp,[rsp+8] ; jmp body
		{"D", EmitDirectCallEntry(at, to), DirectCallEntrySize, "488d642408e9e6000000", RecoverDirectCallEntry,
			map[uint32]Recovery{0: {RIP: 7, RSPAdd: 8}, 5: {RIP: 7}}},
		// mov dword gs:[Stub],at ; jmp to
		{"exit", EmitExit(at, to), ExitSize, "65c704253000000010000050e9df000000", nil, nil},
	} {
		if got := hex.EncodeToString(c.code); got != c.want || len(c.code) != c.size {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		for off := uint32(0); c.recover != nil && off < 32; off++ {
			want, is := c.states[off]
			if got, ok := c.recover(7, off); ok != is || got != want {
				t.Errorf("%s at %d: %+v %v", c.name, off, got, ok)
			}
		}
	}
}
