package x86

import (
	"bytes"
	"debug/elf"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"xvrun/tests/need"
)

var full = flag.Bool("full", false, "compare with objdump over all ELF files of the system")

// objdumpErrors are the cases in which objdump prints an instruction that the processor executes otherwise, or not at all.
var objdumpErrors = map[string]string{
	"prefixes":   "prefixes on a line of their own: they belong to the instruction that follows, which objdump decodes without them (SDM vol. 2 sec. 2.1.1, 2.2.1)",
	"fwait":      "fwait joined with the x87 instruction, or the prefixes, that follow: two instructions (SDM vol. 2 \"WAIT/FWAIT\")",
	"lock":       "LOCK with an instruction or operand that does not take it: #UD (SDM vol. 2 \"LOCK\")",
	"mov cs":     "mov to cs: #UD (SDM vol. 2 \"MOV\")",
	"vex prefix": "LOCK, 66, F2, F3 or REX before VEX, EVEX or XOP: #UD (SDM vol. 2 sec. 2.3.2 to 2.3.4, 2.7.11; APM vol. 3 sec. 1.9)",
	"eip":        "target of an eip-relative operand above 4 GiB: truncated to 32 bits (SDM vol. 2 sec. 2.2.1.6)",
}

// badButValid are the cases in which objdump prints (bad), and Decode reports an instruction.
var badButValid = map[string]string{
	"x87":      "reserved x87 encodings that processors execute as an alias, such as dc d0 for fcom (SDM vol. 2 sec. A.5.2)",
	"nop":      "reserved nops 0f 0d, 0f 1a and 0f 1b (SDM vol. 2 table A-3)",
	"prefix":   "wbinvd, rdseed and others with a prefix that processors ignore",
	"reserved": "reserved values of vvvv, W, L or pp of VEX, EVEX or XOP, or of group 7 (0f 01): length known, the processor faults by itself",
}

// validReason names the entry of badButValid for an instruction, or "".
func validReason(in *Inst) string {
	switch {
	case in.Encoding != Legacy || in.Map == 1 && (in.Opcode == 0x01 || in.Opcode == 0x00):
		return "reserved"
	case in.Map == 0 && in.Opcode >= 0xd8 && in.Opcode <= 0xdf:
		return "x87"
	case in.Map == 1 && (in.Opcode == 0x0d || in.Opcode == 0x1a || in.Opcode == 0x1b):
		return "nop"
	case in.Map == 1 && (in.Opcode == 0x09 || in.Opcode == 0xc7):
		return "prefix"
	}
	return ""
}

// tally counts what a comparison found.
type tally struct {
	mu       sync.Mutex
	files    int
	insts    int
	bad      int            // lines that are no instruction for objdump
	known    map[string]int // by key of objdumpErrors
	valid    map[string]int // by key of badButValid
	diffs    int
	examples []string
	pending  []byte // prefixes that objdump printed before this line
}

func newTally() *tally {
	return &tally{known: map[string]int{}, valid: map[string]int{}}
}

func (t *tally) diff(file string, l *line, in *Inst, err error, what string) {
	t.diffs++
	if len(t.examples) < 100 {
		t.examples = append(t.examples, fmt.Sprintf("%s: %s %x: % x %q: len %d class %d err %v rip %v",
			what, file, l.addr, l.code, l.text, in.Len, in.Class, err, in.RIPRel))
	}
}

// compare checks one line of objdump. Only the bytes that objdump gave to the instruction are decoded.
func (t *tally) compare(file string, l *line) {
	var in Inst
	t.insts++
	if len(t.pending) != 0 {
		decodedAlone := slices.ContainsFunc(t.pending, func(b byte) bool { return b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 })
		l.code = append(t.pending, l.code...)
		l.addr -= uint64(len(t.pending))
		t.pending = nil
		if decodedAlone || len(l.code) > MaxLen {
			return // the text is not that of the whole instruction
		}
	}
	code := l.code
	err := Decode(code, &in)
	for err == nil && in.Map == 0 && in.Opcode == 0x9b && int(in.Len) < len(code) {
		t.known["fwait"]++
		code = code[in.Len:]
		l.addr += uint64(in.Len)
		err = Decode(code, &in)
	}
	if l.bad() {
		t.bad++
		if err == nil {
			reason := validReason(&in)
			t.valid[reason]++
			if reason == "" {
				t.diff(file, l, &in, err, "valid")
			}
		}
		return
	}
	name := l.interpret()
	if name == "" {
		t.known["prefixes"]++
		t.pending = bytes.Clone(l.code)
		return
	}
	if name == "fwait" && err == ErrTruncated {
		return // fwait joined with the prefixes of the next instruction
	}
	if err != nil {
		if reason := errorReason(&in, err); reason != "" {
			t.known[reason]++
			return
		}
		t.diff(file, l, &in, err, "error")
		return
	}
	want := l.class
	switch want {
	case Jmp, Jcc, Loop, Call, Ret, JmpInd, CallInd:
		if in.OpSize && in.REX&8 == 0 {
			want = Special
		}
	}
	switch {
	case int(in.Len) != len(code):
		t.diff(file, l, &in, err, "length")
	case in.Class != want:
		t.diff(file, l, &in, err, "class")
	case in.RIPRel != l.isRIP:
		t.diff(file, l, &in, err, "rip-relative")
	case in.RIPRel && in.AddrSize && l.rip>>32 != 0 && in.RIPTarget(l.addr) == l.rip&0xffffffff:
		t.known["eip"]++
	case in.RIPRel && in.RIPTarget(l.addr) != l.rip:
		t.diff(file, l, &in, err, "rip target")
	case l.hasTo && in.Class != Special && in.Target(l.addr) != l.dest:
		t.diff(file, l, &in, err, "branch target")
	}
}

