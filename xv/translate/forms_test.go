package translate

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xvrun/xv/x86"
)

var update = flag.Bool("update", false, "write testdata/forms.txt again; needs objdump")

var testLayout = Layout{Table: 0x7ffc0000, Miss: 0x40000100, Special: 0x40000200, Gate: 0x40000300}

const testBase = 0x50000000

// text is a Source of one run of code.
type text struct {
	addr uint64
	code []byte
}

func (s text) ReadCode(addr uint64, p []byte) int {
	if addr < s.addr || addr-s.addr >= uint64(len(s.code)) {
		return 0
	}
	return copy(p, s.code[addr-s.addr:])
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	code, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

const (
	nearPC = 0x400000
	farPC  = 0x7f0000400000
)

// forms are the cases of testdata/forms.txt.
var forms = []struct {
	name string
	pc   uint64
	way  Way
	code string
}{
	{"copied: push rbp; mov rbp,rsp; ud2", nearPC, ByLink, "55 4889e5 0f0b"},
	{"called: endbr64; ret", nearPC, ByCall, "f30f1efa c3"},
	{"ret", nearPC, ByLink, "c3"},
	{"mov ecx,eax; ret: rcx is not in S", nearPC, ByLink, "89c1 c3"},
	{"jumped to: endbr64; ret", nearPC, ByJump, "f30f1efa c3"},
	{"mov ecx,eax; call; ret", nearPC, ByLink, "89c1 e8f90f0000 c3"},
	{"mov ecx,eax; call rdx", nearPC, ByLink, "89c1 ffd2 f4"},
	{"mov ecx,eax; jmp out", nearPC, ByLink, "89c1 e9f90f0000"},
	{"mov ecx,eax; je out; jmp out", nearPC, ByLink, "89c1 0f84f80f0000 e9f30f0000"},
	{"mov ecx,eax; xbegin out", nearPC, ByLink, "89c1 c7f8f80f0000 f4"},
	{"mov ecx,eax; falls into nothing", nearPC, ByLink, "89c1"},
	{"je over mov ecx,eax; ret", nearPC, ByLink, "7402 89c1 c3"},
	{"back with another rcx: ret; dec ecx; je back", nearPC + 1, ByLink, "c3 ffc9 74fb f4"},
	{"rep ret", nearPC, ByLink, "f3c3"},
	{"ret 16", nearPC, ByLink, "c21000"},
	{"call, near", nearPC, ByLink, "e8fb0f0000 f4"},
	{"call, far", farPC, ByLink, "e8fb0f0000 f4"},
	{"call of the next instruction; pop rax", nearPC, ByLink, "e800000000 58 f4"},
	{"call of the next instruction, far", farPC, ByLink, "e800000000 58 f4"},
	{"call rax", nearPC, ByLink, "ffd0 f4"},
	{"call rcx", nearPC, ByLink, "ffd1 f4"},
	{"call rsp", nearPC, ByLink, "ffd4 f4"},
	{"call r12, far", farPC, ByLink, "41ffd4 f4"},
	{"call [rsp+8]", nearPC, ByLink, "ff542408 f4"},
	{"call [rip+0x10]", nearPC, ByLink, "ff1510000000 f4"},
	{"call [rip+0x10], far", farPC, ByLink, "ff1510000000 f4"},
	{"call [r13+r9*8-8]", nearPC, ByLink, "43ff54cdf8 f4"},
	{"call fs:[0x10]", nearPC, ByLink, "64ff142510000000 f4"},
	{"call gs:[0x10]", nearPC, ByLink, "65ff142510000000 f4"},
	{"call gs:[rip+0x10], far", farPC, ByLink, "65ff1510000000 f4"},
	{"jmp rax", nearPC, ByLink, "ffe0"},
	{"jmp rcx", nearPC, ByLink, "ffe1"},
	{"jmp r12", nearPC, ByLink, "41ffe4"},
	{"jmp r15", nearPC, ByLink, "41ffe7"},
	{"notrack jmp [rax*8+0x1000]", nearPC, ByLink, "3eff24c500100000"},
	{"jmp [eax]", nearPC, ByLink, "67ff20"},
	{"jmp fs:[rip+0x10], far", farPC, ByLink, "64ff2510000000"},
	{"jmp out", nearPC, ByLink, "e9fb0f0000"},
	{"jmp out, padded", nearPC, ByLink, "909090909090 e9fb0f0000"},
	{"jmp self", nearPC, ByLink, "ebfe"},
	{"je out; hlt", nearPC, ByLink, "0f84fa0f0000 f4"},
	{"cmp; je out: the nop goes before the cmp", nearPC, ByLink, "9090 4839d8 0f84fa0f0000 f4"},
	{"je over a nop", nearPC, ByLink, "7401 90 f4"},
	{"jne back", nearPC, ByLink, "48ffc8 75fb f4"},
	{"je into the middle of lock cmpxchg", nearPC, ByLink, "7401 f00fb10f f4"},
	{"je over far-reaching code", nearPC, ByLink, "7478" + strings.Repeat("488b05f0ffffff", 17) + "90 f4"},
	{"loop back", nearPC, ByLink, "90 e2fd f4"},
	{"jrcxz out; hlt", nearPC, ByLink, "e37f f4"},
	{"jecxz out; hlt", nearPC, ByLink, "67e37f f4"},
	{"xbegin; xend; hlt", nearPC, ByLink, "c7f804000000 0f01d5 f4 f4"},
	{"xbegin out", nearPC, ByLink, "c7f8fa0f0000 f4"},
	{"syscall, near", nearPC, ByLink, "0f05 f4"},
	{"syscall, far", farPC, ByLink, "0f05 f4"},
	{"int3; ud2", nearPC, ByLink, "cc 0f0b"},
	{"int 0x80", nearPC, ByLink, "cd80"},
	{"falls into nothing", nearPC, ByLink, "90"},
	{"falls into bytes that are no instruction", nearPC, ByLink, "90 06"},
	{"called in the middle: dec rax; entry; jne back", nearPC + 3, ByCall, "48ffc8 85c0 75f9 f4"},
	{"lea rax,[rip+0x10]", nearPC, ByLink, "488d0510000000 f4"},
	{"lea r9d,[rip+0x10]", nearPC, ByLink, "448d0d10000000 f4"},
	{"lea ax,[rip+0x10]", nearPC, ByLink, "668d0510000000 f4"},
	{"lea r9w,[rip+0x10]", nearPC, ByLink, "66448d0d10000000 f4"},
	{"lea r9,[rip+0x10], far", farPC, ByLink, "4c8d0d10000000 f4"},
	{"lea eax,[rip+0x10], far", farPC, ByLink, "8d0510000000 f4"},
	{"lea rax,[eip+0x10], far", farPC, ByLink, "67488d0510000000 f4"},
	{"mov rax,[rip+0x10]", nearPC, ByLink, "488b0510000000 f4"},
	{"mov r15,[rip+0x10], with REX.X and B", nearPC, ByLink, "4f8b3d10000000 f4"},
	{"mov rax,[rip+0x10], far", farPC, ByLink, "488b0510000000 f4"},
	{"mov eax,[eip+0x10], far", farPC, ByLink, "678b0510000000 f4"},
	{"mov [rip+0x10],ah, far", farPC, ByLink, "882510000000 f4"},
	{"mov r8,[rip+0x10], far", farPC, ByLink, "4c8b0510000000 f4"},
	{"cmp dword [rip+0x10],0x12345678", nearPC, ByLink, "813d1000000078563412 f4"},
	{"cmp dword [rip+0x10],0x12345678, far", farPC, ByLink, "813d1000000078563412 f4"},
	{"push [rip+0x10], far", farPC, ByLink, "ff3510000000 f4"},
	{"pop [rip+0x10], far", farPC, ByLink, "8f0510000000 f4"},
	{"pcmpistri xmm0,[rip+0x10],1, far", farPC, ByLink, "660f3a630510000000 01 f4"},
	{"15 bytes: too long for a SIB byte", nearPC, ByLink, "3e3e3e3e3ec7051000000001000000 f4"},
	{"vmovaps ymm0,[rip+0x10]", nearPC, ByLink, "c5fc280510000000 f4"},
	{"vmovaps ymm0,[rip+0x10], far", farPC, ByLink, "c5fc280510000000 f4"},
	{"vpshufb xmm1,xmm6,[rip+0x10], far", farPC, ByLink, "c4e249000d10000000 f4"},
	{"andn r8,r9,[rip+0x10], far", farPC, ByLink, "c462b0f20510000000 f4"},
	{"vmovdqu64 zmm17,[rip+0x10]", nearPC, ByLink, "62e1fe486f0d10000000 f4"},
	{"vmovdqu64 zmm17,[rip+0x10], far", farPC, ByLink, "62e1fe486f0d10000000 f4"},
	{"pfadd mm0,[rip+0x10], far", farPC, ByLink, "0f0f05100000009e f4"},
	{"mov rax,gs:[0x28]", nearPC, ByLink, "65488b042528000000 f4"},
	{"mov gs:[rsp+r8*2+8],r9", nearPC, ByLink, "654e894c4408 f4"},
	{"mov gs:[rdi],bh", nearPC, ByLink, "65883f f4"},
	{"add dword gs:[eax+4],5", nearPC, ByLink, "6567834004 05 f4"},
	{"mov eax,gs:[rip+0x10]", nearPC, ByLink, "658b0510000000 f4"},
	{"vaddps ymm1,ymm6,gs:[rsi]", nearPC, ByLink, "65c5cc580e f4"},
	{"vaddps zmm1,zmm6,gs:[rsi+0x100]", nearPC, ByLink, "6562f14c48588e00010000 f4"},
	{"vaddps zmm1,zmm6,gs:[rsi+0x40], scaled", nearPC, ByLink, "6562f14c48584e01 f4"},
	{"gs lodsb", nearPC, ByLink, "65ac f4"},
	{"gs nop", nearPC, ByLink, "6590 f4"},
	{"lea rax,gs:[rdi]", nearPC, ByLink, "65488d07 f4"},
	{"vpgatherdd xmm0,gs:[rax+xmm1*4],xmm2", nearPC, ByLink, "65c4e269900488 f4"},
	{"rdgsbase rax", nearPC, ByLink, "f3480faec8 f4"},
	{"rdgsbase r9d", nearPC, ByLink, "f3410faec9 f4"},
	{"wrgsbase r9", nearPC, ByLink, "f3490faed9 f4"},
	{"wrgsbase eax", nearPC, ByLink, "f30faed8 f4"},
	{"mov gs,eax", nearPC, ByLink, "8ee8 f4"},
}

// nativeForms are the cases with Layout.NativeReturns.
var nativeForms = []struct {
	name string
	pc   uint64
	way  Way
	code string
}{
	{"native: mov ecx,eax; ret: rcx is not in S", nearPC, ByLink, "89c1 c3"},
	{"native: jumped to: ret", nearPC, ByJump, "c3"},
	{"native: ret 16", nearPC, ByLink, "c21000"},
	{"native: mov ecx,eax; call; ret", nearPC, ByLink, "89c1 e8f90f0000 c3"},
	{"native: call, far, padded", farPC, ByLink, "90909090 e8f70f0000 f4"},
	{"native: call of the next instruction; pop rax", nearPC, ByLink, "e800000000 58 f4"},
	{"native: call rax", nearPC, ByLink, "ffd0 f4"},
	{"native: call rcx", nearPC, ByLink, "ffd1 f4"},
	{"native: call [rip+0x10], far", farPC, ByLink, "ff1510000000 f4"},
}

// TestForms compares the translation of every form, and the recovery at each of its instructions, with
// testdata/forms.txt. After a change, run it with -update and read the differences.
func TestForms(t *testing.T) {
	file := filepath.Join("testdata", "forms.txt")
	var out strings.Builder
	for i, f := range slices.Concat(forms, nativeForms) {
		layout := testLayout
		layout.NativeReturns = i >= len(forms)
		addr := f.pc &^ 0xfff
		src := text{addr, unhex(t, f.code)}
		reg, err := Discover(src, f.pc, f.way, Limits{})
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		fmt.Fprintf(&out, "# %s\n", f.name)
		describe(t, &out, src, &reg, &layout)
		out.WriteByte('\n')
	}
	got := out.String()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(string(data), "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(want) || line != strings.TrimRight(strings.SplitN(want[i], "|", 2)[0], " ") {
			t.Fatalf("%s:%d:\n got %s\nwant %s", file, i+1, line, want[min(i, len(want)-1)])
		}
	}
}

