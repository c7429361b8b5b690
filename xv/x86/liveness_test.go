package x86

import (
	"strings"
	"testing"

	"xvrun/tests/need"
)

func TestRCX(t *testing.T) {
	for _, c := range []struct {
		code          string
		reads, writes bool
		what          string
	}{
		{"48 89 c8", true, false, "mov rax,rcx"}, {"48 89 c1", false, true, "mov rcx,rax"}, {"89 c1", false, true, "mov ecx,eax"},
		{"66 89 c1", false, false, "mov cx,ax"}, {"88 c1", false, false, "mov cl,al"}, {"88 c8", true, false, "mov al,cl"},
		{"88 e8", true, false, "mov al,ch"}, {"40 88 e8", false, false, "mov al,bpl"}, {"8a 28", false, false, "mov ch,[rax]"},
		{"49 89 c9", true, false, "mov r9,rcx"}, {"4d 89 c9", false, false, "mov r9,r9"}, {"48 8b 09", true, false, "mov rcx,[rcx]"},
		{"48 8b 0c 25 00 00 00 00", false, true, "mov rcx,[0]"}, {"48 8b 0d 00 00 00 00", false, true, "mov rcx,[rip]"},
		{"48 8b 04 08", true, false, "mov rax,[rax+rcx]"}, {"4a 8b 04 08", false, false, "mov rax,[rax+r9]"},
		{"41 8b 01", false, false, "mov eax,[r9]"}, {"48 8d 4c 24 08", false, true, "lea rcx,[rsp+8]"},
		{"b9 01 00 00 00", false, true, "mov ecx,1"}, {"41 b9 01 00 00 00", false, false, "mov r9d,1"}, {"b1 01", false, false, "mov cl,1"},
		{"c7 c1 01 00 00 00", false, true, "mov ecx,1"}, {"31 c9", false, true, "xor ecx,ecx"}, {"66 31 c9", false, false, "xor cx,cx"},
		{"30 c9", true, false, "xor cl,cl"}, {"31 c1", true, false, "xor ecx,eax"}, {"31 c8", true, false, "xor eax,ecx"}, {"19 c9", false, true, "sbb ecx,ecx"},
		{"83 e9 01", true, false, "sub ecx,1"}, {"83 f9 01", true, false, "cmp ecx,1"}, {"83 f8 01", false, false, "cmp eax,1"},
		{"51", true, false, "push rcx"}, {"59", false, true, "pop rcx"}, {"66 59", false, false, "pop cx"}, {"41 59", false, false, "pop r9"}, {"8f c1", false, true, "pop rcx"},
		{"d3 e0", true, false, "shl eax,cl"}, {"c1 e0 01", false, false, "shl eax,1"}, {"c4 e2 79 f7 c1", true, false, "shlx eax,ecx,eax"},
		{"c4 e2 79 f7 c8", false, true, "shlx ecx,eax,eax"}, {"c4 e2 71 f7 c0", true, false, "shlx eax,eax,ecx"}, {"c4 e2 73 f6 c0", false, true, "mulx eax,ecx,eax"},
		{"f3 a4", true, false, "rep movsb"}, {"a4", false, false, "movsb"}, {"f3 0f b8 c8", false, true, "popcnt ecx,eax"}, {"0f bc c8", true, false, "bsf ecx,eax"},
		{"0f 44 c8", true, false, "cmove ecx,eax"}, {"0f 44 c1", true, false, "cmove eax,ecx"}, {"0f b6 c9", true, false, "movzx ecx,cl"},
		{"0f b6 c8", false, true, "movzx ecx,al"}, {"0f b6 c5", true, false, "movzx eax,ch"}, {"0f 94 c1", false, false, "sete cl"},
		{"0f a2", true, false, "cpuid"}, {"0f 05", false, true, "syscall"}, {"e2 00", true, false, "loop"}, {"e3 00", true, false, "jrcxz"},
		{"c3", true, false, "ret"}, {"ff e0", true, false, "jmp rax"}, {"74 00", false, false, "je"}, {"eb 00", false, false, "jmp"}, {"cc", true, false, "int3"},
		{"0f 58 c9", false, false, "addps xmm1,xmm1"}, {"0f 58 09", true, false, "addps xmm1,[rcx]"}, {"f3 0f 2a c1", true, false, "cvtsi2ss xmm0,ecx"},
		{"66 0f 6e c1", true, false, "movd xmm0,ecx"}, {"c5 f0 58 c9", false, false, "vaddps xmm1,xmm1,xmm1"}, {"c5 f9 6e c1", true, false, "vmovd xmm0,ecx"},
		{"c5 f8 50 c8", false, true, "vmovmskps ecx,xmm0"}, {"c4 e3 79 61 c1 00", true, false, "vpcmpestri"}, {"66 0f 3a 63 c1 00", true, false, "pcmpistri"},
		{"c4 e2 69 90 04 08", false, false, "vpgatherdd xmm0,[rax+xmm1],xmm2"}, {"c4 e2 69 90 04 01", true, false, "vpgatherdd xmm0,[rcx+xmm0],xmm2"},
		{"48 0f c7 08", true, false, "cmpxchg16b"}, {"87 c1", true, false, "xchg"}, {"91", true, false, "xchg eax,ecx"}, {"90", false, false, "nop"},
		{"c6 f8 00", true, false, "xabort"}, {"f7 e1", true, false, "mul ecx"}, {"f7 d9", true, false, "neg ecx"}, {"f7 e0", false, false, "mul eax"}, {"0f 01 d0", true, false, "xgetbv"},
		{"8c c9", false, true, "mov ecx,cs"}, {"ff 31", true, false, "push [rcx]"}, {"d9 01", true, false, "fld [rcx]"}, {"d9 c1", false, false, "fld st1"},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if r, w := in.RCX(); r != c.reads || w != c.writes {
			t.Errorf("%s (%s): reads %v writes %v", c.what, c.code, r, w)
		}
	}
}

