package x86

import (
	"bufio"
	"bytes"
	"os/exec"
	"strings"
)

// line is one instruction as objdump prints it.
type line struct {
	addr  uint64
	code  []byte // its bytes
	text  string
	class Class
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
	"lcall": Special, "lcallw": Special, "lcalll": Special, "ljmpq": Special, "lcallq": Special,
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

// bad reports a line that objdump does not take for an instruction.
func (l *line) bad() bool {
	return strings.Contains(l.text, "(bad)") || strings.Contains(l.text, "{bad}") || strings.Contains(l.text, "%?")
}

// disassemble runs objdump and calls do for each instruction until it returns false. The line is used again.
func disassemble(file string, args []string, do func(l *line) bool) error {
	cmd := exec.Command("objdump", append(args, "-w", file)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := bufio.NewScanner(out)
	r.Buffer(make([]byte, 1<<20), 1<<20)
	var l line
	for r.Scan() {
		if parse(r.Bytes(), &l) && !do(&l) {
			cmd.Process.Kill()
			cmd.Wait()
			return nil
		}
	}
	if err := r.Err(); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	return cmd.Wait()
}
