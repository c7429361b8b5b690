# The agent: the only code of xv that runs in the guest's address space besides the translation
# cache. It saves the guest's registers, rings the supervisor and does what the answer says; all
# decisions are the supervisor's. Assembled by `go generate` (see gen/main.go) into code.go.
#
# Conventions: GS base is the thread context; offsets below are those of context.go, which the
# generator passes in as symbols. rbx is the context's address inside the agent. The agent never
# uses the guest's stack, and no vector register. It runs wherever it is: what else is in the region
# it refers to by distances.
.intel_syntax noprefix
.text

# The number and arguments of the system call at an address.
.macro load_call at
	mov rax, [\at]
	mov rdi, [\at+8]
	mov rsi, [\at+16]
	mov rdx, [\at+24]
	mov r10, [\at+32]
	mov r8, [\at+40]
	mov r9, [\at+48]
.endm

# rt_sigprocmask: the kernel's mask is the one at rsi.
.macro set_mask
	mov edi, 2			# SIG_SETMASK
	xor edx, edx
	mov r10d, 8
	mov eax, 14			# rt_sigprocmask
	syscall
.endm

# The guest's mask, if the supervisor or a signal has left another.
.macro apply_mask
	cmp dword ptr [rbx+SETMASK], 0
	je 0f
	mov dword ptr [rbx+SETMASK], 0
	lea rsi, [rbx+MASK]
	set_mask
0:
.endm

# Exit stubs of direct branches jump here with gs:[STUB] set; every guest register is live.
.globl miss
miss:
	mov dword ptr gs:[INAGENT], 1
	mov dword ptr gs:[KIND], KINDMISS
	jmp save

# Exit stubs of instructions that the supervisor emulates jump here.
.globl special
special:
	mov dword ptr gs:[INAGENT], 1
	mov dword ptr gs:[KIND], KINDSPECIAL

# All general registers and flags go to the context.
save:
	mov gs:[G_RAX], rax
	mov gs:[G_RCX], rcx
	mov gs:[G_RDX], rdx
	mov gs:[G_RBX], rbx
	mov gs:[G_RSP], rsp
	mov gs:[G_RBP], rbp
	mov gs:[G_RSI], rsi
	mov gs:[G_RDI], rdi
	mov gs:[G_R8], r8
	mov gs:[G_R9], r9
	mov gs:[G_R10], r10
	mov gs:[G_R11], r11
	mov gs:[G_R12], r12
	mov gs:[G_R13], r13
	mov gs:[G_R14], r14
	mov gs:[G_R15], r15
	mov rsp, gs:[AGENTSP]
	pushfq
	pop qword ptr gs:[RFLAGS]

# handoff posts the request in the context on the doorbell of this CPU and waits for the answer.
handoff:
	cld
	mov rbx, gs:[SELF]
	mov dword ptr [rbx+STATE], STATEREQUEST
	mov eax, 0x7b			# __CPUNODE_SEG: its limit holds the CPU number in bits 0-11
	lsl eax, eax
	and eax, 0xfff
	lea r13, [rip+CPUMAP]
	movzx eax, byte ptr [r13+rax]
	shl eax, 6
	lea r13, [rip+DOORBELLS]
	add r13, rax
	mov ecx, [rbx+SLOT]
	mov eax, [r13]
0:	mov [rbx+LINK], eax
	lock cmpxchg [r13], ecx
	jne 0b
	cmp dword ptr [r13+4], 0		# a server sleeps
	je wait
	mov rdi, r13
	mov esi, 1			# FUTEX_WAKE
	mov edx, 1
	mov eax, 202			# futex
	syscall
wait:
	mov edx, [rbx+STATE]
	cmp edx, STATEREPLY
	je replied
	lea rdi, [rbx+STATE]
	xor esi, esi			# FUTEX_WAIT
	lea r10, [rip+second]
	mov eax, 202			# futex
	syscall
	cmp dword ptr [rip+SUPERVISORDEAD], 0
	je wait
	mov edi, 125			# the supervisor is gone
	mov eax, 231			# exit_group
	syscall

