package x86

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits with spaces.
func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClass(t *testing.T) {
	for _, c := range []struct {
		code  string
		class Class
	}{
		{"90", Other}, {"f3 90", Other}, {"f3 0f 1e fa", Other}, {"48 89 e5", Other},
		{"c5 f8 77", Other}, {"62 f1 7c 48 58 c0", Other}, {"8f c0", Other}, {"0f 0f c1 9e", Other},
		{"eb fe", Jmp}, {"e9 00 00 00 00", Jmp}, {"66 48 e9 00 00 00 00", Jmp}, {"f2 e9 00 00 00 00", Jmp},
		{"66 e9 00 00", Special}, {"66 eb 00", Special}, {"66 74 00", Special}, {"66 0f 84 00 00", Special},
		{"74 00", Jcc}, {"2e 74 00", Jcc}, {"0f 84 00 00 00 00", Jcc},
		{"e0 00", Loop}, {"e1 00", Loop}, {"e2 00", Loop}, {"e3 00", Loop}, {"67 e3 00", Loop},
		{"e8 00 00 00 00", Call}, {"66 66 48 e8 00 00 00 00", Call}, {"66 e8 00 00", Special},
		{"ff e0", JmpInd}, {"ff 25 00 00 00 00", JmpInd}, {"3e ff e0", JmpInd}, {"66 ff e0", Special}, {"66 48 ff e0", JmpInd},
		{"ff d0", CallInd}, {"ff 14 c5 00 00 00 00", CallInd}, {"66 ff d0", Special},
		{"ff 18", Special}, {"ff 28", Special}, {"48 ff 28", Special},
		{"c3", Ret}, {"f3 c3", Ret}, {"c2 08 00", Ret}, {"66 c3", Special}, {"66 48 c3", Ret},
		{"ca 00 00", Special}, {"cb", Special}, {"48 cb", Special}, {"cf", Special}, {"48 cf", Special},
		{"c7 f8 00 00 00 00", Xbegin}, {"66 c7 f8 00 00", Xbegin}, {"c6 f8 01", Other}, {"0f 01 d5", Other},
		{"0f 05", Syscall}, {"cc", Int3}, {"cd 80", Special}, {"f1", Special}, {"0f 34", Special}, {"0f 35", Special},
		{"0f 07", Special}, {"0f 01 f8", Special}, {"f3 0f 01 ec", Special}, {"0f 01 d7", Special}, {"f3 0f 01 ca", Special},
		{"8e e8", Special}, {"8e e0", Other}, {"44 8e e8", Special}, {"8c e8", Other}, {"0f a9", Special}, {"0f a8", Other},
		{"0f b5 00", Special}, {"0f b4 00", Other}, {"f2 0f 00 f0", Special},
		{"f3 48 0f ae c8", Special}, {"f3 48 0f ae d8", Special}, {"f3 48 0f ae c0", Other}, {"f3 48 0f ae d0", Other}, {"0f ae 18", Other},
		{"0f 0b", Trap}, {"0f b9 00", Trap}, {"0f ff 05 00 00 00 00", Trap}, {"f4", Trap}, {"0f aa", Trap},
	} {
		code := unhex(t, c.code)
		var in Inst
		if err := Decode(code, &in); err != nil || int(in.Len) != len(code) || in.Class != c.class {
			t.Errorf("%s: len %d class %d err %v", c.code, in.Len, in.Class, err)
		}
	}
}

