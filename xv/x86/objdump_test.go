package x86

import (
	"bufio"
	"bytes"
	"debug/elf"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
)

var full = flag.Bool("full", false, "compare with objdump over all ELF files of the system")

// line is one instruction as objdump prints it.
type line struct {
	addr  uint64
	code  []byte // its bytes
	text  string
	class Class
	named bool   // class holds
	rip   uint64 // the RIP-relative target
	isRIP bool
	dest  uint64 // target of a direct branch
	hasTo bool
}

// prefixWords are what objdump prints before the name of the instruction.
var prefixWords = map[string]bool{
	"lock": true, "rep": true, "repz": true, "repnz": true, "bnd": true, "notrack": true, "data16": true, "addr32": true,
	"cs": true, "ds": true, "es": true, "ss": true, "fs": true, "gs": true, "xacquire": true, "xrelease": true,
	"{vex}": true, "{evex}": true, "{rex}": true,
}

func isPrefixWord(w string) bool {
	return prefixWords[w] || w == "rex" || strings.HasPrefix(w, "rex.")
}

// names maps the names whose class does not depend on operands.
var names = map[string]Class{
	"syscall": Syscall, "int3": Int3, "xbegin": Xbegin, "xbeginw": Xbegin,
	"ret": Ret, "retw": Ret, "retq": Ret,
	"loop": Loop, "loope": Loop, "loopne": Loop, "jrcxz": Loop, "jecxz": Loop,
	"loopl": Loop, "loopel": Loop, "loopnel": Loop,
	"ud0": Trap, "ud1": Trap, "ud2": Trap, "hlt": Trap, "rsm": Trap,
	"int": Special, "int1": Special, "sysenter": Special, "sysexit": Special, "sysexitl": Special, "sysexitq": Special,
	"sysretl": Special, "sysretq": Special, "sysret": Special,
	"iret": Special, "iretw": Special, "iretl": Special, "iretq": Special, "uiret": Special, "enclu": Special,
	"lret": Special, "lretw": Special, "lretl": Special, "lretq": Special, "ljmp": Special, "ljmpw": Special, "ljmpl": Special,
	"lcall": Special, "lcallw": Special, "lcalll": Special, "rex.W ljmp": Special, "ljmpq": Special, "lcallq": Special,
	"lgs": Special, "swapgs": Special, "rdgsbase": Special, "wrgsbase": Special, "lkgs": Special,
}

// split separates prefixes, name and operands of objdump's text.
func split(text string) (prefixes []string, name, operands string) {
	for {
		w, rest, _ := strings.Cut(text, " ")
		rest = strings.TrimLeft(rest, " ")
		if !isPrefixWord(w) {
			return prefixes, w, rest
		}
		prefixes = append(prefixes, w)
		if rest == "" {
			return prefixes, "", ""
		}
		text = rest
	}
}

// classify gives the class by name and operands.
func classify(name, operands string) (c Class, hasTo bool) {
	indirect := strings.HasPrefix(operands, "*")
	if base, _, ok := strings.Cut(name, ","); ok {
		name = base // je,pn
	}
	if c, ok := names[name]; ok {
		return c, c == Loop || c == Xbegin
	}
	switch {
	case strings.HasPrefix(name, "jmp"):
		if indirect {
			return JmpInd, false
		}
		return Jmp, true
	case strings.HasPrefix(name, "call"):
		if indirect {
			return CallInd, false
		}
		return Call, true
	case name[0] == 'j':
		return Jcc, true
	case strings.HasPrefix(name, "mov") && strings.HasSuffix(operands, ",%gs"), name == "pop" && operands == "%gs",
		name == "popw" && operands == "%gs":
		return Special, false
	}
	return Other, false
}

// parse reads a line of objdump -d -w; ok is false for lines that are no instructions.
func parse(s []byte, l *line) (ok bool) {
	i := bytes.IndexByte(s, '\t')
	if i < 2 || s[i-1] != ':' {
		return false
	}
	j := bytes.IndexByte(s[i+1:], '\t')
	raw, text := s[i+1:], []byte(nil)
	if j >= 0 {
		raw, text = s[i+1:i+1+j], s[i+2+j:]
	}
	*l = line{code: l.code[:0]}
	l.addr = unhexDigits(bytes.TrimLeft(s[:i-1], " "))
	for k := 0; k+1 < len(raw) && raw[k] != ' '; k += 3 {
		l.code = append(l.code, byte(unhexDigits(raw[k:k+2])))
	}
	l.text = string(text)
	return !strings.HasPrefix(l.text, ".byte")
}

func unhexDigits(b []byte) (v uint64) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return v
		}
		v = v<<4 | uint64(c)
	}
	return v
}

// interpret fills the fields that come from the text.
func (l *line) interpret() (name string) {
	text := l.text
	if i := strings.Index(text, "# "); i >= 0 {
		l.isRIP = strings.Contains(text[:i], "ip)")
		l.rip = unhexDigits([]byte(strings.TrimPrefix(text[i+2:], "0x")))
		text = strings.TrimRight(text[:i], " ")
	}
	_, name, operands := split(strings.TrimRight(text, " "))
	if name == "" {
		return ""
	}
	l.class, l.hasTo = classify(name, operands)
	if l.hasTo {
		l.dest = unhexDigits([]byte(strings.TrimPrefix(operands, "0x")))
	}
	return name
}