# An answer: first a vector of system calls, then the operation.
replied:
	mov dword ptr [rbx+STATE], STATERUN
	mov r12d, [rbx+COUNT]
	lea r14, [rbx+VECTOR]
	lea rbp, [rip+2f]
# The r12d system calls at r14; calls returns to the address in rbp. The supervisor lets threads that it traces come here too.
.globl calls
calls:
	test r12d, r12d
	jz 1f
	load_call r14
	syscall
	mov [r14+56], rax
	add r14, 64
	dec r12d
	jmp calls
1:	jmp rbp
.globl calls_trap
calls_trap:
	int3				# it tells the tracer
2:	mov eax, [rbx+OP]
	cmp eax, OPRESUME
	je resume
	cmp eax, OPSIGRETURN
	je sigreturn
	cmp eax, OPREMOTE
	je remote
	cmp eax, OPTOUCH
	je touch
	cmp eax, OPGATE
	je gate2
	cmp eax, OPCLONE
	je clone
	cmp eax, OPEXEC
	je exec
	cmp eax, OPFINISH
	je finish
	cmp eax, OPATTEMPT
	je finish
	cmp eax, OPEXIT
	je exit
	cmp eax, OPINT80
	je int80
	cmp eax, OPRAISE
	je raise
	ud2

# The vector was all: tell the server that waits on this context.
remote:
	mov dword ptr [rbx+STATE], STATEDONE
	lea rdi, [rbx+STATE]
	mov esi, 1			# FUTEX_WAKE
	mov edx, 1
	mov eax, 202			# futex
	syscall
	jmp wait

# The thread reads a byte at the address in the context's call, and then does as remote: it waits for a page that another thread has to fill
# (userfaultfd). The result is 0; memory that cannot be read faults, see fault.
touch:
	mov rax, [rbx+CALL+8]
touch_load:
	mov al, [rax]
	xor eax, eax
0:	mov [rbx+CALL+56], rax
	jmp remote
touch_failed:
	mov rax, -14			# EFAULT
	jmp 0b

# The same by the 32-bit entry.
int80:
	mov eax, [rbx+CALL]
	mov ecx, [rbx+CALL+16]
	mov edx, [rbx+CALL+24]
	mov esi, [rbx+CALL+32]
	mov edi, [rbx+CALL+40]
	mov ebp, [rbx+CALL+48]
	mov ebx, [rbx+CALL+8]
	int 0x80
	mov rbx, gs:[SELF]
	mov gs:[G_RAX], rax
	jmp resume

# A system call that does not sleep, whose result goes to the guest.
finish:
	load_call rbx+CALL
	syscall
	mov gs:[G_RAX], rax
	cmp dword ptr [rbx+OP], OPATTEMPT
	jne resume
	test rax, rax
	jns resume
	mov [rbx+CALL+56], rax
	mov dword ptr [rbx+KIND], KINDDONE
	jmp handoff

# Continue the guest with the registers in the context. A signal from here to resume_end sees them
# as the guest's state.
resume:
	mov dword ptr [rbx+INAGENT], 0
.globl resume_begin
resume_begin:
	cmp dword ptr [rbx+PENDING], 0	# a signal was put off: everything is blocked
	jne deferred
	apply_mask
	mov rsp, [rbx+AGENTSP]
	push qword ptr gs:[RFLAGS]
	popfq
	mov rax, gs:[G_RAX]
	mov rcx, gs:[G_RCX]
	mov rdx, gs:[G_RDX]
	mov rbx, gs:[G_RBX]
	mov rbp, gs:[G_RBP]
	mov rsi, gs:[G_RSI]
	mov rdi, gs:[G_RDI]
	mov r8, gs:[G_R8]
	mov r9, gs:[G_R9]
	mov r10, gs:[G_R10]
	mov r11, gs:[G_R11]
	mov r12, gs:[G_R12]
	mov r13, gs:[G_R13]
	mov r14, gs:[G_R14]
	mov r15, gs:[G_R15]
	mov rsp, gs:[G_RSP]
	jmp qword ptr gs:[G_RIP]
