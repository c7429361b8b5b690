# Runs every snippet ROUNDS times, each time with fresh random registers,
# flags, vector registers and memory, and writes a record of the state after it
# to standard output. The generator defines ROUNDS, SEED, NSNIP, HAVE_AVX and
# HAVE_AVX512 and appends the snippets and their table. record.go knows the
# layout of the record.
#
# Everything is RIP-relative, so that the program can be linked at any address.

	.equ REC_KIND, 12
	.equ REC_GPR, 16
	.equ REC_FLAGS, 144
	.equ REC_MXCSR, 152
	.equ REC_X87, 160
	.equ REC_SUM, 168
	.equ REC_STACKSUM, 176
	.equ REC_ST, 192
	.equ REC_K, 320
	.equ REC_WINDOW, 384
	.equ REC_STACK, 640
	.equ REC_FAULT, 704
	.equ REC_VEC, 960
	.equ WINDOW, 1920		# offset in scratch of what a record shows
	.equ TOP, 2048			# offset in stack of rsp at the start of a snippet
.if HAVE_AVX512
	.equ VLEN, 64
	.equ NVEC, 32
.elseif HAVE_AVX
	.equ VLEN, 32
	.equ NVEC, 16
.else
	.equ VLEN, 16
	.equ NVEC, 16
.endif
	.equ REC_SIZE, REC_VEC + NVEC*VLEN

	.macro vecs op			# op for each vector register
.if HAVE_AVX512
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	\op \n
	.endr
.else
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	\op \n
	.endr
.endif
	.endm

	.macro loadvec n
.if HAVE_AVX512
	vmovdqu64 \n*VLEN(%rsi), %zmm\n
.elseif HAVE_AVX
	vmovdqu \n*VLEN(%rsi), %ymm\n
.else
	movdqu \n*VLEN(%rsi), %xmm\n
.endif
	.endm

	.macro savevec n
.if HAVE_AVX512
	vmovdqu64 %zmm\n, \n*VLEN(%rdi)
.elseif HAVE_AVX
	vmovdqu %ymm\n, \n*VLEN(%rdi)
.else
	movdqu %xmm\n, \n*VLEN(%rdi)
.endif
	.endm

	.text
	.globl _start
_start:
	mov %rsp, driver_sp(%rip)
	# An argument is the number of the snippet to begin with.
	cmpq $2, (%rsp)
	jb 2f
	mov 16(%rsp), %rsi
	xor %eax, %eax
1:	movzbl (%rsi), %ecx
	sub $'0', %ecx
	jb 1f
	imul $10, %eax, %eax
	add %ecx, %eax
	inc %rsi
	jmp 1b
1:	mov %eax, index(%rip)
2:
	lea altstack(%rip), %rax
	mov %rax, sigstack(%rip)
	mov $131, %eax			# sigaltstack
	lea sigstack(%rip), %rdi
	xor %esi, %esi
	syscall
	lea on_fault(%rip), %rax
	mov %rax, action(%rip)
	lea restorer(%rip), %rax
	mov %rax, action+16(%rip)
	.irp sig, 4, 5, 7, 8, 11	# ILL TRAP BUS FPE SEGV
	mov $13, %eax			# rt_sigaction
	mov $\sig, %edi
	lea action(%rip), %rsi
	xor %edx, %edx
	mov $8, %r10d
	syscall
	.endr
	mov $11, %eax			# munmap
	lea hole(%rip), %rdi
	mov $4096, %esi
	syscall

next:	mov index(%rip), %eax
	cmp $NSNIP, %eax
	jb 1f
	mov $60, %eax
	xor %edi, %edi
	syscall

	# Random numbers: each snippet and round has a sequence of its own.
1:	imul $1000003, %rax, %r15
	mov round(%rip), %ecx
	imul $7919, %rcx, %rcx
	add %rcx, %r15
	movabs $SEED, %rcx
	xor %rcx, %r15
	call random
	call random

	lea scratch(%rip), %rdi
	mov $512, %ebx
	call fill
	lea stack(%rip), %rdi
	mov $512, %ebx
	call fill
	lea gprs(%rip), %rdi
	mov $17, %ebx
	call fill_edges
	lea x87(%rip), %rdi
	mov $8, %ebx
	call fill_edges
	lea masks(%rip), %rdi
	mov $8, %ebx
	call fill
	lea vectors(%rip), %rdi
	mov $NVEC*VLEN/8, %ebx
	call fill
	testl $1, round(%rip)
	jz 2f
	# In odd rounds vectors and window hold floats of moderate size.
	lea vectors(%rip), %rdi
	mov $NVEC*VLEN/4, %ebx
	call floats
	lea scratch+WINDOW(%rip), %rdi
	mov $64, %ebx
	call floats
