// Command gen assembles the files of asm with GNU as and writes a Go file for each: the machine code
// beside its assembly text, and the offsets of its global labels.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"go/format"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"xvrun/xv/agent/abi"
)

// blockMask is a variable because a constant of 64 bits doesn't convert to int64.
var blockMask uint64 = abi.BlockMask

// symbols are the names that the assembly uses for the layout.
var symbols = map[string]int64{
	"SELF": abi.Self, "S": abi.S, "T": abi.T, "X0": abi.X0, "AGENTSP": abi.AgentSP, "INAGENT": abi.InAgent,
	"INGATE": abi.InGate, "PENDING": abi.Pending, "SETMASK": abi.SetMask, "NEXT": abi.Next,
	"GATERAX": abi.GateRAX, "MASK": abi.Mask, "FRAME": abi.Frame, "SIGNO": abi.SigNo, "SLOT": abi.Slot,
	"PID": abi.PID, "TID": abi.TID, "CHILD": abi.Child, "ALTSTACK": abi.SigStack, "STATE": abi.State,
	"KIND": abi.Kind, "LINK": abi.Link, "OP": abi.Op, "COUNT": abi.Count, "CALL": abi.Call,
	"VECTOR": abi.Vector, "RFLAGS": abi.RFLAGS, "STEPPED": abi.Stepped, "BLOCKED": abi.Blocked,
	"NEWMASK": abi.NewMask, "NEWBLOCKED": abi.NewBlock, "HELD": abi.Held, "DEFERRED": abi.Deferred, "SYNCMASK": abi.SyncMask,
	"G_RAX": abi.RAX, "G_RCX": abi.RCX, "G_RDX": abi.RDX, "G_RBX": abi.RBX, "G_RSP": abi.RSP,
	"G_RBP": abi.RBP, "G_RSI": abi.RSI, "G_RDI": abi.RDI, "G_R8": abi.R8, "G_R9": abi.R9, "G_R10": abi.R10,
	"G_R11": abi.R11, "G_R12": abi.R12, "G_R13": abi.R13, "G_R14": abi.R14, "G_R15": abi.R15, "G_RIP": abi.RIP,
	"STATERUN": abi.StateRun, "STATEREQUEST": abi.StateRequest, "STATEREPLY": abi.StateReply,
	"STATEDONE": abi.StateDone,
	"KINDMISS":  abi.KindMiss, "KINDSPECIAL": abi.KindSpecial, "KINDSYSCALL": abi.KindSyscall,
	"KINDFAILED": abi.KindFailed, "KINDSIGNAL": abi.KindSignal, "KINDDONE": abi.KindDone,
	"KINDSTART": abi.KindStart, "KINDFAULT": abi.KindFault, "KINDOPENED": abi.KindOpened, "KINDDEFERRED": abi.KindDeferred,
	"OPRESUME": abi.OpResume, "OPREMOTE": abi.OpRemote, "OPSIGRETURN": abi.OpSigreturn,
	"OPGATE": abi.OpGate, "OPCLONE": abi.OpClone, "OPEXEC": abi.OpExec, "OPEXIT": abi.OpExit, "OPFINISH": abi.OpFinish, "OPATTEMPT": abi.OpAttempt, "OPINT80": abi.OpInt80, "OPRAISE": abi.OpRaise,
	"REAPERPIDS": abi.ReaperPIDs, "GUARDLO": abi.GuardLo, "GUARDSIZE": abi.GuardSize, "PASSGUARDED": abi.PassGuarded,
	"PASSOPEN": abi.PassOpen, "SCRATCH": abi.Scratch, "KINDCALLED": abi.KindCalled, "OPTOUCH": abi.OpTouch,
	"HOLD": abi.Hold, "PASSIOCTL": abi.PassIoctl, "IOCTLHANDEDOFF": abi.IoctlHandedOff,
	"CLASS": abi.Class, "TOGGLE": abi.Toggle, "TOGGLELO": abi.ToggleLo, "TOGGLELEN": abi.ToggleLen, "TOGGLENEXT": abi.ToggleNext,
	"TOGGLESTATE": abi.ToggleState, "TOGGLECOUNT": abi.ToggleCount, "TOGGLEPROT": abi.ToggleProt,
	"TOGGLEFREE": abi.ToggleFree, "TOGGLEIDLE": abi.ToggleIdle, "TOGGLEBUSY": abi.ToggleBusy, "TOGGLEEXEC": abi.ToggleExec,
	"BLOCKMASK": int64(blockMask), "DEAD": abi.Dead, "TBL": abi.Table, "NOTABLES": abi.NoTables,
}

// regionRefs are names for what the code refers to in its region, by distances: the code is the same in every home.
var regionRefs = map[string]uint64{
	"CPUMAP": abi.First.Contexts() + abi.CPUMap, "DOORBELLS": abi.First.Contexts() + abi.Doorbells,
	"SUPERVISORDEAD": abi.First.Contexts() + abi.Dead, "PASS": abi.First.Agent() + abi.AgentSize - 512,
	"FILTERED": abi.First.Agent() + abi.Filtered, "HASH": abi.First.Hash(),
}