.globl resume_end
resume_end:

# The supervisor must deliver a signal that was put off before the guest continues.
deferred:
	mov dword ptr [rbx+INAGENT], 1
	mov dword ptr [rbx+KIND], KINDDEFERRED
	jmp handoff

# Continue at address 0: the signal of that gives the supervisor a full frame. Nothing but a signal
# that instructions raise may come before: sent by a process, it gives the frame as well.
raise:
	lea rsi, [rip+blockall]
	lea rbp, [rip+0f]
	jmp block
0:	mov dword ptr [rbx+INAGENT], 0
	lea rsi, [rip+blockmask]
	lea rbp, [rip+0f]
	jmp block
0:	xor eax, eax
.globl raise_jump
raise_jump:
	jmp rax

# Block everything, then rt_sigreturn from a frame that the supervisor wrote. Blocking keeps a handler
# from running in between; in the agent's own handler everything is blocked already.
sigreturn:
	cmp dword ptr [rbx+KIND], KINDSIGNAL
	je 4f
	lea rsi, [rip+blockall]
	set_mask
4:	cmp dword ptr [rbx+PENDING], 0
	jne deferred
	mov dword ptr [rbx+SETMASK], 0
	mov rsp, [rbx+FRAME]
	add rsp, 8
	mov dword ptr [rbx+INAGENT], 0
	mov eax, 15			# rt_sigreturn
	syscall
	ud2

# Set the kernel's mask to the one at rsi; block returns to the address in rbp.
block:
	set_mask
	jmp rbp

# A system call that the supervisor passes with changed arguments and that may sleep: signals are
# delivered in it as in the guest's own.
gate2:
	mov dword ptr [rbx+INAGENT], 0
.globl gate2_begin
gate2_begin:
	cmp dword ptr [rbx+PENDING], 0
	jne deferred
	apply_mask
	load_call rbx+CALL
	mov dword ptr [rbx+INGATE], 1
.globl gate2_syscall
gate2_syscall:
	syscall
.globl gate2_after
gate2_after:
	mov [rbx+CALL+56], rax
.globl gate2_stored
gate2_stored:
	mov dword ptr [rbx+INGATE], 0
	mov dword ptr [rbx+INAGENT], 1
	mov dword ptr [rbx+KIND], KINDDONE
	jmp handoff

# clone, clone3, fork and vfork: the child starts on the context in CHILD, with all signals blocked.
clone:
	lea rsi, [rip+blockall]
	lea rbp, [rip+6f]
	jmp block
6:	mov r12, [rbx+CHILD]
	mov dword ptr [rbx+SETMASK], 1
	load_call rbx+CALL
	syscall
	test rax, rax
	jz 7f
	mov [rbx+CALL+56], rax
	mov dword ptr [rbx+KIND], KINDDONE
	jmp handoff
7:	mov edi, 0x1001			# ARCH_SET_GS
	mov rsi, r12
	mov eax, 158			# arch_prctl
	syscall
	mov rbx, r12
	lea rdi, [rbx+ALTSTACK]
	xor esi, esi
	mov eax, 131			# sigaltstack
	syscall
# The kernel starts an executed program's agent here, with GS base set by the supervisor.
.globl start
start:
	mov rbx, gs:[SELF]
	mov eax, 39			# getpid
	syscall
	mov [rbx+PID], eax
	mov eax, 186			# gettid
	syscall
	mov [rbx+TID], eax
	mov dword ptr [rbx+KIND], KINDSTART
	jmp handoff

# execve, execveat under the supervisor's ptrace: when it fails, int3 tells the tracer.
exec:
	lea rsi, [rip+blockmask]
	lea rbp, [rip+8f]
	jmp block
8:	mov dword ptr [rbx+SETMASK], 1
	mov rax, -512			# ERESTARTSYS: first the signal that was put off
	cmp dword ptr [rbx+PENDING], 0
	jne exec_failed
	load_call rbx+CALL
	syscall
