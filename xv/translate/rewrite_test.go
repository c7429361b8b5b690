package translate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"xvrun/tests/need"
	"xvrun/xv/x86"
)

// rewriteCases returns instructions with a memory operand of every opcode and encoding that decode. The operand is
// made by tail from the reg field of ModRM.
func rewriteCases(prefix string, tail func(reg byte) []byte) [][]byte {
	var cases [][]byte
	add := func(head ...byte) {
		var in x86.Inst
		regs := []byte{1, 6}
		if head[0] != 0xc4 && head[0] != 0x62 && head[0]&0xf0 != 0x40 {
			regs = []byte{0, 1, 2, 3, 4, 5, 6, 7}
		}
		for _, reg := range regs {
			code := append(append([]byte(prefix), head...), tail(reg)...)
			padded := append(code[:len(code):len(code)], 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x08)
			if x86.Decode(padded, &in) == nil && in.Class == x86.Other && in.MemOperand() && in.HasModRM && int(in.Len) >= len(code) {
				cases = append(cases, padded[:in.Len])
			}
		}
	}
	for op := range 256 {
		op := byte(op)
		for _, pre := range []string{"", "\x66", "\xf2", "\xf3", "\x4c"} {
			p := []byte(pre)
			if strings.IndexByte("\x0f\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3\xc4\xc5\x62\x8f", op) < 0 && op&0xf0 != 0x40 {
				add(append(p, op)...)
			}
			add(append(p, 0x0f, op)...)
			add(append(p, 0x0f, 0x38, op)...)
			add(append(p, 0x0f, 0x3a, op)...)
		}
		for pp := range byte(4) {
			for _, vvvv := range []byte{0xf, 0x6} {
				add(0xc5, 0x80|vvvv<<3|pp, op)
				add(0xc5, vvvv<<3|4|pp, op)
				for m := byte(1); m < 8; m++ {
					add(0xc4, 0xe0|m, vvvv<<3|pp, op)
					add(0xc4, 0x00|m, 0x84|vvvv<<3|pp, op)
					add(0x62, 0xf0|m, 0x04|vvvv<<3|pp, 0x48, op)
					add(0x62, 0x00|m, 0x84|vvvv<<3|pp, 0x29, op)
				}
			}
		}
		for m := byte(8); m < 11; m++ {
			add(0x8f, 0xe0|m, 0x78, op)
			add(0x8f, 0x00|m, 0xb4, op)
		}
	}
	return cases
}

var (
	rexText = regexp.MustCompile(`\b(rex(\.[WRXB]+)?|[cdesfg]s|addr32|data16) `)
	comment = regexp.MustCompile(` *#.*`)
)

const pitch = 32

// lines returns objdump's text of each instruction; all are padded with nops, which what objdump does not know may run into.
func lines(t *testing.T, insts [][]byte) []string {
	t.Helper()
	var code []byte
	for _, in := range insts {
		code = append(code, in...)
		for range pitch - len(in) {
			code = append(code, 0x90)
		}
	}
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("objdump", "-D", "-z", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--insn-width=16", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(insts))
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		var at int
		if len(f) < 3 {
			continue
		}
		if _, err := fmt.Sscanf(f[0], "%x:", &at); err != nil || at%pitch != 0 {
			continue
		}
		if len(strings.Fields(f[1])) != len(insts[at/pitch]) {
			continue // objdump does not know the instruction
		}
		texts[at/pitch] = strings.Join(strings.Fields(comment.ReplaceAllString(f[2], "")), " ")
	}
	return texts
}

// operandText replaces the memory operand with M, and leaves out prefixes that do not matter.
func operandText(s string, mem *regexp.Regexp) string {
	return rexText.ReplaceAllString(mem.ReplaceAllString(s, "M"), "")
}

// TestRewrite compares, for every instruction with a memory operand, the text of the translated instruction with the
// original one: only the operand may differ.
func TestRewrite(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute")
	}
	need.Tool(t, "objdump")
	rip := func(reg byte) []byte { return []byte{0x05 | reg<<3, 0x80, 0, 0, 0} }
	sib := func(reg byte) []byte { return []byte{0x84 | reg<<3, 0xbe, 0x78, 0x56, 0x34, 0x12} }
	ripText := regexp.MustCompile(`(ds:|fs:|gs:)?\[[re]ip\+0x80\]`)
	sibText := regexp.MustCompile(`gs:\[[re](si|14)d?\+[re](di|15)d?\*4\+0x12345678\]`)
	regText := regexp.MustCompile(`(fs:)?\[(r8|r9|r1[0145]|rbx|rcx|rdx|rsi|rdi|r8d|r9d|r1[0145]d|e[bcd]x|e[sd]i)\]`)
	absText := regexp.MustCompile(`([dg]s:0x[0-9a-f]{6}|fs:0x[0-9a-f]{6}|\[eiz\*1\+0x[0-9a-f]+\])`)
	var compared int
	for _, c := range []struct {
		name     string
		pc       uint64
		prefix   string
		tail     func(byte) []byte
		old, new *regexp.Regexp
	}{
		{"far", farPC, "", rip, ripText, regText},
		{"near", nearPC, "", rip, ripText, absText},
		{"near fs", nearPC, "\x64", rip, ripText, absText},
		{"far addr32", farPC, "\x67", rip, ripText, absText},
		{"gs", nearPC, "\x65", sib, sibText, regText},
		{"gs addr32", nearPC, "\x65\x67", sib, sibText, regText},
		{"gs rip", nearPC, "\x65", rip, ripText, regexp.MustCompile(regText.String() + "|" + absText.String())},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after [][]byte
			var kinds []kind
			for _, code := range rewriteCases(c.prefix, c.tail) {
				var in x86.Inst
				if err := x86.Decode(code, &in); err != nil {
					t.Fatal(err)
				}
				k := classify(&in)
				if k != kindRIP && k != kindGS || in.Map == 0 && in.Encoding == x86.Legacy && in.Opcode == 0x8d {
					continue
				}
				kinds = append(kinds, k)
				before = append(before, code)
				after = append(after, rewritten(t, c.pc, code))
			}
			b, a := lines(t, before), lines(t, after)
			bad := 0
			compared = 0
			for i := range before {
				if b[i] == "" || strings.Contains(b[i], "(bad)") || strings.Contains(b[i], "prefetchit") || !c.old.MatchString(b[i]) {
					// A prefetch of code exists only with RIP-relative operands, it becomes a nop.
					continue
				}
				compared++
				if x, y := operandText(b[i], c.old), operandText(a[i], c.new); x != y {
					if bad++; bad < 20 {
						t.Errorf("% x: %s\n% x: %s\n%q %q", before[i], b[i], after[i], a[i], x, y)
					}
				}
			}
			if compared < len(before)/2 {
				t.Errorf("only %d of %d instructions compared", compared, len(before))
			}
		})
	}
}

// rewritten returns the translated instruction without what is around it.
func rewritten(t *testing.T, pc uint64, code []byte) []byte {
	t.Helper()
	src := text{pc, append(code[:len(code):len(code)], 0xf4)}
	reg := Region{Entry: pc, Blocks: []Block{{Addr: pc, Len: uint32(len(code)) + 1, Room: 200}}}
	var buf Buffer
	m, err := Record(src, &reg, testBase, &testLayout, &buf)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(m.points) - 2; i >= 0; i-- {
		if p := m.points[i]; p.RIP == pc {
			return append([]byte(nil), buf.code[p.off:m.points[i+1].off]...)
		}
	}
	t.Fatal("no such instruction")
	return nil
}