2:
	lea record(%rip), %rdi
	mov $REC_SIZE/8, %ecx
	xor %eax, %eax
	rep stosq
	movl $0x53495658, record(%rip)
	mov index(%rip), %eax
	mov %eax, record+4(%rip)
	mov round(%rip), %ecx
	mov %ecx, record+8(%rip)
	lea table(%rip), %rdx
	shl $4, %eax
	add %rax, %rdx
	mov (%rdx), %rax
	mov %rax, target(%rip)
	mov 8(%rdx), %rax
	mov %rax, flagmask(%rip)

	# Load the state.
	fninit
	.irp n, 0, 1, 2, 3
	fildll x87+8*\n(%rip)
	.endr
	ldmxcsr mxcsr_default(%rip)
	lea vectors(%rip), %rsi
	vecs loadvec
.if HAVE_AVX512
	.irp n, 0,1,2,3,4,5,6,7
	kmovq masks+8*\n(%rip), %k\n
	.endr
.endif
	mov gprs+16*8(%rip), %rax	# random CF PF AF ZF SF OF
	and $0x8d5, %eax
	or $0x202, %eax
	push %rax
	popfq
	mov gprs+0(%rip), %rax
	mov gprs+8(%rip), %rcx
	mov gprs+16(%rip), %rdx
	mov gprs+24(%rip), %rbx
	mov gprs+40(%rip), %rbp
	mov gprs+48(%rip), %rsi
	mov gprs+56(%rip), %rdi
	mov gprs+64(%rip), %r8
	mov gprs+72(%rip), %r9
	mov gprs+80(%rip), %r10
	mov gprs+88(%rip), %r11
	mov gprs+96(%rip), %r12
	mov gprs+104(%rip), %r13
	mov gprs+112(%rip), %r14
	mov gprs+120(%rip), %r15
	lea stack+TOP(%rip), %rsp
	jmp *target(%rip)

	# The signal handler continues here, with the registers of the fault.
after_fault:
	movl $1, record+REC_KIND(%rip)
	# Every snippet ends with a jump to here.
	.globl snippet_done
snippet_done:
	mov %rax, record+REC_GPR+0(%rip)
	mov %rcx, record+REC_GPR+8(%rip)
	mov %rdx, record+REC_GPR+16(%rip)
	mov %rbx, record+REC_GPR+24(%rip)
	mov %rsp, record+REC_GPR+32(%rip)
	mov %rbp, record+REC_GPR+40(%rip)
	mov %rsi, record+REC_GPR+48(%rip)
	mov %rdi, record+REC_GPR+56(%rip)
	mov %r8, record+REC_GPR+64(%rip)
	mov %r9, record+REC_GPR+72(%rip)
	mov %r10, record+REC_GPR+80(%rip)
	mov %r11, record+REC_GPR+88(%rip)
	mov %r12, record+REC_GPR+96(%rip)
	mov %r13, record+REC_GPR+104(%rip)
	mov %r14, record+REC_GPR+112(%rip)
	mov %r15, record+REC_GPR+120(%rip)
	mov driver_sp(%rip), %rsp
	pushfq
	pushq $0x202
	popfq
	pop %rax
	and $0x240cd5, %eax		# ID AC OF DF SF ZF AF PF CF
	mov flagmask(%rip), %rcx
	not %rcx
	and %rcx, %rax
	mov %rax, record+REC_FLAGS(%rip)
	lea record+REC_VEC(%rip), %rdi
	vecs savevec
.if HAVE_AVX512
	.irp n, 0,1,2,3,4,5,6,7
	kmovq %k\n, record+REC_K+8*\n(%rip)
	.endr
.endif
.if HAVE_AVX
	vzeroupper
.endif
	stmxcsr record+REC_MXCSR(%rip)
	fxsave64 fxarea(%rip)
	# Control, status and tag word, but no opcode and instruction pointers:
	# processors differ in when they store them.
	mov fxarea(%rip), %rax
	shl $16, %rax
	shr $16, %rax
	mov %rax, record+REC_X87(%rip)
	.irp n, 0,1,2,3,4,5,6,7
	mov fxarea+32+16*\n(%rip), %rax
	mov %rax, record+REC_ST+16*\n(%rip)
	movzwl fxarea+40+16*\n(%rip), %eax
	mov %rax, record+REC_ST+16*\n+8(%rip)
	.endr

	lea scratch(%rip), %rsi
	mov $512, %ebx
	call checksum
	mov %rax, record+REC_SUM(%rip)
	lea scratch+WINDOW(%rip), %rsi
	lea record+REC_WINDOW(%rip), %rdi
	mov $32, %ecx
	rep movsq
	# The stack from rsp upwards. What lies below rsp after a return is dead,
	# and a translator may have used it.
	mov record+REC_GPR+32(%rip), %rsi
	lea stack(%rip), %rdi
	mov %rsi, %rax
	sub %rdi, %rax
	cmp $4096, %rax
	ja 3f
	mov $4096, %ebx
	sub %eax, %ebx
	push %rsi
	push %rbx
	shr $3, %ebx
	call checksum
	mov %rax, record+REC_STACKSUM(%rip)
	pop %rcx
	pop %rsi
	mov $64, %eax
	cmp %eax, %ecx
	cmova %eax, %ecx
	lea record+REC_STACK(%rip), %rdi
	rep movsb
