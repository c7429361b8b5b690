package agent

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"xvrun/tests/need"
	"xvrun/xv/agent/abi"
	"xvrun/xv/translate"
	"xvrun/xv/x86"
)

// TestGenerated assembles the agent again: the committed code must be that of the source.
func TestGenerated(t *testing.T) {
	for _, tool := range []string{"as", "ld", "objdump", "go"} {
		need.Tool(t, tool)
	}
	dir := t.TempDir()
	asm, err := filepath.Abs("asm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(asm, filepath.Join(dir, "asm")); err != nil {
		t.Fatal(err)
	}
	gen := filepath.Join(dir, "gen")
	if out, err := exec.Command("go", "build", "-o", gen, "./gen").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(gen)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"code.go", "reapercode.go"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate makes", name)
		}
	}
}

// TestOffsets checks that translator and agent mean the same words of the thread context.
func TestOffsets(t *testing.T) {
	for _, c := range []struct {
		name             string
		agent, translate int
	}{
		{"S", abi.S, translate.OffS}, {"T", abi.T, translate.OffT}, {"X0", abi.X0, translate.OffX0},
		{"X1", abi.X1, translate.OffX1}, {"GuestGS", abi.GuestGS, translate.OffGuestGS}, {"Stub", abi.Stub, translate.OffStub},
		{"Fuel", abi.Fuel, translate.OffFuel}, {"Vectors", abi.Vectors, translate.OffV}, {"Hash", int(abi.First.Hash()), int(Layout(abi.First).Hash)},
	} {
		if c.agent != c.translate {
			t.Errorf("%s is at %#x in the agent and at %#x in translated code", c.name, c.agent, c.translate)
		}
	}
}

// TestPlaces checks every instruction from the gate to its end: a signal there must have a state, but
// where the agent has said that signals are to be put off.
func TestPlaces(t *testing.T) {
	var in x86.Inst
	for _, part := range [][2]int{{offGate, offGateSlow}, {offGateMask, offGateProtectTaken}, {offGateProtectDone, offGateProtectDone + 1}} {
		for off := part[0]; off < part[1]; off += int(in.Len) {
			if err := x86.Decode(code[off:], &in); err != nil {
				t.Fatalf("%#x: %v", off, err)
			}
			if PlaceOf(uint64(off)) == Elsewhere {
				t.Errorf("no state for a signal at %#x of the gate", off)
			}
		}
	}
	for off, want := range map[int]Place{
		offMiss: AtMiss, offSpecial: AtSpecial, offGate: AtGate, offGateSyscall: BeforeCall, offGateAfter: AfterCall,
		offGateFlags: BeforeCallRAX, offGateFlags + 1: BeforeCallFlags, offGateRestored: BeforeCallRAX, offGateSlow: BeforeCallFlags,
		offGateLookup: AtLookup, offGateMask: BeforeCallFlags, offGateMaskSaved: BeforeMask, offGateMaskLoad: AtMaskAccess,
		offGateMaskStore: AtMaskAccess, offGateMaskSyscall: BeforeMask, offGateMaskAfter: AfterMask, offGateOwn: AfterOwn, offGateWorked: AfterCall,
		offGateWorkedLookup: AtLookup, offGateProtect: BeforeCallFlags, offGateProtectTaken: Elsewhere, offGateProtectDone: AfterOwn, offGateAgain: BeforeCall, offGateHandoff: BeforeCallFlags, offRaiseJump: Raising,
		offGate2Syscall: BeforeGate2, offGate2After: AfterGate2, offGate2Stored: StoredGate2, offResumeBegin: Resuming,
		offResumeEnd: Elsewhere, offSighandler: Elsewhere,
	} {
		if got := PlaceOf(uint64(off)); got != want {
			t.Errorf("place of %#x: %d, want %d", off, got, want)
		}
	}
	if PlaceOf(abi.AgentSize) != Elsewhere || PlaceOf(^uint64(0)) != Elsewhere {
		t.Error("a place outside of the agent")
	}
}

func TestInstall(t *testing.T) {
	mem := make([]byte, abi.AgentSize)
	if err := Install(mem, abi.First, func(nr int) byte { return byte(nr % 3) }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem[:len(code)], code) {
		t.Error("the code was not copied")
	}
	other := abi.Home{Base: abi.First.Base + 0x10_1000, Table: abi.First.Table - 0x1000}
	moved := make([]byte, abi.AgentSize)
	if err := Install(moved, other, func(int) byte { return 0 }); err != nil {
		t.Fatal(err)
	}
	checkMoved(t, code, moved[:len(code)], other)
	for nr, b := range mem[abi.AgentSize-passSize:] {
		if b != byte(nr%3) {
			t.Fatalf("system call %d has class %d", nr, b)
		}
	}
}

func TestReaperELF(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(ReaperELF()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || len(f.Progs) != 1 {
		t.Errorf("header %+v", f.FileHeader)
	}
	if p := f.Progs[0]; p.Flags != elf.PF_R|elf.PF_X || f.Entry < p.Vaddr || f.Entry >= p.Vaddr+p.Filesz {
		t.Errorf("segment %+v, entry %#x", p.ProgHeader, f.Entry)
	}
}

// checkMoved compares the code at two homes: it differs in the displacements that are addresses of the home, and in nothing else.
func checkMoved(t *testing.T, a, b []byte, home abi.Home) {
	t.Helper()
	refs := 0
	var in x86.Inst
	for off := 0; off < offData; off += int(in.Len) {
		if err := x86.Decode(a[off:], &in); err != nil {
			t.Fatalf("%#x: %v", off, err)
		}
		if in.DispSize != 4 || in.RIPRel {
			continue
		}
		at := off + int(in.DispOff)
		first := uint64(binary.LittleEndian.Uint32(a[at:]))
		want := first
		switch {
		case first == abi.First.Table:
			want = home.Table
		case first >= abi.First.Base && first < abi.First.End():
			want += home.Base - abi.First.Base
		default:
			continue
		}
		refs++
		if got := uint64(binary.LittleEndian.Uint32(b[at:])); got != want {
			t.Errorf("the address %#x at %#x became %#x, want %#x", first, at, got, want)
		}
		copy(b[at:at+4], a[at:])
	}
	if refs != len(codeRegionRefs)+len(codeTableRefs) {
		t.Errorf("%d addresses, want %d", refs, len(codeRegionRefs)+len(codeTableRefs))
	}
	if !bytes.Equal(a, b) {
		t.Error("something else was changed")
	}
}