// describe writes one line for each emitted instruction: offset, bytes, flags and recovery; with -update also the
// text of objdump.
func describe(t *testing.T, out *strings.Builder, src Source, reg *Region, layout *Layout) {
	var buf Buffer
	frag, err := Emit(src, reg, testBase, layout, &buf)
	if err != nil {
		t.Fatal(err)
	}
	code := append([]byte(nil), frag.Code...)
	for _, e := range frag.Entries {
		fmt.Fprintf(out, "entry %#x at %#x\n", e.Addr, e.Off)
	}
	for _, e := range frag.Returns {
		fmt.Fprintf(out, "return %#x at %#x\n", e.Addr, e.Off)
	}
	for _, l := range frag.Links {
		fmt.Fprintf(out, "link %#x at %#x, stub %#x, call %v\n", l.Target, l.Off, l.Stub, l.Call)
	}
	m, err := Record(src, reg, testBase, layout, &buf)
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(code); {
		var in x86.Inst
		if err := x86.Decode(code[off:], &in); err != nil {
			t.Fatalf("%x: %v", code[off:], err)
		}
		end := int(after(reg, frag, uint32(off), &in))
		line := fmt.Sprintf("%04x  %-32s  %s", off, hex.EncodeToString(code[off:end]), recoveryText(m, uint32(off)))
		if *update {
			line = fmt.Sprintf("%-96s| %s", line, objdump(t, code[off:end], testBase+uint64(off)))
		}
		fmt.Fprintln(out, strings.TrimRight(line, " "))
		off = end
	}
}

func recoveryText(m *Map, off uint32) string {
	r, ok := m.Recover(off)
	if !ok {
		return "none"
	}
	s := fmt.Sprintf("%#x", r.RIP)
	for _, p := range m.points {
		if p.off == off {
			s = []string{" ", ".", "?", "*"}[p.flags] + " " + s
		}
	}
	if r.RIPFromRCX {
		s += " rip=rcx"
	}
	if r.RCXFromS {
		s += " rcx=S"
	}
	if r.RSPAdd != 0 {
		s += fmt.Sprintf(" rsp+=%d", r.RSPAdd)
	}
	for _, v := range r.Saved {
		if v.Slot != 0 {
			s += fmt.Sprintf(" r%d=gs:%#x", v.Reg, v.Slot)
		}
	}
	return s + [...]string{"", " table", " exit", " call-exit", " special", " gate"}[r.Kind]
}

// objdump returns the text of the instructions of code, separated by semicolons.
func objdump(t testing.TB, code []byte, addr uint64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--insn-width=16",
		fmt.Sprintf("--adjust-vma=%#x", addr), file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) >= 3 {
			lines = append(lines, strings.Join(strings.Fields(f[2]), " "))
		}
	}
	return strings.Join(lines, "; ")
}