3:
	mov $1, %eax			# write
	mov $1, %edi
	lea record(%rip), %rsi
	mov $REC_SIZE, %edx
	syscall
	incl round(%rip)
	cmpl $ROUNDS, round(%rip)
	jb next
	movl $0, round(%rip)
	incl index(%rip)
	jmp next

# random returns the next number of the sequence r15 in rax (xorshift64*).
random:	mov %r15, %rax
	shr $12, %rax
	xor %rax, %r15
	mov %r15, %rax
	shl $25, %rax
	xor %rax, %r15
	mov %r15, %rax
	shr $27, %rax
	xor %rax, %r15
	movabs $0x2545F4914F6CDD1D, %rax
	imul %r15, %rax
	ret

# fill stores rbx random numbers at rdi.
fill:	call random
	mov %rax, (%rdi)
	add $8, %rdi
	dec %ebx
	jnz fill
	ret

# fill_edges does so with many small numbers, zeros and minus ones.
fill_edges:
	call random
	mov %rax, %rcx
	call random
	test $0x100, %ecx
	jz 1f
	sar %cl, %rax
1:	mov %rax, (%rdi)
	add $8, %rdi
	dec %ebx
	jnz fill_edges
	ret

# floats stores rbx floats at rdi.
floats:	call random
	movswl %ax, %eax
	cvtsi2ssl %eax, %xmm0
	movss %xmm0, (%rdi)
	add $4, %rdi
	dec %ebx
	jnz floats
	ret

# checksum adds up rbx 8-byte words at rsi in rax.
checksum:
	mov $1, %eax
	test %ebx, %ebx
	jz 2f
1:	imul $0x01000193, %rax, %rax
	xor (%rsi), %rax
	add $8, %rsi
	dec %ebx
	jnz 1b
2:	ret

# on_fault records what the kernel says about a fault, and ends the snippet.
on_fault:
	mov %edi, record+REC_FAULT(%rip)
	mov 8(%rsi), %eax		# si_code
	mov %rax, record+REC_FAULT+8(%rip)
	mov 16(%rsi), %rax		# si_addr
	mov %rax, record+REC_FAULT+16(%rip)
	lea 40(%rdx), %rsi		# gregs, without cr2
	lea record+REC_FAULT+24(%rip), %rdi
	mov $22, %ecx
	rep movsq
	cmpq $14, 200(%rdx)		# cr2 is fresh only after a page fault
	jne 1f
	mov 216(%rdx), %rax
	mov %rax, record+REC_FAULT+24+22*8(%rip)
1:	# The resume flag is of no interest to a program.
	andl $~0x10000, record+REC_FAULT+24+17*8(%rip)
	lea after_fault(%rip), %rax
	mov %rax, 168(%rdx)		# rip
	ret
restorer:
	mov $15, %eax			# rt_sigreturn
	syscall

	.data
	.balign 8
snippet_ptr: .quad snippet_done
mxcsr_default: .long 0x1f80, 0
index:	.long 0
round:	.long 0
sigstack: .quad 0, 0, 16384
action:	.quad 0, 0x0c000004, 0, 0	# SA_SIGINFO, SA_ONSTACK, SA_RESTORER
	.bss
	.balign 4096
	.globl scratch, hole, stack
scratch: .skip 4096
hole:	.skip 4096			# unmapped at the start
stack:	.skip 4096
altstack: .skip 16384
	.balign 64
record:	.skip REC_SIZE
	.balign 64
vectors: .skip NVEC*VLEN
fxarea:	.skip 512
gprs:	.skip 17*8
x87:	.skip 8*8
masks:	.skip 8*8
	.globl target
target:	.skip 8
flagmask: .skip 8
driver_sp: .skip 8
	.globl area			# for snippets that save state
	.balign 64
area:	.skip 8192
	.section .note.GNU-stack,"",@progbits
