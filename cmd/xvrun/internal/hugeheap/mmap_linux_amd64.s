//go:build !race && !msan && !asan

#include "go_asm.h"
#include "textflag.h"

// The runtime calls what _cgo_mmap points at instead of mmap(2) (runtime·callCgoMmap).
DATA _cgo_mmap(SB)/8, $mapMemory<>(SB)
GLOBL _cgo_mmap(SB), NOPTR, $8

// mapMemory is mmap(2) in the C calling convention; its errors are positive. The first memory that is mapped for the heap
// gets MADV_HUGEPAGE.
TEXT mapMemory<>(SB),NOSPLIT|NOFRAME,$0
	MOVL DX, DX // prot
	MOVLQSX R8, R8 // descriptor
	MOVL R9, R9 // offset
	MOVL CX, R10 // flags
	MOVL $9, AX // mmap
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC failed
	CMPQ SI, $const_chunk
	JNE done
	CMPL DX, $3 // PROT_READ|PROT_WRITE
	JNE done
	CMPQ ·advised(SB), $const_limit
	JCC done
	ADDQ $const_chunk, ·advised(SB)
	MOVQ AX, R12 // the caller is Go, which keeps nothing in registers
	MOVQ AX, DI
	MOVL $14, DX // MADV_HUGEPAGE
	MOVL $28, AX // madvise
	SYSCALL
	MOVQ R12, AX
done:
	RET
failed:
	NEGQ AX
	RET