func TestFields(t *testing.T) {
	for _, c := range []struct {
		code string
		want Inst
	}{
		{"64 48 8b 04 25 28 00 00 00", Inst{Disp: 0x28, Len: 9, Opcode: 0x8b, ModRM: 4, SIB: 0x25, Seg: 0x64, REX: 0x48, Ext: 8,
			HasModRM: true, HasSIB: true, PrefixLen: 2, OpOff: 2, ModRMOff: 3, DispOff: 5, DispSize: 4}},
		{"c7 05 fc ff ff ff 80 00 00 00", Inst{Disp: -4, Imm: 0x80, Len: 10, Opcode: 0xc7, ModRM: 5, HasModRM: true, RIPRel: true,
			ModRMOff: 1, DispOff: 2, DispSize: 4, ImmOff: 6, ImmSize: 4}},
		// A REX that another prefix follows is ignored.
		{"48 66 b8 34 12", Inst{Imm: 0x1234, Len: 5, Opcode: 0xb8, OpSize: true, PP: 1, PrefixLen: 2, OpOff: 2, ImmOff: 3, ImmSize: 2}},
		{"49 bf 88 77 66 55 44 33 22 11", Inst{Imm: 0x1122334455667788, Len: 10, Opcode: 0xbf, REX: 0x49, Ext: 9, PrefixLen: 1, OpOff: 1,
			ImmOff: 2, ImmSize: 8}},
		{"a0 88 77 66 55 44 33 22 91", Inst{Disp: -0x6eddccbbaa998878, Len: 9, Opcode: 0xa0, DispOff: 1, DispSize: 8}},
		{"67 a1 00 00 00 80", Inst{Disp: 0x80000000, Len: 6, Opcode: 0xa1, AddrSize: true, PrefixLen: 1, OpOff: 1, DispOff: 2, DispSize: 4}},
		{"c8 34 12 05", Inst{Imm: 0x51234, Len: 4, Opcode: 0xc8, ImmOff: 1, ImmSize: 3}},
		{"f2 66 0f 38 f1 c1", Inst{Len: 6, Map: 2, Opcode: 0xf1, ModRM: 0xc1, PP: 3, HasModRM: true, OpSize: true, Repne: true,
			PrefixLen: 2, OpOff: 4, ModRMOff: 5}},
		{"c4 62 f1 f7 c8", Inst{Len: 5, Encoding: VEX3, Map: 2, Opcode: 0xf7, ModRM: 0xc8, Ext: 12, VVVV: 1, PP: 1, HasModRM: true,
			OpOff: 3, ModRMOff: 4}},
		{"62 f2 65 40 9c 42 02", Inst{Disp: 2, Len: 7, Encoding: EVEX, Map: 2, Opcode: 0x9c, ModRM: 0x42, VVVV: 19, PP: 1, VL: 2,
			HasModRM: true, OpOff: 4, ModRMOff: 5, DispOff: 6, DispSize: 1}},
		{"8f ea f8 10 c1 04 03 00 00", Inst{Imm: 0x304, Len: 9, Encoding: XOP, Map: 10, Opcode: 0x10, ModRM: 0xc1, Ext: 8, HasModRM: true,
			OpOff: 3, ModRMOff: 4, ImmOff: 5, ImmSize: 4}},
		{"0f 0f 41 08 bf", Inst{Disp: 8, Len: 5, Encoding: Now3D, Map: 1, Opcode: 0xbf, ModRM: 0x41, HasModRM: true, OpOff: 4, ModRMOff: 2,
			DispOff: 3, DispSize: 1}},
		{"66 0f 78 c1 04 05", Inst{Imm: 0x504, Len: 6, Map: 1, Opcode: 0x78, ModRM: 0xc1, PP: 1, HasModRM: true, OpSize: true, PrefixLen: 1,
			OpOff: 2, ModRMOff: 3, ImmOff: 4, ImmSize: 2}},
		// ModRM.mod of mov cr is not looked at.
		{"0f 20 05", Inst{Len: 3, Map: 1, Opcode: 0x20, ModRM: 5, HasModRM: true, OpOff: 1, ModRMOff: 2}},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil || in != c.want {
			t.Errorf("%s: %v\n got %+v\nwant %+v", c.code, err, in, c.want)
		}
	}
}

func TestTargets(t *testing.T) {
	const at = 0x1_0000_1000
	for _, c := range []struct {
		code string
		want uint64
	}{
		{"eb fe", at}, {"e9 00 00 00 80", at + 5 - 1<<31}, {"e8 10 00 00 00", at + 0x15}, {"0f 84 fa ff ff ff", at}, {"e3 80", at + 2 - 128},
		{"c7 f8 ff ff ff ff", at + 5}, {"66 c7 f8 ff ff", at + 4},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil || in.Target(at) != c.want {
			t.Errorf("%s: %#x, want %#x, %v", c.code, in.Target(at), c.want, err)
		}
	}
	for _, c := range []struct {
		code string
		want uint64
	}{
		{"48 8d 05 f9 ff ff ff", at}, {"67 48 8d 05 f8 ff ff ff", at & 0xffffffff}, {"c7 05 00 00 00 00 01 02 03 04", at + 10},
		{"c5 f9 6f 05 00 00 00 00", at + 8}, {"62 f1 7c 48 28 05 00 00 00 00", at + 10}, {"0f 0f 05 00 00 00 00 9e", at + 8},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil || !in.RIPRel || in.RIPTarget(at) != c.want {
			t.Errorf("%s: %#x, want %#x, %v", c.code, in.RIPTarget(at), c.want, err)
		}
	}
}