.globl exec_failed
exec_failed:
	int3
	mov [rbx+CALL+56], rax
	mov dword ptr [rbx+KIND], KINDDONE
	jmp handoff

# The end of a thread. A signal that was put off goes to the process, if it was not for this thread.
exit:
	lea rsi, [rip+blockmask]
	lea rbp, [rip+9f]
	jmp block
9:	cmp dword ptr [rbx+PENDING], 0
	je 0f
	cmp dword ptr [rbx+DEFERRED+8], -6	# SI_TKILL
	je 0f
	mov edi, [rbx+PID]
	mov esi, [rbx+DEFERRED]
	lea rdx, [rbx+DEFERRED]
	mov eax, 129			# rt_sigqueueinfo
	syscall
0:	mov rax, [rbx+CALL]
	mov rdi, [rbx+CALL+8]
	mov rsi, [rbx+CALL+16]
	syscall
	ud2

# The handler of every caught signal, on the agent's alternate stack, everything blocked. It may
# change any register: the frame restores them.
.globl sighandler
sighandler:
	cmp dword ptr gs:[INAGENT], 0
	jne defer
	mov dword ptr gs:[INAGENT], 1
	mov gs:[FRAME], rsp
	mov gs:[SIGNO], edi
	mov dword ptr gs:[KIND], KINDSIGNAL
	jmp handoff

# A signal while the agent works: keep its siginfo, and return with everything blocked (ucontext's
# uc_sigmask is at offset 296); resume, gate2 and sigreturn have it delivered. So the order of queued
# signals stays.
defer:
	cmp dword ptr [rsi+8], 0		# si_code > 0: raised by the kernel
	jle 0f
	cmp edi, 11
	ja 0f
	mov eax, 0x9b0			# ILL 4, TRAP 5, BUS 7, FPE 8, SEGV 11
	bt eax, edi
	jc fault
0:	mov qword ptr [rdx+296], -1
	cmp dword ptr gs:[PENDING], 0
	jne requeue
	mov dword ptr gs:[PENDING], 1
	mov rdi, gs:[SELF]
	add rdi, DEFERRED
	mov ecx, 16			# sizeof(siginfo_t) / 8
	rep movsq
	jmp 1f

# A second one can only be one of those that instructions raise, sent by a process.
requeue:
	mov r12d, edi
	mov r13, rsi
	mov eax, 39			# getpid
	syscall
	mov r14d, eax
	mov eax, 186			# gettid
	syscall
	mov edi, r14d
	mov esi, eax
	mov edx, r12d
	mov r10, r13
	mov eax, 297			# rt_tgsigqueueinfo
	syscall
1:	add rsp, 8
	mov eax, 15			# rt_sigreturn
	syscall
	ud2

# A fault is a defect of the agent. None is what a process has sent with such a siginfo: it comes in a
# system call (rip is at offset 168 of ucontext). None is the trap of a single step: TF (bit 8 of
# rflags, at offset 176) is cleared until the guest continues.
fault:
	mov rax, [rdx+168]
	cmp word ptr [rax-2], 0x050f	# syscall
	je 0b
	cmp word ptr [rax], 0x050f	# to be restarted
	je 0b
	cmp edi, 5			# SIGTRAP
	jne 2f
	cmp dword ptr [rsi+8], 2	# TRAP_TRACE
	jne 2f
	and qword ptr [rdx+176], -0x101
	mov dword ptr gs:[STEPPED], 1
	jmp 1b
2:	lea rcx, [rip+touch_load]
	cmp rax, rcx
	jne 3f
	lea rcx, [rip+touch_failed]
	mov [rdx+168], rcx
	jmp 1b
3:	mov gs:[FRAME], rsp
	mov dword ptr gs:[KIND], KINDFAULT
	jmp handoff

# The system call gate. Translated code comes here with the original return address in rcx; r11 is
# free, because the processor's syscall overwrites both. Flags must survive, so they are kept in
# r11 as ah = low flags and al = overflow while the class of the call is looked up.
.globl gate
gate:
	mov gs:[NEXT], rcx
	mov gs:[GATERAX], rax
	mov ecx, eax
	lahf
