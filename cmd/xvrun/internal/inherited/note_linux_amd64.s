//go:build !race && !msan && !asan

#include "go_asm.h"
#include "textflag.h"

// The runtime calls what _cgo_init points at as the first thing of a process (runtime·rt0_go), and leaves
// the thread-local storage of the first thread to it.
DATA _cgo_init(SB)/8, $note<>(SB)
GLOBL _cgo_init(SB), NOPTR, $8

// note stores what the process inherited. It runs on the initial stack, without a g.
TEXT note<>(SB),NOSPLIT|NOFRAME,$0
	MOVL $0x1002, DI // ARCH_SET_FS
	LEAQ ·threadLocal+16(SB), SI
	MOVL $158, AX // arch_prctl
	SYSCALL
	TESTQ AX, AX
	JNZ failed

	LEAQ ·descriptors(SB), R12
	XORL BX, BX
descriptor:
	MOVL BX, DI
	MOVL $1, SI // F_GETFD
	MOVL $72, AX // fcntl
	SYSCALL
	MOVQ AX, (R12)(BX*8)
	INCL BX
	CMPL BX, $3
	JB descriptor

	LEAQ ·actions(SB), R12
	MOVL $1, BX
signal:
	ADDQ $32, R12
	MOVL BX, DI
	XORL SI, SI
	MOVQ R12, DX
	MOVL $8, R10 // size of a signal set
	MOVL $13, AX // rt_sigaction
	SYSCALL
	INCL BX
	CMPL BX, $64
	JBE signal

	LEAQ ·limits(SB), R12
	LEAQ ·limitResults(SB), R13
	XORL BX, BX
limit:
	XORL DI, DI
	MOVL BX, SI
	XORL DX, DX
	MOVQ R12, R10
	MOVL $302, AX // prlimit64
	SYSCALL
	MOVQ AX, (R13)(BX*8)
	ADDQ $16, R12
	INCL BX
	CMPL BX, $16
	JB limit

	MOVL $2, BX // RLIMIT_DATA
	LEAQ ·limits+(2*16)(SB), R12
	MOVQ $const_minData, R13
	LEAQ ·lowData(SB), R14
	CALL raise<>(SB)
	MOVL $6, BX // RLIMIT_NPROC
	LEAQ ·limits+(6*16)(SB), R12
	MOVQ $const_minTasks, R13
	LEAQ ·lowTasks(SB), R14
	CALL raise<>(SB)
	MOVL $9, BX // RLIMIT_AS
	LEAQ ·limits+(9*16)(SB), R12
	MOVQ $const_minSpace, R13
	LEAQ ·lowSpace(SB), R14
	CALL raise<>(SB)

	MOVQ $1, ·noted(SB)
	RET
failed:
	MOVL $0xf1, 0xf1 // as runtime·settls

// raise lifts limit BX, which is at R12, altogether, or where this takes privilege as far as it goes. If
// that is less than R13 the process ends with the message R14.
TEXT raise<>(SB),NOSPLIT|NOFRAME,$0
	XORL DI, DI
	MOVL BX, SI
	LEAQ ·infinity(SB), DX
	XORL R10, R10
	MOVL $302, AX // prlimit64
	SYSCALL
	TESTQ AX, AX
	JZ raised
	MOVQ 8(R12), AX
	CMPQ AX, R13
	JB low
	MOVQ AX, ·highest+0(SB)
	MOVQ AX, ·highest+8(SB)
	XORL DI, DI
	MOVL BX, SI
	LEAQ ·highest(SB), DX
	XORL R10, R10
	MOVL $302, AX
	SYSCALL
raised:
	RET
low:
	MOVL $2, DI
	MOVQ 0(R14), SI
	MOVQ 8(R14), DX
	MOVL $1, AX // write
	SYSCALL
	MOVL $125, DI
	MOVL $231, AX // exit_group
	SYSCALL
