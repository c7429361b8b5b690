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
		{"Fuel", abi.Fuel, translate.OffFuel}, {"Vectors", abi.Vectors, translate.OffV},
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
	if err := Install(mem, func(nr int) byte { return byte(nr % 3) }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem[:len(code)], code) {
		t.Error("the code was not copied")
	}
	for nr, b := range mem[abi.AgentSize-passSize:] {
		if b != byte(nr%3) {
			t.Fatalf("system call %d has class %d", nr, b)
		}
	}
}

// TestAnywhere checks that the code refers to nothing in the region by its address: all operands that are no distances are those of a
// register, of the context, or of the lookup tables.
func TestAnywhere(t *testing.T) {
	var in x86.Inst
	for off := 0; off < offData; off += int(in.Len) {
		if err := x86.Decode(code[off:], &in); err != nil {
			t.Fatalf("%#x: %v", off, err)
		}
		if in.DispSize != 4 || in.RIPRel || in.Seg != 0 {
			continue
		}
		at := off + int(in.DispOff)
		if disp := uint64(binary.LittleEndian.Uint32(code[at:])); disp >= abi.NearStart && disp < abi.Table {
			t.Errorf("the instruction at %#x refers to the address %#x", off, disp)
		}
	}
}

// TestLayout checks the distances that translated code rests on.
func TestLayout(t *testing.T) {
	for _, home := range []abi.Home{abi.First, {Base: 0x3f12_5000_0000, CacheSize: 16 << 20}} {
		for name, c := range map[string]struct {
			off  uint32
			want uint64
		}{
			"Hash": {Layout.Hash, home.Hash()}, "Miss": {Layout.Miss, home.Agent() + offMiss},
			"Special": {Layout.Special, home.Agent() + offSpecial}, "Gate": {Layout.Gate, home.Agent() + offGate},
		} {
			if got := home.Cache() + uint64(int64(int32(c.off))); got != c.want {
				t.Errorf("%s of the home at %#x is at %#x, want %#x", name, home.Base, got, c.want)
			}
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
