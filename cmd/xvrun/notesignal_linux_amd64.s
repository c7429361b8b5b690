#include "go_asm.h"
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

// holdSignal stores si_code in heldCodes, and leaves the signal to unhold. When unhold may have looked already, it takes the
// signal back, if that has not found it, and goes on as noteSignal does. XCHGL orders the store before the load of released, as
// the one of unhold does the other way round (Intel SDM 3A, 9.2.2).
TEXT holdSignal<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL 8(SI), AX
	MOVLQSX DI, DI
	LEAQ ·heldCodes(SB), CX
	XCHGL AX, (CX)(DI*4)
	CMPL ·released(SB), $0
	JEQ held
	MOVL $const_noOrigin, AX
	XCHGL AX, (CX)(DI*4)
	CMPL AX, $const_noOrigin
	JEQ held
	LEAQ ·origins(SB), CX
	MOVL AX, (CX)(DI*4)
	MOVQ ·runtimeHandler(SB), AX
	JMP AX
held:
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
