# The smallest guest: two system calls, no stack, no libc.
	.globl _start
	.text
_start:
	mov $1, %eax
	mov $1, %edi
	lea msg(%rip), %rsi
	mov $len, %edx
	syscall
	mov $60, %eax
	mov $7, %edi
	syscall
	.section .rodata
msg:	.ascii "hello from assembly\n"
	.set len, . - msg
	.section .note.GNU-stack,"",@progbits
