package translate

import (
	"slices"
	"testing"

	"xvrun/xv/x86"
)

// checkedAt translates code at addr as a checked region.
func checkedAt(t *testing.T, code string, addr uint64, loose, hashed []uint64) (Region, *Fragment, *Map) {
	t.Helper()
	src := text{addr, []byte(code)}
	reg, err := Discover(src, addr, ByCall, Limits{Blocks: 1, Bytes: MaxChecked, Checked: true})
	if err != nil {
		t.Fatal(err)
	}
	reg.Words, reg.Loose, reg.Hashed = [2]uint32{0x50000040, 0x50000050}, loose, hashed
	var buf Buffer
	m, err := Record(src, &reg, testBase, &testLayout, &buf)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Emit(src, &reg, testBase, &testLayout, new(Buffer))
	if err != nil {
		t.Fatal(err)
	}
	return reg, f, m
}

// TestCheckedEnd lists what ends a checked region.
func TestCheckedEnd(t *testing.T) {
	for _, c := range []struct {
		name, code string
		len        int
	}{
		{"store", "\x31\xc0\x89\x07\x90\xc3", 4},
		{"load", "\x8b\x07\x90\xc3", 4},
		{"push", "\x50\x90", 1},
		{"pop", "\x58\x90\xc3", 3},
		{"call", "\xe8\x00\x01\x00\x00\x90", 5},
		{"jcc", "\x74\x05\x90", 2},
		{"loop to itself", "\xff\xc9\x75\xfc\x90", 4},
		{"syscall", "\x0f\x05\x90", 2},
		{"cpuid", "\x0f\xa2\x90", 2},
		{"mfence", "\x0f\xae\xf0\x90", 3},
		{"movs", "\xa4\x90", 1},
		{"add to memory", "\x01\x07\x90", 2},
		{"cmp with memory", "\x39\x07\x90\xc3", 4},
		{"int3", "\xcc\x90", 1},
		{"long", string(make([]byte, 40)) + "\xc3", 2}, // add [rax],al
		{"nops", string(slices.Repeat([]byte{0x90}, MaxChecked+20)), MaxChecked},
	} {
		reg, f, _ := checkedAt(t, c.code+string(slices.Repeat([]byte{0x90}, 16)), 0x200000, nil, nil)
		if len(reg.Blocks) != 1 || int(reg.Blocks[0].Len) != c.len {
			t.Errorf("%s: blocks %+v, want %d bytes", c.name, reg.Blocks, c.len)
		}
		checks := 0
		for _, l := range f.Links {
			if l.Check {
				checks++
			}
			if l.Off&7 > 4 {
				t.Errorf("%s: the rel32 at %d cannot be patched", c.name, l.Off)
			}
		}
		if checks != 1 {
			t.Errorf("%s: %d links of a check", c.name, checks)
		}
	}
}

// TestCheckedRecover demands a recovery for each instruction of checked fragments.
func TestCheckedRecover(t *testing.T) {
	const code = "\xb8\x01\x02\x03\x04\x49\xc7\xc1\x05\x06\x07\x08\x83\xc1\x09\x48\x05\x01\x01\x01\x01\x31\xd2\xff\xd0"
	for _, addr := range []uint64{0x200000, 0x7fff_0000, 1 << 46} {
		loose := []uint64{addr, addr + 5, addr + 12, addr + 15}
		for _, l := range [][]uint64{nil, loose} {
			_, f, m := checkedAt(t, code, addr, l, []uint64{addr + 23})
			var in x86.Inst
			for off := int(f.CallEntry); off < len(f.Code); off += int(in.Len) { // behind what it compares with
				if err := x86.Decode(f.Code[off:], &in); err != nil {
					t.Fatalf("%#x, loose %v: offset %d: % x: %v", addr, l != nil, off, f.Code[off:min(off+15, len(f.Code))], err)
				}
				if off >= int(f.JumpEntry)+sizeGS && off < int(f.DirectCallEntry) {
					in.Len = uint8(int(f.DirectCallEntry) - off) // the nop that ends with D
				}
				r, ok := m.Recover(uint32(off))
				if !ok || r.RIP < addr || r.RIP > addr+uint64(len(code)) {
					t.Errorf("%#x, loose %v: offset %d: %+v %v", addr, l != nil, off, r, ok)
				}
			}
		}
	}
}

// TestLoosen tells operands that may change from other bytes.
func TestLoosen(t *testing.T) {
	for _, c := range []struct {
		old, now string
		want     []uint64
		ok       bool
	}{
		{"\xb8\x01\x00\x00\x00\xc3", "\xb8\x02\x00\x00\x00\xc3", []uint64{0}, true},
		{"\x90\x48\xb8\x01\x00\x00\x00\x00\x00\x00\x00", "\x90\x48\xb8\x01\x00\x00\x00\x00\x00\x00\x80", []uint64{1}, true},
		{"\x83\xc0\x01\x81\xc3\x01\x00\x00\x00", "\x83\xc0\x02\x81\xc3\x01\x00\x01\x00", []uint64{0, 3}, true},
		{"\xb8\x01\x00\x00\x00\xc3", "\xb8\x01\x00\x00\x00\xc3", nil, true},
		{"\xb8\x01\x00\x00\x00\xc3", "\xb9\x01\x00\x00\x00\xc3", nil, false}, // another register
		{"\xb8\x01\x00\x00\x00\xc3", "\xb8\x01\x00\x00\x00\xc2", nil, false},
		{"\xbc\x01\x00\x00\x00", "\xbc\x02\x00\x00\x00", nil, false},         // rsp
		{"\x66\xb8\x01\x00", "\x66\xb8\x02\x00", nil, false},                 // 16 bits
		{"\xe9\x01\x00\x00\x00", "\xe9\x02\x00\x00\x00", nil, false},         // a branch
		{"\x8b\x05\x01\x00\x00\x00", "\x8b\x05\x02\x00\x00\x00", nil, false}, // a displacement
		{"\xc1\xe0\x01", "\xc1\xe0\x02", nil, false},                         // a shift
		{"\xb8\x01\x00\x00\x00", "\xb8\x01", nil, false},
	} {
		got, ok := Loosen([]byte(c.old), []byte(c.now), 0, nil)
		if ok != c.ok || ok && !slices.Equal(got, c.want) {
			t.Errorf("% x -> % x: %#x %v, want %#x %v", c.old, c.now, got, ok, c.want, c.ok)
		}
	}
}

// TestHashEntry demands a recovery for each instruction of an entry of the hash.
func TestHashEntry(t *testing.T) {
	code := EmitHashEntry(testBase, testBase+0x1000, 1<<46)
	if len(code) != HashEntrySize {
		t.Fatalf("%d bytes", len(code))
	}
	var in x86.Inst
	for off := 0; off < len(code); off += int(in.Len) {
		if err := x86.Decode(code[off:], &in); err != nil {
			t.Fatal(err)
		}
		if r, ok := RecoverHashEntry(1<<46, true, uint32(off)); !ok || (r.Kind == KindMiss) == (r.RIP == 1<<46) {
			t.Errorf("offset %d: %+v %v", off, r, ok)
		}
		if to := in.Target(uint64(off)); off == HashEntryNext-1 && to != HashEntryEnd {
			t.Errorf("leads to %d", to)
		}
	}
}