.globl gate_clobbered
gate_clobbered:
	seto al
	movzx r11d, ax
	mov rax, gs:[GATERAX]
.globl gate_flags
gate_flags:
	cmp dword ptr gs:[HELD], 0		# signals that the system call may wait for
	jne gate_handoff
	cmp rax, 512
	jae gate_slow
	lea rcx, [rip+PASS]
	movzx ecx, byte ptr [rcx+rax]
	mov gs:[CLASS], ecx
	test ecx, ecx
	jz gate_slow
	cmp ecx, PASSIOCTL
	je gate_ioctl
gate_passed:
	cmp qword ptr gs:[GUARDSIZE], 0
	je 1f
	cmp ecx, PASSGUARDED
	je gate_slow
	mov rax, gs:[GUARDLO]
	.irp arg, rdi, rsi, rdx, r10, r8, r9
	mov rcx, \arg
	sub rcx, rax
	cmp rcx, gs:[GUARDSIZE]
	jb gate_slow
	.endr
1:	mov eax, r11d
	add al, 0x7f			# sets OF if al was 1
	sahf
.globl gate_restored
gate_restored:
	mov rax, gs:[GATERAX]
	mov dword ptr gs:[INGATE], 1
	mov ecx, gs:[HOLD]		# see abi.Hold
	jrcxz gate_syscall
	mov dword ptr gs:[INGATE], 0
	jmp gate_again
.globl gate_syscall
gate_syscall:
	syscall
.globl gate_after
gate_after:
	mov dword ptr gs:[INGATE], 0
	lea rcx, [rax+14]			# EFAULT: the buffer may lie in a page that xv protects
	jrcxz gate_failed
	lea rcx, [rax+4]			# EINTR: not by a signal that the guest sees
	jrcxz gate_failed
	mov ecx, gs:[CLASS]
	lea rcx, [rcx-PASSOPEN]
	jrcxz gate_open
gate_next:
	mov ecx, gs:[HOLD]
	jrcxz 0f
	jmp gate_called
0:	mov ecx, gs:[NOTABLES]
	jrcxz 0f
	jmp gate_hash
0:	mov rcx, gs:[NEXT]
	mov gs:[S], rcx
.globl gate_lookup
gate_lookup:
	jmp qword ptr [rcx*8+TBL]
gate_failed:
	mov dword ptr gs:[INAGENT], 1
	mov dword ptr gs:[KIND], KINDFAILED
	jmp save
# A file was opened: the supervisor sees those of a proc file system. Flags must survive here too, and
# r11, in which the kernel left them; a signal while fstatfs uses registers is put off.
1:	jmp gate_next
gate_open:
	mov rcx, rax
	bswap rcx			# the highest byte of an errno is 0xff
	movzx ecx, cl
	lea rcx, [rcx-0xff]
	jrcxz 1b
	mov dword ptr gs:[INAGENT], 1
	mov gs:[G_RAX], rax
	mov gs:[G_RSI], rsi
	mov gs:[G_RDI], rdi
	mov gs:[G_R11], r11
	mov rsi, gs:[SELF]
	lea rsi, [rsi+SCRATCH]
	mov qword ptr [rsi], 0		# struct statfs: f_type
	mov edi, eax
	mov eax, 138			# fstatfs
	syscall
	mov rcx, [rsi]
	mov rax, gs:[G_RAX]
	mov rsi, gs:[G_RSI]
	mov rdi, gs:[G_RDI]
	mov r11, gs:[G_R11]
	lea rcx, [rcx-0x9fa0]		# PROC_SUPER_MAGIC
	jrcxz 2f
	mov dword ptr gs:[INAGENT], 0
	jmp gate_worked
2:	mov dword ptr gs:[KIND], KINDOPENED
	jmp save
# The address after the system call is looked up in the hash, as an indirect jump in translated code that uses it.
gate_hash:
	mov rcx, gs:[NEXT]
	mov gs:[S], rcx
	mov gs:[T], rcx
	mov gs:[X0], rax
	movzx ecx, cx
