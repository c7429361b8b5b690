package x86

import (
	"encoding/hex"
	"testing"
)

func TestStores(t *testing.T) {
	for _, c := range []struct {
		code, name string
		want       bool
	}{
		{"90", "nop", false}, {"31c0", "xor eax,eax", false}, {"8b07", "mov eax,[rdi]", false}, {"8907", "mov [rdi],eax", true}, {"8807", "mov [rdi],al", true},
		{"0307", "add eax,[rdi]", false}, {"0107", "add [rdi],eax", true}, {"3907", "cmp [rdi],eax", false}, {"833f01", "cmp dword [rdi],1", false},
		{"830701", "add dword [rdi],1", true}, {"f60701", "test byte [rdi],1", false}, {"f717", "not dword [rdi]", true}, {"f7e7", "mul edi", false},
		{"f73f", "idiv dword [rdi]", false}, {"ff07", "inc dword [rdi]", true}, {"ff37", "push [rdi]", true}, {"8f07", "pop [rdi]", true}, {"58", "pop rax", false},
		{"50", "push rax", true}, {"6a01", "push 1", true}, {"9c", "pushf", true}, {"c9", "leave", false}, {"c8100000", "enter 16,0", true},
		{"a4", "movsb", true}, {"f3aa", "rep stosb", true}, {"ac", "lodsb", false}, {"a6", "cmpsb", false}, {"8d07", "lea eax,[rdi]", false},
		{"a1ffffffffffffff7f", "mov eax,moffs", false}, {"a3ffffffffffffff7f", "mov moffs,eax", true}, {"8707", "xchg [rdi],eax", true},
		{"d907", "fld dword [rdi]", false}, {"d91f", "fstp dword [rdi]", true}, {"d92f", "fldcw [rdi]", false}, {"d93f", "fnstcw [rdi]", true}, {"df3f", "fistp qword [rdi]", true},
		{"0f1007", "movups xmm0,[rdi]", false}, {"0f1107", "movups [rdi],xmm0", true}, {"0f11c0", "movups xmm0,xmm0", false}, {"660f7e07", "movd [rdi],xmm0", true},
		{"f30f7e07", "movq xmm0,[rdi]", false}, {"660fd607", "movq [rdi],xmm0", true}, {"0fe707", "movntq [rdi],mm0", true}, {"0fc307", "movnti [rdi],eax", true},
		{"0ff7c1", "maskmovq mm0,mm1", true}, {"c5f9f7c1", "vmaskmovdqu xmm0,xmm1", true}, {"0f9407", "sete [rdi]", true}, {"0f94c0", "sete al", false},
		{"0fb107", "cmpxchg [rdi],eax", true}, {"0fc70f", "cmpxchg8b [rdi]", true}, {"0fa307", "bt [rdi],eax", false}, {"0fab07", "bts [rdi],eax", true},
		{"0fa40701", "shld [rdi],eax,1", true}, {"0faf07", "imul eax,[rdi]", false}, {"0fae07", "fxsave [rdi]", true}, {"0fae1f", "stmxcsr [rdi]", true},
		{"0f01fc", "clzero", true}, {"0f1f00", "nop [rax]", false}, {"0f1807", "prefetchnta [rdi]", false}, {"0fa0", "push fs", true},
		{"0f38f007", "movbe eax,[rdi]", false}, {"0f38f107", "movbe [rdi],eax", true}, {"f20f38f107", "crc32 eax,[rdi]", false}, {"0f38f907", "movdiri [rdi],eax", true},
		{"660f3a140700", "pextrb [rdi],xmm0,0", true}, {"660f3a0f0700", "palignr xmm0,[rdi],0", false}, {"c5fc1007", "vmovups ymm0,[rdi]", false},
		{"c5fc1107", "vmovups [rdi],ymm0", true}, {"c4e2792e07", "vmaskmovps [rdi],xmm0,xmm0", true}, {"c5f958c1", "vaddpd xmm0,xmm0,xmm1", false},
		{"e800000000", "call", true}, {"c3", "ret", false}, {"7400", "je", false}, {"0f05", "syscall", true}, {"cc", "int3", false},
	} {
		b, err := hex.DecodeString(c.code)
		if err != nil {
			t.Fatal(err)
		}
		var in Inst
		if err := Decode(b, &in); err != nil || int(in.Len) != len(b) {
			t.Errorf("%s: %v, length %d", c.name, err, in.Len)
			continue
		}
		if got := in.Stores(); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSerializes(t *testing.T) {
	for code, want := range map[string]bool{
		"0fa2": true, "0f01e8": true, "0faef0": true, "0faee8": true, "0fae07": false, "0f0107": false, "90": false, "0f31": false, "c5f8ae17": false,
	} {
		b, err := hex.DecodeString(code)
		if err != nil {
			t.Fatal(err)
		}
		var in Inst
		if err := Decode(b, &in); err != nil {
			t.Errorf("%s: %v", code, err)
		}
		if got := in.Serializes(); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
}
