#include "textflag.h"

// noteSignal is a signal handler (System V ABI: DI signal number, SI siginfo,
// DX context). It stores si_code, at offset 8 of siginfo, in origins and goes
// on to the runtime's handler, with the arguments and the stack as they came.
TEXT noteSignal<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL 8(SI), AX
	MOVLQSX DI, DI
	LEAQ ·origins(SB), CX
	MOVL AX, (CX)(DI*4)
	MOVQ ·runtimeHandler(SB), AX
	JMP AX

// holdSignal does only the first part: the signal is dealt with later.
TEXT holdSignal<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL 8(SI), AX
	MOVLQSX DI, DI
	LEAQ ·origins(SB), CX
	MOVL AX, (CX)(DI*4)
	RET

// func holdSignalAddr() uintptr
TEXT ·holdSignalAddr(SB),NOSPLIT,$0-8
	LEAQ holdSignal<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func noteSignalAddr() uintptr
TEXT ·noteSignalAddr(SB),NOSPLIT,$0-8
	LEAQ noteSignal<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