.globl gate_hash_base
gate_hash_base:
	lea rax, [rip+HASH]
	mov rcx, [rax+rcx*8]
	mov rax, gs:[X0]
.globl gate_hash_jump
gate_hash_jump:
	jmp rcx
.globl gate_slow
gate_slow:
	cmp rax, 14			# rt_sigprocmask
	je gate_mask
	cmp rax, 10			# mprotect
	je gate_protect
	jmp gate_handoff
gate_ioctl:
	cmp esi, IOCTLHANDEDOFF
	jne gate_passed
.globl gate_handoff
gate_handoff:
	mov dword ptr gs:[INAGENT], 1
	mov eax, r11d
	add al, 0x7f
	sahf
	mov rax, gs:[GATERAX]
	mov dword ptr gs:[KIND], KINDSYSCALL
	jmp save

# A system call begins here again, with the guest's registers.
.globl gate_again
gate_again:
	mov dword ptr gs:[INAGENT], 1
	mov dword ptr gs:[KIND], KINDSYSCALL
	jmp save

# rt_sigprocmask(how rdi, set rsi, oldset rdx, size r10) without the supervisor. The guest's mask is
# the kernel's, MASK, with the signals that instructions raise, BLOCKED. The call happens at
# gate_mask_syscall: before it nothing has changed but *oldset, from then on NEWMASK and NEWBLOCKED
# hold. Memory that cannot be accessed faults at gate_mask_load or gate_mask_store.
.globl gate_mask
gate_mask:
	cmp byte ptr [rip+FILTERED], 0
	jne gate_handoff
	cmp r10, 8
	jne gate_handoff
	cmp edi, 2			# SIG_SETMASK
	ja gate_handoff
	mov gs:[G_RDI], rdi
	mov gs:[G_RSI], rsi
	mov gs:[G_RDX], rdx
	mov gs:[G_R10], r10
	mov gs:[G_R11], r11
.globl gate_mask_saved
gate_mask_saved:
	mov rcx, gs:[MASK]
	or rcx, gs:[BLOCKED]
	mov rax, rcx
	test rsi, rsi
	jz 2f
.globl gate_mask_load
gate_mask_load:
	mov rax, [rsi]
	cmp edi, 1			# SIG_UNBLOCK
	ja 1f
	je 0f
	or rax, rcx			# SIG_BLOCK
	jmp 1f
0:	not rax
	and rax, rcx
1:	and rax, -0x40101		# not SIGKILL and SIGSTOP
2:	test rdx, rdx
	jz 3f
.globl gate_mask_store
gate_mask_store:
	mov [rdx], rcx
3:	mov ecx, eax
	and ecx, SYNCMASK
	xor rax, rcx
	mov gs:[NEWBLOCKED], rcx
	mov gs:[NEWMASK], rax
	mov edi, 2			# SIG_SETMASK
	mov rsi, gs:[SELF]
	add rsi, NEWMASK
	xor edx, edx
	mov eax, 14			# rt_sigprocmask
.globl gate_mask_syscall
gate_mask_syscall:
	syscall
.globl gate_mask_after
gate_mask_after:
	mov rax, gs:[NEWMASK]
	mov gs:[MASK], rax
	mov rax, gs:[NEWBLOCKED]
	mov gs:[BLOCKED], rax
# A system call that the agent has done itself, with the result 0.
.globl gate_own
gate_own:
	mov rdi, gs:[G_RDI]
	mov rsi, gs:[G_RSI]
	mov rdx, gs:[G_RDX]
	mov r10, gs:[G_R10]
	mov rax, gs:[G_R11]		# the guest's flags, for r11 as well
	and r11, -0x8d6
	movzx ecx, ah
	and ecx, 0xd5			# SF ZF AF PF CF
	or r11, rcx
	movzx ecx, al
	shl ecx, 11			# OF
	or r11, rcx
	add al, 0x7f
	sahf
	mov eax, 0
