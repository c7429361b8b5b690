# Calls, returns and loops without a libc: writes a letter for each form that
# worked, so that the output shows how far it came.
	.globl _start
	.macro put c
	movb $\c, letter(%rip)
	call putletter
	.endm
	.text
_start:
	put 'a
	# Recursion.
	mov $20, %edi
	call fib
	cmp $6765, %rax
	jne bad
	put 'b
	# Indirect calls: register, memory, table.
	lea leaf(%rip), %rax
	call *%rax
	cmp $42, %eax
	jne bad
	put 'c
	call *ptr(%rip)
	cmp $42, %eax
	jne bad
	put 'd
	mov $1, %ecx
	call *table(,%rcx,8)
	cmp $43, %eax
	jne bad
	put 'e
	# Indirect jumps.
	lea 1f(%rip), %rdx
	jmp *%rdx
	ud2
1:	put 'f
	mov $2, %ecx
	jmp *jumps(,%rcx,8)
j0:	ud2
j2:	put 'g
	# A call that is only there to learn the address.
	call 1f
1:	pop %rax
	lea 1b(%rip), %rdx
	cmp %rax, %rdx
	jne bad
	put 'h
	# A return that removes arguments.
	mov %rsp, %rbp
	push $5
	push $6
	call two
	cmp %rsp, %rbp
	jne bad
	cmp $11, %rax
	jne bad
	put 'i
	# A return address that the program pushed itself.
	lea 1f(%rip), %rax
	push %rax
	ret
	ud2
1:	put 'j
	# loop, jrcxz
	mov $1000, %ecx
	xor %eax, %eax
1:	add %rcx, %rax
	loop 1b
	jrcxz 1f
	jmp bad
1:	cmp $500500, %eax
	jne bad
	put 'k
	put '\n
	xor %edi, %edi
	jmp exit
bad:	put '!
	put '\n
	mov $1, %edi
exit:	mov $60, %eax
	syscall

fib:	cmp $2, %rdi
	jae 1f
	mov %rdi, %rax
	ret
1:	push %rdi
	dec %rdi
	call fib
	pop %rdi
	push %rax
	sub $2, %rdi
	call fib
	pop %rdx
	add %rdx, %rax
	ret

leaf:	mov $42, %eax
	ret
leaf2:	mov $43, %eax
	ret
two:	mov 8(%rsp), %rax
	add 16(%rsp), %rax
	ret $16

putletter:
	push %rax
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %r11
	mov $1, %eax
	mov $1, %edi
	lea letter(%rip), %rsi
	mov $1, %edx
	syscall
	pop %r11
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rax
	ret
	.data
letter:	.byte 0
	.balign 8
ptr:	.quad leaf
table:	.quad leaf, leaf2
jumps:	.quad j0, j0, j2
	.section .note.GNU-stack,"",@progbits