func TestChangesRCX(t *testing.T) {
	for _, c := range []struct {
		code    string
		changes bool
		what    string
	}{
		{"48 89 c8", false, "mov rax,rcx"}, {"48 89 c1", true, "mov rcx,rax"}, {"66 89 c1", true, "mov cx,ax"}, {"88 c1", true, "mov cl,al"},
		{"8a 28", true, "mov ch,[rax]"}, {"40 8a 28", false, "mov bpl,[rax]"}, {"b5 01", true, "mov ch,1"}, {"49 89 c9", false, "mov r9,rcx"},
		{"48 8b 01", false, "mov rax,[rcx]"}, {"48 89 01", false, "mov [rcx],rax"}, {"ff 01", false, "inc dword [rcx]"}, {"ff c1", true, "inc ecx"},
		{"59", true, "pop rcx"}, {"41 59", false, "pop r9"}, {"51", false, "push rcx"}, {"83 f9 01", false, "cmp ecx,1"}, {"83 c1 01", true, "add ecx,1"},
		{"39 c1", false, "cmp ecx,eax"}, {"85 c9", false, "test ecx,ecx"}, {"d3 e0", false, "shl eax,cl"}, {"d3 e1", true, "shl ecx,cl"}, {"d2 e8", false, "shr al,cl"},
		{"0f a5 c2", false, "shld edx,eax,cl"}, {"0f ad c1", true, "shrd ecx,eax,cl"}, {"f3 a4", true, "rep movsb"}, {"a4", false, "movsb"}, {"0f a2", true, "cpuid"},
		{"0f 44 c8", true, "cmove ecx,eax"}, {"0f 44 c1", false, "cmove eax,ecx"}, {"0f bc c8", true, "bsf ecx,eax"}, {"0f b1 ca", false, "cmpxchg edx,ecx"},
		{"0f b1 d1", true, "cmpxchg ecx,edx"}, {"0f c1 ca", true, "xadd edx,ecx"}, {"87 ca", true, "xchg edx,ecx"}, {"91", true, "xchg eax,ecx"}, {"90", false, "nop"},
		{"f7 e1", false, "mul ecx"}, {"f7 d9", true, "neg ecx"}, {"e2 00", true, "loop"}, {"e3 00", false, "jrcxz"}, {"74 00", false, "je"}, {"eb 00", false, "jmp"},
		{"e8 00 00 00 00", true, "call"}, {"0f 05", true, "syscall"}, {"0f 01 f9", true, "rdtscp"}, {"0f 31", false, "rdtsc"}, {"0f 94 c1", true, "sete cl"},
		{"66 0f 7e c1", true, "movd ecx,xmm0"}, {"0f 50 c8", true, "movmskps ecx,xmm0"}, {"66 0f 3a 16 c1 00", true, "pextrd ecx,xmm0,0"}, {"0f 58 c9", false, "addps xmm1,xmm1"},
		{"c5 f9 7e c1", true, "vmovd ecx,xmm0"}, {"c4 e2 73 f6 c0", true, "mulx eax,ecx,eax"}, {"c4 e2 70 f3 c8", true, "blsr ecx,eax"}, {"c4 e2 70 f2 c0", false, "andn eax,ecx,eax"},
		{"c5 f0 58 c9", false, "vaddps xmm1,xmm1,xmm1"}, {"c5 f1 6e c8", false, "vmovd xmm1,eax"}, {"c4 e3 79 61 c1 00", true, "vpcmpestri"}, {"f3 0f 2c c8", true, "cvttss2si ecx,xmm0"},
		{"48 0f c7 f1", true, "rdrand rcx"}, {"f3 0f ae c1", true, "rdfsbase ecx"}, {"f3 0f 1e fa", false, "endbr64"}, {"c8 00 00 00", false, "enter"},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := in.ChangesRCX(); got != c.changes {
			t.Errorf("%s (%s): changes %v", c.what, c.code, got)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		code          string
		reads, writes bool
		what          string
	}{
		{"01 c0", false, true, "add"}, {"11 c0", true, true, "adc"}, {"19 c0", true, true, "sbb"}, {"31 c0", false, true, "xor"}, {"38 c0", false, true, "cmp"},
		{"83 d0 00", true, true, "adc"}, {"83 f8 00", false, true, "cmp"}, {"85 c0", false, true, "test"}, {"a8 01", false, true, "test"}, {"ff c0", false, false, "inc"},
		{"fe c8", false, false, "dec"}, {"f7 d8", false, true, "neg"}, {"f7 d0", false, false, "not"}, {"f7 e0", false, false, "mul"}, {"f6 c0 01", false, true, "test"},
		{"d3 e0", false, false, "shl eax,cl"}, {"c1 e0 04", false, false, "shl eax,4"}, {"d1 e0", false, true, "shl eax,1"}, {"d1 c0", false, false, "rol eax,1"},
		{"d1 d0", true, false, "rcl eax,1"}, {"c1 d8 01", true, false, "rcr"}, {"0f 44 c0", true, false, "cmove"}, {"0f 94 c0", true, false, "sete"}, {"74 00", true, false, "je"},
		{"eb 00", false, false, "jmp"}, {"c3", true, false, "ret"}, {"0f 05", true, false, "syscall"}, {"9c", true, false, "pushf"}, {"9d", false, true, "popf"}, {"9f", true, false, "lahf"},
		{"9e", false, false, "sahf"}, {"f5", true, false, "cmc"}, {"f8", false, false, "clc"}, {"a6", false, true, "cmpsb"}, {"f3 a6", false, false, "repz cmpsb"}, {"f2 ae", false, false, "repnz scasb"},
		{"0f b1 08", false, true, "cmpxchg"}, {"0f c1 08", false, true, "xadd"}, {"0f c7 08", false, false, "cmpxchg8b"}, {"0f c7 f0", false, true, "rdrand"}, {"f3 0f c7 f8", false, false, "rdpid"},
		{"f3 0f b8 c0", false, true, "popcnt"}, {"f3 0f bc c0", false, false, "tzcnt"}, {"0f 2f c0", false, true, "comiss"}, {"c5 f8 2e c0", false, true, "vucomiss"},
		{"66 0f 38 17 c0", false, true, "ptest"}, {"66 0f 38 f6 c0", true, false, "adcx"}, {"66 0f 3a 63 c1 00", false, true, "pcmpistri"}, {"da c1", true, false, "fcmovb"}, {"db f1", false, false, "fcomi"},
		{"0f 58 c0", false, false, "addps"}, {"48 8d 00", false, false, "lea"}, {"48 89 c0", false, false, "mov"}, {"c4 e2 78 f2 c0", false, false, "andn"}, {"0f bc c0", false, false, "bsf"},
	} {
		var in Inst
		if err := Decode(unhex(t, c.code), &in); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if r, w := in.Flags(); r != c.reads || w != c.writes {
			t.Errorf("%s (%s): reads %v writes %v", c.what, c.code, r, w)
		}
	}
}

// rcxNames are the names of rcx and of its parts.
var rcxNames = map[string]bool{"%rcx": true, "%ecx": true, "%cx": true, "%cl": true, "%ch": true}

// operands splits objdump's operands at the commas outside of parentheses.
func operands(s string) (list []string) {
	depth, from := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				list = append(list, s[from:i])
				from = i + 1
			}
		}
	}
	return append(list, s[from:])
}

