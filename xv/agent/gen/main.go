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
	"SELF": abi.Self, "S": abi.S, "AGENTSP": abi.AgentSP, "INAGENT": abi.InAgent,
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
	"PASSIOCTL": abi.PassIoctl, "IOCTLHANDEDOFF": abi.IoctlHandedOff,
	"TOGGLE": abi.Toggle, "TOGGLELO": abi.ToggleLo, "TOGGLELEN": abi.ToggleLen, "TOGGLENEXT": abi.ToggleNext,
	"TOGGLESTATE": abi.ToggleState, "TOGGLECOUNT": abi.ToggleCount, "TOGGLEPROT": abi.ToggleProt,
	"TOGGLEFREE": abi.ToggleFree, "TOGGLEIDLE": abi.ToggleIdle, "TOGGLEBUSY": abi.ToggleBusy, "TOGGLEEXEC": abi.ToggleExec,
	"BLOCKMASK": int64(blockMask), "DEAD": abi.Dead,
}

// regionRefs and tableRefs are names for addresses that differ with the home; the code refers to them by words that are
// relocated when it is installed.
var (
	regionRefs = map[string]uint64{
		"CPUMAP": abi.First.Contexts() + abi.CPUMap, "DOORBELLS": abi.First.Contexts() + abi.Doorbells,
		"SUPERVISORDEAD": abi.First.Contexts() + abi.Dead, "PASS": abi.First.Agent() + abi.AgentSize - 512,
		"FILTERED": abi.First.Agent() + abi.Filtered,
	}
	tableRefs = map[string]uint64{"TBL": abi.First.Table}
)

func main() {
	log.SetFlags(0)
	generate("agent.asm", "code", "is the agent's machine code, to run at abi.First")
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
	for _, refs := range []map[string]uint64{regionRefs, tableRefs} {
		for name, value := range refs {
			args = append(args, fmt.Sprintf("--defsym=%s=%#x", name, value))
		}
	}
	run("ld", append(args, object)...)

	f, err := elf.Open(linked)
	if err != nil {
		log.Fatal(err)
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
	source, err := format.Source(append(render(file, name, doc, text, syms, listing), renderRefs(name, f)...))
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

// renderRefs writes the offsets of the words that hold addresses of a home (relocations of type R_X86_64_32 or R_X86_64_32S, System V ABI
// for x86-64, 4.4.1).
func renderRefs(name string, f *elf.File) []byte {
	var out bytes.Buffer
	syms, err := f.Symbols() // in the order of the file, to which relocations refer
	if err != nil {
		log.Fatal(err)
	}
	for _, list := range []struct {
		suffix, doc string
		refs        map[string]uint64
	}{
		{"RegionRefs", "addresses of the region", regionRefs},
		{"TableRefs", "addresses of the lookup tables", tableRefs},
	} {
		var offs []string
		for _, r := range relocations(f) {
			if _, ok := list.refs[syms[r.Info>>32-1].Name]; !ok {
				continue
			}
			if t := elf.R_X86_64(r.Info & 0xffffffff); t != elf.R_X86_64_32S && t != elf.R_X86_64_32 {
				log.Fatalf("%s: relocation of type %v at %#x", name, t, r.Off)
			}
			offs = append(offs, fmt.Sprintf("%#x", r.Off-abi.First.Agent()))
		}
		if len(offs) > 0 {
			fmt.Fprintf(&out, "\n// %s%s are the offsets of the words that hold %s.\nvar %s%s = []uint16{%s}\n",
				name, list.suffix, list.doc, name, list.suffix, strings.Join(offs, ", "))
		}
	}
	return out.Bytes()
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