func main() {
	log.SetFlags(0)
	generate("agent.asm", "code", "is the agent's machine code, which runs at any address")
	generate("reaper.asm", "reaperCode", "is the reaper's machine code, which runs at any address")
}

// generate assembles a file of asm into the variable name, in a Go file of that name.
func generate(file, name, doc string) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	object := filepath.Join(dir, "agent.o")
	args := []string{"--64", "-o", object}
	for name, value := range symbols {
		args = append(args, fmt.Sprintf("--defsym=%s=%#x", name, uint64(value)))
	}
	run("as", append(args, filepath.Join("asm", file))...)
	linked := filepath.Join(dir, "agent")
	base := abi.First.Agent()
	args = []string{"--emit-relocs", "-e", fmt.Sprintf("%#x", base), fmt.Sprintf("-Ttext=%#x", base), "-o", linked}
	for name, value := range regionRefs {
		args = append(args, fmt.Sprintf("--defsym=%s=%#x", name, value))
	}
	run("ld", append(args, object)...)

	f, err := elf.Open(linked)
	if err != nil {
		log.Fatal(err)
	}
	if err := checkRefs(f); err != nil {
		log.Fatalf("%s: %v", file, err)
	}
	text, err := f.Section(".text").Data()
	if err != nil {
		log.Fatal(err)
	}
	syms, err := f.Symbols()
	if err != nil {
		log.Fatal(err)
	}
	listing := run("objdump", "-d", "-w", "-M", "intel", "--no-show-raw-insn", "-j", ".text", linked)
	source, err := format.Source(render(file, name, doc, text, syms, listing))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(strings.ToLower(name)+".go", source, 0o644); err != nil {
		log.Fatal(err)
	}
}

// render writes the Go file: one line of bytes for each line of the disassembly.
func render(file, name, doc string, text []byte, syms []elf.Symbol, listing []byte) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "// Code generated by gen from asm/%s; DO NOT EDIT.\n\npackage agent\n\n", file)
	out.WriteString("// Labels, as offsets from the start of the code.\nconst (\n")
	sort.Slice(syms, func(i, j int) bool { return syms[i].Value < syms[j].Value })
	for _, s := range syms {
		if elf.ST_BIND(s.Info) == elf.STB_GLOBAL && elf.ST_TYPE(s.Info) == elf.STT_NOTYPE && s.Section < elf.SHN_LORESERVE && !strings.HasPrefix(s.Name, "_") && s.Name != "end" && s.Name != "edata" {
			fmt.Fprintf(&out, "\t%s = %#x\n", camel(s.Name), s.Value-abi.First.Agent())
		}
	}
	fmt.Fprintf(&out, ")\n\n// %s %s.\nvar %s = []byte{\n", name, doc, name)
	type line struct {
		off  uint64
		text string
	}
	var lines []line
	for _, l := range strings.Split(string(listing), "\n") {
		var addr uint64
		head, rest, ok := strings.Cut(l, ":")
		if !ok || !strings.HasPrefix(l, " ") {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(head), "%x", &addr); err != nil {
			continue
		}
		lines = append(lines, line{addr - abi.First.Agent(), strings.Join(strings.Fields(rest), " ")})
	}
	for i, l := range lines {
		end := uint64(len(text))
		if i+1 < len(lines) {
			end = lines[i+1].off
		}
		for _, b := range text[l.off:end] {
			fmt.Fprintf(&out, "%#02x, ", b)
		}
		fmt.Fprintf(&out, "// %#x: %s\n", l.off, l.text)
	}
	out.WriteString("}\n")
	return out.Bytes()
}

// checkRefs demands that the code holds no address of the region (System V ABI for x86-64, 4.4.1).
func checkRefs(f *elf.File) error {
	syms, err := f.Symbols() // in the order of the file, to which relocations refer
	if err != nil {
		return err
	}
	for _, r := range relocations(f) {
		name := syms[r.Info>>32-1].Name
		if _, ok := regionRefs[name]; ok && elf.R_X86_64(r.Info&0xffffffff) != elf.R_X86_64_PC32 {
			return fmt.Errorf("%s is referred to by its address at %#x", name, r.Off)
		}
	}
	return nil
}

// relocations reads those of .text.
func relocations(f *elf.File) []elf.Rela64 {
	section := f.Section(".rela.text")
	if section == nil {
		return nil
	}
	list := make([]elf.Rela64, section.Size/uint64(section.Entsize))
	if err := binary.Read(section.Open(), f.ByteOrder, list); err != nil {
		log.Fatal(err)
	}
	return list
}

// camel turns gate_syscall into offGateSyscall.
func camel(name string) string {
	var b strings.Builder
	b.WriteString("off")
	for _, part := range strings.Split(name, "_") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func run(name string, args ...string) []byte {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return out
}