// overwrites reports instructions whose last operand is written and not read.
func overwrites(name string) bool {
	for _, p := range []string{"mov", "vmov", "lea", "pop", "set", "cvt", "vcvt", "pmovmskb", "vpmovmskb", "pextr", "vpextr", "kmov", "rorx", "shlx", "sarx",
		"shrx", "bzhi", "pext", "pdep", "andn", "bextr", "blsr", "blsi", "blsmsk", "mulx", "imul", "extractps", "vextractps", "tzcnt", "lzcnt"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// plainMoves must be seen to overwrite rcx.
var plainMoves = map[string]bool{"mov": true, "movabs": true, "lea": true, "pop": true, "movzbl": true, "movslq": true, "movsbl": true, "movzwl": true, "movswl": true,
	"movsbq": true, "movswq": true}

// keeps reports instructions that do not write their last operand.
func keeps(name string) bool {
	switch strings.TrimRight(name, "bwlq") {
	case "cmp", "test", "bt", "push", "jmp", "call", "mu", "imu", "div", "idiv", "nop", "notrack", "wrfsbase", "wrgsbase", "ptwrite", "tpause", "umwait":
		return true
	}
	return false
}

// flagReader reports instructions that read a status flag.
func flagReader(name string) bool {
	for _, p := range []string{"set", "cmov", "adc", "adox", "sbb", "rcl", "rcr", "fcmov", "pushf", "lahf", "cmc"} {
		if strings.HasPrefix(name, p) {
			return name != "setssbsy"
		}
	}
	return false
}

// consistent compares RCX and Flags with what objdump's text shows.
func consistent(l *line, in *Inst) string {
	text := l.text
	if i := strings.Index(text, "# "); i >= 0 {
		text = text[:i]
	}
	if i := strings.Index(text, " <"); i >= 0 {
		text = text[:i]
	}
	prefixes, name, rest := split(strings.TrimRight(text, " "))
	ops := operands(rest)
	reads, writes := in.RCX()
	last := len(ops) - 1
	same := len(ops) == 2 && ops[0] == ops[1] && (name == "xor" || name == "sub" || name == "sbb")
	mentioned := false
	for i, o := range ops {
		inMemory := strings.Contains(o, "(") && (strings.Contains(o, "%rcx") || strings.Contains(o, "%ecx"))
		written := i == last && overwrites(name) && (name != "imul" || len(ops) == 3) || name == "mulx" && i == 1
		source := rcxNames[strings.TrimPrefix(o, "*")] && !same && !written
		if (inMemory || source) && !reads {
			return "does not read rcx"
		}
		mentioned = mentioned || rcxNames[o]
	}
	if writes && in.Class != Syscall && (!mentioned || !same && !overwrites(name)) {
		return "overwrites rcx"
	}
	if !writes && plainMoves[name] && (ops[last] == "%rcx" || ops[last] == "%ecx") && strings.Count(rest, "cx")+strings.Count(rest, "%cl")+strings.Count(rest, "%ch") == 1 {
		return "does not overwrite rcx"
	}
	for _, p := range prefixes {
		if strings.HasPrefix(p, "rep") && strings.Contains(rest, "%es:") && !reads {
			return "repetition does not read rcx"
		}
	}
	if last >= 0 && rcxNames[ops[last]] && !keeps(name) && !in.ChangesRCX() || writes && !in.ChangesRCX() {
		return "does not change rcx"
	}
	readsFlags, writesFlags := in.Flags()
	if !readsFlags && (in.Class == Jcc || flagReader(name)) {
		return "does not read flags"
	}
	if writesFlags {
		base := strings.TrimRight(name, "bwlq")
		switch base {
		case "add", "or", "adc", "and", "xor", "cmp", "test", "neg", "cmpxchg", "xadd", "cmps", "scas", "popcnt", "popf", "comiss", "ucomiss", "comisd",
			"ucomisd", "vcomiss", "vucomiss", "vcomisd", "vucomisd", "ptest", "vptest", "vtestps", "vtestpd", "rdrand", "rdseed", "sh", "shr", "sar", "s", "su":
		default:
			if !strings.Contains(name, "pcmpestr") && !strings.Contains(name, "pcmpistr") && !strings.HasSuffix(name, "xadd") {
				return "writes all flags"
			}
		}
	}
	return ""
}

func TestLivenessText(t *testing.T) {
	need.Tool(t, "objdump")
	found, n := 0, 0
	for _, file := range sampleELF(t) {
		limit := 100_000
		if *full {
			limit = 5_000_000
		}
		err := disassemble(file, []string{"-d"}, func(l *line) bool {
			var in Inst
			if _, name, _ := split(l.text); name != "" && !l.bad() && Decode(l.code, &in) == nil && int(in.Len) == len(l.code) {
				n++
				if what := consistent(l, &in); what != "" && found < 50 {
					found++
					t.Errorf("%s %x: % x %s: %s", file, l.addr, l.code, l.text, what)
				}
			}
			limit--
			return limit > 0
		})
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d instructions", n)
}
