# The reaper: a process of its own that outlives the supervisor by a moment, to end the guest's
# processes. Descriptor 0 is a pipe whose other end only the supervisor holds, 1 the table of process
# ids (REAPERPIDS words), 2 the contexts, whose header tells waiting threads that nobody will answer.
.intel_syntax noprefix
.text
.globl reap
reap:
	mov eax, 112			# setsid: signals for the terminal's process groups don't reach it
	syscall
	mov edi, 2			# SIG_SETMASK
	lea rsi, [rip+all]
	xor edx, edx
	mov r10d, 8
	mov eax, 14			# rt_sigprocmask
	syscall
	mov edi, 3			# what the supervisor inherited stays open in nobody but the guest
	mov esi, -1
	xor edx, edx
	mov eax, 436			# close_range
	syscall
	xor edi, edi
	mov esi, REAPERPIDS*4
	mov edx, 1			# PROT_READ
	mov r10d, 1			# MAP_SHARED
	mov r8d, 1
	xor r9d, r9d
	mov eax, 9			# mmap
	syscall
	mov r12, rax
	xor edi, edi
	mov esi, 4096
	mov edx, 3			# PROT_READ|PROT_WRITE
	mov r10d, 1			# MAP_SHARED
	mov r8d, 2
	xor r9d, r9d
	mov eax, 9			# mmap
	syscall
	mov r13, rax
	sub rsp, 16
1:	xor edi, edi
	mov rsi, rsp
	mov edx, 1
	xor eax, eax			# read
	syscall
	cmp rax, -4			# EINTR
	je 1b
	cmp rax, 1			# the supervisor says that all is over
	je 9f
	mov dword ptr [r13+DEAD], 1
	mov r14d, 3000			# rounds of a millisecond
2:	xor ebx, ebx
	xor r15d, r15d			# processes that were there
3:	mov edi, [r12+rbx*4]
	test edi, edi
	jle 4f
	mov esi, 9			# SIGKILL
	mov eax, 62			# kill
	syscall
	test rax, rax
	jnz 4f
	inc r15d
4:	inc ebx
	cmp ebx, REAPERPIDS
	jb 3b
	test r15d, r15d
	jz 9f
	lea rdi, [rip+millisecond]
	xor esi, esi
	mov eax, 35			# nanosleep
	syscall
	dec r14d
	jnz 2b
9:	xor edi, edi
	mov eax, 231			# exit_group
	syscall
	ud2
	.balign 8
all:	.quad -1
millisecond: .quad 0, 1000000		# struct timespec
