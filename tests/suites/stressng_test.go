package suites

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// Stressors of stress-ng that verify what they do and leave the machine as it is. Those in stressors run always,
// moreStressors with -soak.
const (
	stressors = `bad-altstack context daemon exec exit-group fork funcret futex icache itimer kill longjmp membarrier
		mmapfixed mprotect mremap mutex pthread sigabrt sigfpe sigpending sigq sigsegv sigsuspend sigtrap spawn
		stackmmap tlb-shootdown vfork vm wait zombie`
	moreStressors = `affinity aio aiol alarm atomic branch brk bsearch cache cacheline clone close copy-file cpu crypt cyclic
		dekker dir dirdeep dup dynlib enosys env epoll eventfd far-branch fault fcntl fifo flock flushcache fp
		fp-error full funccall get getdent getrandom goto heapsort hrtimers hsearch inotify io-uring ipsec-mb jpeg
		judy kcmp key l1cache list loadavg lockbus lockf lockofd lsearch madvise malloc matrix mcontend memcpy memfd
		memrate memthrash mergesort mincore misaligned mlock mmap mmapaddr mmapfork mmaphuge mmapmany mq msg msync
		msyncmany munmap nanosleep netlink-proc netlink-task nop null numa opcode pagemove pageswap personality
		peterson pidfd pipe pipeherd pkey plugin poll prctl prefetch priv-instr ptrace pty qsort race-sched
		radixsort randlist rdrand regs remap revio ring-pipe rlimit rmap rotate rseq seccomp secretmem seek sem
		sem-sysv sendfile session set shellsort shm shm-sysv sigchld sigfd sigio signal signest sigpipe sigrt
		skiplist sleep sock sockfd sockpair sparsematrix splice stack str stream switch sysbadaddr tee timer timerfd
		tree tsc tsearch udp unshare userfaultfd usersyscall vdso vecfp vecmath vecshuf vecwide vforkmany vm-addr
		vm-rw vm-segv vm-splice waitcpu wcs x86cpuid x86syscall yield zero zlib`
)

// TestStressNG runs stressors of stress-ng for a second each, with verification.
func TestStressNG(t *testing.T) {
	tool := need.Tool(t, "stress-ng")
	names := strings.Fields(stressors)
	if *harness.Soak {
		names = append(names, strings.Fields(moreStressors)...)
	}
	var parts []part
	for _, name := range names {
		parts = append(parts, part{name: name, suite: "stress-ng", tests: []string{name},
			compare: func(t *testing.T) differences { return compareStressor(t, tool, name) }})
	}
	compareAll(t, 3, parts)
}

func compareStressor(t *testing.T, tool, name string) differences {
	spec := harness.Spec{Argv: []string{tool, "--" + name, "1", "--timeout", "1", "--verify", "--no-rand-seed", "--temp-path", "."},
		Timeout: 30 * time.Second}
	native := harness.Run(t, spec)
	translated := harness.RunXV(t, spec)
	if w, g := outcome(native), outcome(translated); w != g {
		return differences{name: fmt.Sprintf("native: %s\ntranslated: %s\n%s", w, g, tail(append(translated.Stdout, translated.Stderr...)))}
	}
	return nil
}