# What the guest did with TF set while signals were put off, or a signal that was, is for the supervisor. Flags must survive.
.globl gate_worked
gate_worked:
	mov ecx, gs:[PENDING]
	jrcxz 1f
gate_called:
	mov dword ptr gs:[INAGENT], 1
	mov dword ptr gs:[KIND], KINDCALLED
	jmp save
1:	mov ecx, gs:[STEPPED]
	jrcxz 1f
	jmp gate_called
1:	mov ecx, gs:[NOTABLES]
	jrcxz 1f
	jmp gate_hash
1:	mov rcx, gs:[NEXT]
	mov gs:[S], rcx
.globl gate_worked_lookup
gate_worked_lookup:
	jmp qword ptr [rcx*8+TBL]

# mprotect(addr rdi, len rsi, prot rdx) of a toggle, see package abi, without the supervisor. All signals are put off from
# gate_protect_taken on.
.globl gate_protect
gate_protect:
	cmp byte ptr [rip+FILTERED], 0
	jne gate_handoff
	lea rax, [rdx-1]		# PROT_READ, with or without PROT_WRITE and PROT_EXEC
	test rax, -7
	jnz gate_handoff
	lea rax, [rsi+0xfff]
	and rax, -0x1000
	mov rcx, gs:[TOGGLE]
0:	test rcx, rcx
	jz gate_handoff
	cmp [rcx+TOGGLELO], rdi
	jne 1f
	cmp [rcx+TOGGLELEN], rax
	je 2f
1:	mov rcx, [rcx+TOGGLENEXT]
	jmp 0b
2:	mov dword ptr gs:[INAGENT], 1
.globl gate_protect_taken
gate_protect_taken:
	mov gs:[G_RDI], rdi
	mov gs:[G_RSI], rsi
	mov gs:[G_RDX], rdx
	mov gs:[G_R10], r10
	mov gs:[G_R11], r11
	mov r10, rcx
	mov esi, gs:[SLOT]
	or esi, TOGGLEBUSY
	mov rcx, rax
	mov eax, TOGGLEIDLE
	lock cmpxchg [r10+TOGGLESTATE], esi
	jne gate_protect_handoff
	cmp [r10+TOGGLELO], rdi		# while it wasn't taken it may have become another one
	jne 3f
	cmp [r10+TOGGLELEN], rcx
	jne 3f
	mov rsi, gs:[G_RSI]
	and edx, 3
	mov eax, 10			# mprotect
	syscall
	mov edx, gs:[G_RDX]
	mov esi, gs:[SLOT]
	or esi, TOGGLEBUSY
	test eax, eax
	jnz 3f
	mov ecx, edx
	and ecx, 4			# PROT_EXEC
	shl ecx, 5			# TOGGLEEXEC
	or ecx, edx
	movabs rdx, 0x0101010101010101
	imul rcx, rdx
	mov [r10+TOGGLEPROT], rcx
	mov [r10+TOGGLEPROT+8], rcx
	inc dword ptr [r10+TOGGLECOUNT]
	xor edi, edi			# it is done
	jmp 4f
3:	mov edi, 1
4:	mov eax, esi
	mov ecx, TOGGLEIDLE
	lock cmpxchg [r10+TOGGLESTATE], ecx
	jne 5f
	test edi, edi
	jnz gate_protect_handoff
	mov dword ptr gs:[INAGENT], 0
.globl gate_protect_done
gate_protect_done:
	jmp gate_own
5:	mov dword ptr [r10+TOGGLESTATE], TOGGLEFREE
gate_protect_handoff:
	mov rdi, gs:[G_RDI]
	mov rsi, gs:[G_RSI]
	mov rdx, gs:[G_RDX]
	mov r10, gs:[G_R10]
	mov r11, gs:[G_R11]
	jmp gate_handoff

	.balign 8
.globl data
data:
second:	.quad 1, 0			# struct timespec: how often a waiting thread looks whether the supervisor lives
blockmask: .quad BLOCKMASK
blockall: .quad -1
	.balign 64
