# Forms of control flow that compilers rarely make, without a libc: prints a
# letter for each that worked.
	.globl _start
	.macro ok c
	movb $\c, letter(%rip)
	mov $1, %eax
	mov $1, %edi
	lea letter(%rip), %rsi
	mov $1, %edx
	syscall
	.endm
	.text
_start:
	mov %rsp, %r12
	# A stack that ends right under the pushed return address, or the word
	# below: native code needs 8 bytes here.
	mov $9, %eax			# mmap two pages
	xor %edi, %edi
	mov $8192, %esi
	mov $3, %edx
	mov $0x22, %r10d
	mov $-1, %r8
	xor %r9d, %r9d
	syscall
	mov %rax, %rbx
	mov $10, %eax			# mprotect the lower one
	mov %rbx, %rdi
	mov $4096, %esi
	xor %edx, %edx
	syscall
	lea 4096+16(%rbx), %rsp
	call leaf
	cmp $42, %eax
	jne bad
	lea 4096+8(%rbx), %rsp
	call leaf
	lea 4096+8(%rbx), %rsp
	lea leaf(%rip), %rdx
	call *%rdx
	cmp $42, %eax
	jne bad
	mov %r12, %rsp
	ok 'a
	# A return from a stack in read-only memory.
	lea ro_stack(%rip), %rsp
	ret
ro_target:
	mov %r12, %rsp
	ok 'b
	# Two threads of control with stacks of their own, that switch by ret.
	lea stack2_top(%rip), %r13
	lea co(%rip), %rax
	sub $8, %r13
	mov %rax, (%r13)
	mov $1000, %ebp
	xor %r14d, %r14d
1:	call switch
	add $1, %r14
	dec %ebp
	jnz 1b
	cmp $4000, %r14
	jne bad
	ok 'c
	# A function that returns twice, by a saved return address.
	xor %ebp, %ebp
	call twice
	inc %ebp
	cmp $2, %ebp
	jae 2f
	push saved(%rip)
	ret
2:	ok 'd
	# An unwinder: drops frames and returns to the outermost caller.
	call outer
	cmp $99, %eax
	jne bad
	ok 'e
	# Deep recursion, deeper than any return-address stack.
	mov $10000, %edi
	call deep
	cmp $10000, %eax
	jne bad
	ok 'f
	# Code that jumps into the middle of an instruction: mov $0xc0ffc031, %eax
	# holds xor %eax, %eax; inc %eax.
	xor %ecx, %ecx
3:	mov $0xc0ffc031, %eax
	test %ecx, %ecx
	jnz 4f
	inc %ecx
	jmp 3b+1
4:	cmp $1, %eax
	jne bad
	ok 'g
	# A jump to the byte after a prefix, with both ways in use.
	xor %ebp, %ebp
	mov $5, %ecx
5:	test $1, %cl
	jz 6f+1
6:	lock incl counter(%rip)
	dec %ecx
	jnz 5b
	cmpl $5, counter(%rip)
	jne bad
	ok 'h
	# A page of code that is unmapped and mapped again elsewhere, by mremap.
	mov $9, %eax
	xor %edi, %edi
	mov $4096, %esi
	mov $7, %edx
	mov $0x22, %r10d
	mov $-1, %r8
	xor %r9d, %r9d
	syscall
	mov %rax, %rbx
	movl $0x00002ab8, (%rbx)	# mov $42, %eax; ret
	movw $0xc300, 4(%rbx)
	call *%rbx
	cmp $42, %eax
	jne bad
	# The code changes itself, one instruction ahead.
	movb $43, 1(%rbx)
	call *%rbx
	cmp $43, %eax
	jne bad
	ok 'i
	ok '\n
	xor %edi, %edi
	jmp exit
bad:	mov %r12, %rsp
	ok '!
	ok '\n
	mov $1, %edi
exit:	mov $60, %eax
	syscall

leaf:	mov $42, %eax
	ret
	# switch exchanges rsp with r13: each side returns to where it left.
switch:	xchg %rsp, %r13
	ret
co:	add $3, %r14
	call switch
	jmp co
twice:	mov (%rsp), %rax
	mov %rax, saved(%rip)
	ret
outer:	mov %rsp, %rbp
	call 7f
	ud2
7:	push %rax
	call 8f
	ud2
8:	sub $40, %rsp
	call 9f
	ud2
9:	mov $99, %eax
	mov %rbp, %rsp
	ret
deep:	test %edi, %edi
	jz 1f
	dec %edi
	call deep
	inc %eax
	ret
1:	xor %eax, %eax
	ret
	.section .rodata
	.balign 16
ro_stack: .quad ro_target
	.data
letter:	.byte 0
	.balign 8
counter: .long 0, 0
saved:	.quad 0
	.bss
	.skip 4096
stack2_top:
	.section .note.GNU-stack,"",@progbits
