//go:build !race && !msan && !asan

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

	MOVQ $1, ·noted(SB)
	RET
failed:
	MOVL $0xf1, 0xf1 // as runtime·settls
