//go:build linux && amd64

package virt

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// vsyscallPage is the page of the kernel's emulated system calls; it can be executed nowhere else.
const vsyscallPage = 0xffffffffff600000

func isVsyscall(addr uint64) bool { return addr >= vsyscallPage && addr < vsyscallPage+pageSize }

// vsyscalls are the entries of the page, by offset (arch/x86/entry/vsyscall).
var vsyscalls = map[uint64]uintptr{0: unix.SYS_GETTIMEOFDAY, 0x400: unix.SYS_TIME, 0x800: unix.SYS_GETCPU}

// hasVsyscalls reports whether this kernel has the page: it can be switched off.
var hasVsyscalls = sync.OnceValue(func() bool {
	maps, err := os.ReadFile("/proc/self/maps")
	return err == nil && bytes.Contains(maps, []byte("[vsyscall]"))
})

// vsyscall does a call of the vsyscall page as the kernel emulates it; it reports whether rip is there.
// What is no entry, and a pointer that is bad, are faults without an address.
func (th *thread) vsyscall(f frame, regs *registers) bool {
	if !isVsyscall(regs.rip) || !hasVsyscalls() {
		return false
	}
	nr, known := vsyscalls[regs.rip-vsyscallPage]
	var ret [8]byte
	if !known || th.read(regs.gpr[rsp], ret[:]) < len(ret) {
		th.raise(f, protection(0), *regs)
		return true
	}
	out := *regs
	out.gpr[rsp] += 8
	out.rip = th.p.as.original(binary.LittleEndian.Uint64(ret[:]))
	if !th.permitsVsyscall(f, uint64(nr), out) {
		return true
	}
	r := th.remote(call{nr, th.args(regs)})[0]
	if r == -int64(unix.EFAULT) {
		th.raise(f, protection(0), *regs)
		return true
	}
	out.gpr[rax] = uint64(r)
	th.returnTo(f, out)
	return true
}