// errorReason names the entry of objdumpErrors for an instruction that Decode does not accept, or "".
func errorReason(in *Inst, err error) string {
	switch {
	case err != ErrInvalid:
	case in.Encoding != Legacy && in.Encoding != Now3D && (in.OpSize || in.Rep || in.Repne || in.Lock || in.REX != 0):
		return "vex prefix"
	case in.Lock:
		return "lock"
	case in.Map == 0 && in.Opcode == 0x8e && in.ModRM>>3&7 == 1:
		return "mov cs"
	}
	return ""
}

// run compares one file; limit is the greatest number of instructions, 0 for all.
func (t *tally) run(file string, limit int, args ...string) error {
	own := newTally()
	err := disassemble(file, args, func(l *line) bool {
		own.compare(file, l)
		return limit == 0 || own.insts < limit
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files++
	t.insts += own.insts
	t.bad += own.bad
	t.diffs += own.diffs
	for k, v := range own.known {
		t.known[k] += v
	}
	for k, v := range own.valid {
		t.valid[k] += v
	}
	t.examples = append(t.examples, own.examples...)
	return err
}

// isELF reports a 64-bit x86 executable or library.
func isELF(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Machine == elf.EM_X86_64
}

// TestObjdump compares length, class, branch target and RIP-relative target with objdump, instruction by instruction at objdump's
// addresses. By default it takes a sample of files, with -full every ELF file of the system's program and library folders:
//
//	go test ./xv/x86 -run TestObjdump -full -timeout 60m
//
// Last full run, objdump 2.40: 2,474 files, 430,789,059 instructions, 0 differences. Lines in which objdump and the processor
// differ, see objdumpErrors: prefixes 17,736, lock 977, mov cs 181, fwait 180, vex prefix 12, eip 12. Of 39,861 lines that
// objdump calls (bad), Decode reports ErrInvalid or, at the end of the bytes given, ErrTruncated, except for x87 299 and nop 4.
//
// TestRandom with -full: 20,972,944 instructions, 0 differences.
//
// The tables were also compared with a processor without AVX-512 or XOP (AMD family 25), by executing the opcode maps 0F, 0F 38,
// 0F 3A, VEX 1 to 3 and x87 with all prefixes and ModRM.reg values, but for branches, system calls and loads of segments,
// 911,322 encodings: none that executed is ErrInvalid, and the lengths of those with ModRM that ran to the next
// instruction agree.
func TestObjdump(t *testing.T) {
	need.Tool(t, "objdump")
	var files []string
	limit := 300_000
	if *full {
		limit = 0
		files = allELF()
	} else {
		files = sampleELF(t)
	}
	total := newTally()
	work := make(chan string)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for f := range work {
				if err := total.run(f, limit, "-d"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, f := range files {
		work <- f
	}
	close(work)
	wg.Wait()
	total.report(t)
}

func (t *tally) report(tt *testing.T) {
	tt.Logf("%d files, %d instructions, %d (bad), %d differences", t.files, t.insts, t.bad, t.diffs)
	for _, k := range slices.Sorted(maps.Keys(t.known)) {
		tt.Logf("objdump: %d %s", t.known[k], objdumpErrors[k])
	}
	for _, k := range slices.Sorted(maps.Keys(t.valid)) {
		tt.Logf("(bad): %d %s", t.valid[k], badButValid[k])
	}
	for _, s := range t.examples[:min(len(t.examples), 100)] {
		tt.Error(s)
	}
}

// allELF lists the distinct ELF files of the system's program and library folders.
func allELF() (files []string) {
	seen := map[string]bool{}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64", "/usr", "/opt"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !seen[p] {
				seen[p] = true
				if isELF(p) {
					files = append(files, p)
				}
			}
			return nil
		})
	}
	return files
}

// sampleELF lists files of different compilers and kinds.
func sampleELF(t *testing.T) (files []string) {
	self, _ := os.Executable()
	patterns := []string{
		"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/x86_64-linux-gnu/libcrypto.so.*", "/usr/lib64/libcrypto.so.*",
		"/lib64/ld-linux-x86-64.so.2", "/usr/bin/python3.*", "/usr/lib/gcc/x86_64-linux-gnu/*/cc1", "/usr/libexec/gcc/x86_64-linux-gnu/*/cc1",
		"/usr/lib/x86_64-linux-gnu/libgmp.so.*", "/usr/lib/x86_64-linux-gnu/libm.so.6",
	}
	if self != "" {
		files = append(files, self)
	}
	for _, p := range patterns {
		m, _ := filepath.Glob(p)
		if len(m) > 0 && isELF(m[0]) {
			files = append(files, m[0])
		}
	}
	if len(files) < 3 {
		need.Missing(t, "a third ELF file to compare")
	}
	return files
}