// tally counts what a comparison found.
type tally struct {
	mu       sync.Mutex
	files    int
	insts    int
	bad      int            // (bad) lines
	known    map[string]int // objdump's own errors, by reason
	lax      map[string]int // (bad) for objdump, not for Decode
	diffs    int
	examples []string
}

func (t *tally) diff(file string, l *line, in *Inst, err error, what string) {
	t.diffs++
	if len(t.examples) < 200 {
		t.examples = append(t.examples, fmt.Sprintf("%s: %s %x: % x %q: len %d class %d err %v rip %v",
			what, file, l.addr, l.code, l.text, in.Len, in.Class, err, in.RIPRel))
	}
}

// compare checks one instruction. l.code may be followed by no other bytes.
func (t *tally) compare(file string, l *line) {
	var in Inst
	t.insts++
	if strings.Contains(l.text, "(bad)") || strings.Contains(l.text, "{bad}") || strings.Contains(l.text, "%?") {
		t.bad++
		if err := Decode(l.code, &in); err == nil && int(in.Len) <= len(l.code) {
			t.lax[fmt.Sprintf("%d map %d op %02x", in.Encoding, in.Map, in.Opcode)]++
		}
		return
	}
	code := l.code
	name := l.interpret()
	if name == "" {
		t.known["prefixes on a line of their own"]++
		return
	}
	err := Decode(code, &in)
	for err == nil && in.Map == 0 && in.Opcode == 0x9b && int(in.Len) < len(code) {
		t.known["fwait joined with the next instruction"]++
		code = code[in.Len:]
		l.addr += uint64(in.Len)
		err = Decode(code, &in)
	}
	if err != nil {
		if reason := objdumpAccepts(l, &in, err); reason != "" {
			t.known[reason]++
			return
		}
		t.diff(file, l, &in, err, "error")
		return
	}
	want := l.class
	if in.OpSize && in.Ext&8 == 0 && (want == Jmp || want == Jcc || want == Loop || want == Call || want == Ret || want == JmpInd || want == CallInd) {
		want = Special
	}
	switch {
	case int(in.Len) != len(code):
		t.diff(file, l, &in, err, "length")
	case in.Class != want:
		t.diff(file, l, &in, err, "class")
	case in.RIPRel != l.isRIP:
		t.diff(file, l, &in, err, "rip-relative")
	case in.RIPRel && in.AddrSize && l.rip>>32 != 0 && in.RIPTarget(l.addr) == l.rip&0xffffffff:
		t.known["target of an eip-relative operand not truncated"]++
	case in.RIPRel && in.RIPTarget(l.addr) != l.rip:
		t.diff(file, l, &in, err, "rip target")
	case l.hasTo && in.Class != Special && in.Target(l.addr) != l.dest:
		t.diff(file, l, &in, err, "branch target")
	}
}

// objdumpAccepts names the reason why objdump prints an instruction that the processor does not execute, or "".
func objdumpAccepts(l *line, in *Inst, err error) string {
	switch {
	case err != ErrInvalid:
	case in.Lock:
		return "LOCK with an instruction that does not take it"
	case in.Map == 0 && in.Opcode == 0x8e && in.ModRM>>3&7 == 1:
		return "mov to cs"
	case in.Encoding != Legacy && in.Encoding != Now3D && (in.OpSize || in.Rep || in.Repne || in.REX != 0):
		return "66, F2, F3 or REX before VEX, EVEX or XOP"
	}
	return ""
}

// run compares one file; limit is the greatest number of instructions, 0 for all.
func (t *tally) run(file string, limit int, args ...string) error {
	cmd := exec.Command("objdump", append(args, "-w", file)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	own := newTally()
	r := bufio.NewScanner(out)
	r.Buffer(make([]byte, 1<<20), 1<<20)
	var l line
	for r.Scan() {
		if parse(r.Bytes(), &l) {
			own.compare(file, &l)
			if limit != 0 && own.insts >= limit {
				cmd.Process.Kill()
				break
			}
		}
	}
	cmd.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files++
	t.insts += own.insts
	t.bad += own.bad
	t.diffs += own.diffs
	for k, v := range own.known {
		t.known[k] += v
	}
	for k, v := range own.lax {
		t.lax[k] += v
	}
	t.examples = append(t.examples, own.examples...)
	return r.Err()
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

func TestObjdump(t *testing.T) {
	if _, err := exec.LookPath("objdump"); err != nil {
		t.Skip("no objdump")
	}
	var files []string
	limit := 400000
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

func newTally() *tally {
	return &tally{known: map[string]int{}, lax: map[string]int{}}
}

func (t *tally) report(tt *testing.T) {
	tt.Logf("%d files, %d instructions, %d (bad), %d differences", t.files, t.insts, t.bad, t.diffs)
	logCounts(tt, "objdump's own errors", t.known)
	logCounts(tt, "(bad) for objdump only", t.lax)
	for i, s := range t.examples {
		if i == 100 {
			break
		}
		tt.Error(s)
	}
}

func logCounts(t *testing.T, title string, m map[string]int) {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		t.Logf("%s: %s: %d", title, k, m[k])
	}
}

// allELF lists the distinct ELF files of the system's program and library folders.
func allELF() (files []string) {
	seen := map[string]bool{}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64", "/usr", "/opt", "/root", "/home"} {
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
		t.Skip("few ELF files to compare")
	}
	return files
}
