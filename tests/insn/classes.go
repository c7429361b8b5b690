package insn

import (
	"fmt"
	"strings"
)

// Classes are all classes of instructions.
var Classes = []Class{
	{Name: "jcc", gen: genJcc, High: true},
	{Name: "loop", gen: genLoop, High: true},
	{Name: "call", gen: genCall, High: true},
	{Name: "indirect", gen: genIndirect, High: true},
	{Name: "stack", gen: genStack, High: true},
	{Name: "string", gen: genString},
	{Name: "rip", gen: genRIP, High: true},
	{Name: "alu", gen: genALU, High: true},
	{Name: "shift", gen: genShift},
	{Name: "muldiv", gen: genMulDiv},
	{Name: "move", gen: genMove, High: true},
	{Name: "bit", gen: genBit},
	{Name: "bmi", gen: genBMI, Needs: []string{"bmi1", "bmi2"}},
	{Name: "adx", gen: genADX, Needs: []string{"adx"}},
	{Name: "x87", gen: genX87},
	{Name: "sse", gen: genSSE, Needs: []string{"sse4_1", "sse4_2", "ssse3"}},
	{Name: "sse4a", gen: genSSE4A, Needs: []string{"sse4a"}},
	{Name: "avx", gen: genAVX, Needs: []string{"avx"}},
	{Name: "avx512", gen: genAVX512, Needs: []string{"avx512f", "avx512bw", "avx512vl", "avx512dq"}},
	{Name: "xsave", gen: genXSave, Needs: []string{"xsave", "avx"}},
	{Name: "segment", gen: genSegment, High: true},
	{Name: "sys", gen: genSys, High: true},
	{Name: "fault", gen: genFault, High: true},
	{Name: "mix", gen: genMix, High: true},
	{Name: "rare", gen: genRare},
}

// genRIP covers the length of what follows the displacement: a RIP-relative
// operand is relative to the end of the instruction, immediates included, and
// each encoding has its own place for it.
func genRIP(g *gen) {
	for range 6 {
		for _, text := range []string{
			"addb $%d, %s", "addw $0x1234, %[2]s", "addl $%d, %s", "addl $0x12345678, %[2]s", "addq $%d, %s", "addq $0x12345678, %[2]s",
			"movb $%d, %s", "movw $0x1234, %[2]s", "movl $0x12345678, %[2]s", "movq $-5, %[2]s", "testb $%d, %s", "testl $0x12345678, %[2]s",
			"shll $%d, %s", "rolw $3, %[2]s", "imul $%d, %s, %%edx", "imul $0x12345, %[2]s, %%r9", "imulw $0x123, %[2]s, %%dx", "btl $%d, %s", "shld $%d, %%rax, %[2]s",
			"cmpxchg %%ecx, %[2]s", "lock addq $%d, %s", "movzbl %[2]s, %%r8d", "movsbw %[2]s, %%cx", "movslq %[2]s, %%r11", "notq %[2]s", "negb %[2]s", "mulq %[2]s", "incw %[2]s",
			"lea %[2]s, %%rax", "lea %[2]s, %%r13", "lea %[2]s, %%ecx", "cs mov %[2]s, %%eax", "cmovne %[2]s, %%rdi", "setb %[2]s", "xchg %%bl, %[2]s",
			"pshufd $%d, %[3]s, %%xmm1", "movdqu %[2]s, %%xmm9", "pinsrw $5, %[2]s, %%xmm3", "cvtsi2sdq %[2]s, %%xmm2", "pshufb %[3]s, %%xmm10", "palignr $%d, %[3]s, %%xmm12",
			"fldl %[2]s", "filds %[2]s", "pushq %[2]s", "popq %[2]s",
		} {
			g.add(flagsAll, fmt.Sprintf(text+"%[4]s", 1+g.IntN(15), g.rip(1), g.rip(16), ""))
		}
		if g.features["avx2"] && g.features["bmi2"] && g.features["fma"] {
			for _, text := range []string{
				"vaddps %s, %%ymm1, %%ymm2", "vaddps %s, %%ymm11, %%ymm12", "vpshufb %s, %%xmm9, %%xmm3", "vpermq $27, %s, %%ymm4", "vfmadd231sd %s, %%xmm5, %%xmm14",
				"vblendvps %%ymm1, %s, %%ymm2, %%ymm3", "andn %s, %%rax, %%r9", "rorx $7, %s, %%ecx", "shlx %%eax, %s, %%edx", "vmovdqu %%ymm8, %s", "vpinsrd $2, %s, %%xmm1, %%xmm1", "vextracti128 $1, %%ymm6, %s",
			} {
				g.add(0, fmt.Sprintf(text, g.rip(1)))
			}
		}
		if g.features.avx512() {
			for _, text := range []string{"vaddps %s, %%zmm17, %%zmm30{%%k1}", "vpternlogd $5, %s, %%ymm20, %%ymm2", "vpcmpub $3, %s, %%zmm3, %%k5", "kmovw %s, %%k3", "vaddps %s{1to16}, %%zmm1, %%zmm2"} {
				g.add(0, fmt.Sprintf(text, g.rip(1)))
			}
		}
	}
}

// genRare has what a 64-bit program may do but hardly ever does.
func genRare(g *gen) {
	// Far returns and iret within the code segment 0x33.
	g.add(0, "lea @to(%rip), %rax", "pushq $0x33", "push %rax", "lretq", "ud2", "@to:")
	g.add(0, "mov %rsp, %rbx", "pushq $0x2b", "push %rbx", "pushfq", "pushq $0x33", "lea @to(%rip), %rax", "push %rax", "iretq", "ud2", "@to: mov $5, %ecx")
	// System calls in the old way, which take 32-bit arguments.
	g.add(0, "mov $20, %eax", "int $0x80", "xor %eax, %eax")
	g.add(0, "mov $-1, %eax", "int $0x80")
	// The vsyscall page: time(NULL).
	g.add(0, "mov $0xffffffffff600400, %rax", "xor %edi, %edi", "call *%rax", "test %rax, %rax", "setg %al", "movzbl %al, %eax", "mov $0, %ecx", "mov $0, %r11d", "cmp %eax, %eax")
	// Loads of the data segments.
	g.add(0, "mov %ds, %eax", "mov %eax, %ds", "mov %eax, %es", "xor %eax, %eax", "mov %eax, %ds")
	g.add(0, "mov $0x2b, %eax", "mov %eax, %ss", "mov %ss, %ecx")
	// Addresses relative to eip.
	for range 4 {
		eip := strings.ReplaceAll(g.rip(1), "rip", "eip")
		g.add(0, "mov "+eip+", %eax", "lea "+eip+", %ecx", "addl $5, "+eip)
	}
	// Selector queries.
	g.add(0, "mov $0x33, %eax", "lar %eax, %ecx", "lsl %eax, %edx", "verr %ax", "setz %bl", "verw %ax", "setz %bh")
	// The trap flag is not in use, but may be read.
	g.add(0, "pushfq", "btl $8, (%rsp)", "setc %al", "popfq")
}