func TestMemOperand(t *testing.T) {
	for _, c := range []struct {
		code string
		want bool
	}{
		{"8b 00", true}, {"8b c0", false}, {"a1 00 00 00 00 00 00 00 00", true}, {"90", false}, {"0f 20 00", false}, {"e9 00 00 00 00", false},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil || in.MemOperand() != c.want {
			t.Errorf("%s: %v, %v", c.code, in.MemOperand(), err)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		code string
		want error
	}{
		{"", ErrTruncated}, {"66", ErrTruncated}, {"0f", ErrTruncated}, {"0f 38", ErrTruncated}, {"c4 e2", ErrTruncated}, {"62 f1 7c 48", ErrTruncated},
		{"8f", ErrTruncated}, {"e8 00 00 00", ErrTruncated}, {"0f 0f c0", ErrTruncated},
		{strings.Repeat("66", 14) + "90", nil}, {strings.Repeat("66", 15) + "90", ErrTooLong}, {strings.Repeat("66", 14) + "89c0", ErrTooLong},
		{strings.Repeat("66", 14), ErrTruncated}, {strings.Repeat("66", 15), ErrTooLong},
		{strings.Repeat("2e", 10) + "e9 00 00 00 00", nil}, {strings.Repeat("2e", 11) + "e9 00 00 00 00", ErrTooLong},
		// SDM vol. 2 table A-2: opcodes without a meaning in 64-bit mode.
		{"06", ErrInvalid}, {"07", ErrInvalid}, {"0e", ErrInvalid}, {"16", ErrInvalid}, {"17", ErrInvalid}, {"1e", ErrInvalid}, {"1f", ErrInvalid},
		{"27", ErrInvalid}, {"2f", ErrInvalid}, {"37", ErrInvalid}, {"3f", ErrInvalid}, {"60", ErrInvalid}, {"61", ErrInvalid}, {"82 c0 00", ErrInvalid},
		{"9a 00 00 00 00 00 00", ErrInvalid}, {"ce", ErrInvalid}, {"d4 0a", ErrInvalid}, {"d5 0a", ErrInvalid}, {"d6", ErrInvalid},
		{"ea 00 00 00 00 00 00", ErrInvalid},
		{"8d c0", ErrInvalid}, {"8e c8", ErrInvalid}, {"8e f0", ErrInvalid}, {"8c f0", ErrInvalid}, {"ff f8", ErrInvalid}, {"ff d8", ErrInvalid},
		{"fe d0", ErrInvalid}, {"c6 c8 00", ErrInvalid}, {"c7 f9 00 00 00 00", ErrInvalid}, {"8f e0", ErrInvalid},
		{"0f 04", ErrInvalid}, {"0f 0a", ErrInvalid}, {"0f 0c", ErrInvalid}, {"0f 24 c0", ErrInvalid}, {"0f 36", ErrInvalid}, {"0f 39", ErrInvalid},
		{"0f b8 c0", ErrInvalid}, {"0f ba c0 00", ErrInvalid}, {"0f c7 c0", ErrInvalid}, {"f3 0f 54 c0", ErrInvalid}, {"0f 0f c0 00", ErrInvalid},
		{"d9 d1", ErrInvalid}, {"0f b2 c0", ErrInvalid}, {"0f 13 c0", ErrInvalid}, {"0f 38 ff c0", ErrInvalid}, {"0f 3a 00 c0 00", ErrInvalid},
		// SDM vol. 2 "LOCK".
		{"f0 90", ErrInvalid}, {"f0 01 c0", ErrInvalid}, {"f0 03 00", ErrInvalid}, {"f0 c3", ErrInvalid}, {"f0 83 38 00", ErrInvalid},
		{"f0 0f ba 20 00", ErrInvalid}, {"f0 01 00", nil}, {"f0 83 00 00", nil}, {"f0 0f b1 00", nil}, {"f0 0f c7 08", nil}, {"f0 ff 00", nil},
		{"f0 f7 10", nil}, {"f0 87 00", nil}, {"f0 0f ba 28 00", nil}, {"f0 fe 08", nil}, {"f0 f7 00 00 00 00 00", ErrInvalid}, {"f0 ff 20", ErrInvalid},
		// Prefixes that VEX, EVEX and XOP do not allow: SDM vol. 2 sec. 2.3.2 to 2.3.4.
		{"66 c5 f8 77", ErrInvalid}, {"f2 c5 f8 77", ErrInvalid}, {"f3 c5 f8 77", ErrInvalid}, {"f0 c5 f8 77", ErrInvalid}, {"48 c5 f8 77", ErrInvalid},
		{"64 67 c5 f8 28 00", nil}, {"66 62 f1 7c 48 58 c0", ErrInvalid}, {"66 8f e8 78 a2 c0 00", ErrInvalid},
		{"62 f9 7c 48 58 c0", ErrInvalid}, {"62 f1 78 48 58 c0", ErrInvalid}, {"62 f0 7c 48 58 c0", ErrInvalid}, {"62 f4 7c 48 58 c0", ErrInvalid},
		{"c4 e0 78 58 c0", ErrInvalid}, {"c4 e4 78 58 c0", ErrInvalid}, {"c4 ff 78 58 c0", ErrInvalid}, {"8f eb 78 58 c0", ErrInvalid},
		// A gather needs an index.
		{"c4 e2 69 90 00", ErrInvalid}, {"c4 e2 69 90 04 0a", nil},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != c.want {
			t.Errorf("%s: %v, want %v (len %d)", c.code, err, c.want, in.Len)
		}
	}
}

// properties checks what holds for all bytes.
func properties(t testing.TB, code []byte) {
	var in, other Inst
	err := Decode(code, &in)
	if int(in.Len) > MaxLen || int(in.Len) > len(code) {
		t.Fatalf("% x: length %d", code, in.Len)
	}
	switch err {
	case nil:
		if in.Len == 0 {
			t.Fatalf("% x: length 0", code)
		}
		in.RCX()
		in.Flags()
		if end := int(max(in.OpOff, in.ModRMOff, in.DispOff+in.DispSize-1, in.ImmOff+in.ImmSize-1)); end >= int(in.Len) && end != 255 {
			t.Fatalf("% x: %+v", code, in)
		}
	case ErrTruncated:
		if len(code) >= MaxLen {
			t.Fatalf("% x: truncated", code)
		}
	case ErrTooLong:
		if len(code) < MaxLen {
			t.Fatalf("% x: too long", code)
		}
		return
	}
	if err == nil || err == ErrInvalid {
		// What follows does not matter.
		for _, fill := range []byte{0x00, 0x66, 0xcc, 0xff} {
			long := append(bytes.Clone(code[:in.Len]), bytes.Repeat([]byte{fill}, 20)...)
			if e := Decode(long, &other); e != err || other != in {
				t.Fatalf("% x: %v %+v, then % x: %v %+v", code, err, in, long, e, other)
			}
		}
	}
	if err == nil {
		for n := range int(in.Len) {
			if e := Decode(code[:n], &other); e != ErrTruncated || int(other.Len) != n {
				t.Fatalf("% x of % x: %v, len %d", code[:n], code, e, other.Len)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"90", "66 66 48 e8 00 00 00 00", "62 f2 65 40 9c 42 02", "8f ea f8 10 c1 04 03 00 00", "0f 0f 41 08 bf", "c4 e2 69 90 04 0a",
		"66 0f 78 c1 04 05", "c8 34 12 05", "67 a1 00 00 00 80", "f3 48 0f ae c8", "c7 f8 00 00 00 00"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, code []byte) { properties(t, code) })
}

// text is the code of the test program itself.
func text(t testing.TB) []byte {
	file, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := f.Section(".text")
	if s == nil {
		t.Fatal("no .text")
	}
	b, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sweep decodes all of code and returns the number of instructions.
func sweep(code []byte) (n int) {
	var in Inst
	for len(code) > 0 {
		if Decode(code, &in) != nil {
			code = code[1:]
			continue
		}
		code = code[in.Len:]
		n++
	}
	return n
}

func TestProperties(t *testing.T) {
	code := text(t)
	code = code[:min(len(code), 200_000)]
	for i := range code {
		properties(t, code[i:min(i+18, len(code))])
	}
}

func TestAllocations(t *testing.T) {
	code := text(t)
	code = code[:min(len(code), 100_000)]
	var in Inst
	invalid := []byte{0x06}
	if n := testing.AllocsPerRun(5, func() {
		sweep(code)
		Decode(invalid, &in)
		Decode(code[:1], &in)
		in.RCX()
		in.Flags()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkDecode reports the time of one instruction of compiled Go code.
func BenchmarkDecode(b *testing.B) {
	code := text(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n += sweep(code)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/inst")
}

// BenchmarkLiveness adds both liveness questions.
func BenchmarkLiveness(b *testing.B) {
	code := text(b)
	n := 0
	for b.Loop() {
		var in Inst
		for c := code; len(c) > 0; c = c[max(1, in.Len):] {
			if Decode(c, &in) == nil {
				in.RCX()
				in.Flags()
			}
			n++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/inst")
}
