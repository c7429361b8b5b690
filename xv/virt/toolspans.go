//go:build linux && amd64

package virt

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"xvrun/xv/trap"
)

// span is memory that a system call may use.
type span struct {
	lo, hi uint64
	access trap.Access
}

// use is what a system call does with an argument: it is the address of size bytes, times the argument count unless that is none, or of a
// string.
type use struct {
	arg    int
	access trap.Access
	size   uint64 // 0: a string that ends with a zero byte
	count  int
}

// none is use.count of one thing.
const none = -1

// Sizes of what system calls use, in bytes (sys_*(2), x86-64).
const (
	sizeTimespec = 16 // also struct timeval, itimerspec/2 and rlimit
	sizeStat     = 144
	sizeStatx    = 256
	sizeRusage   = 144
	sizeSiginfo  = 128
	sizeStatfs   = 120
	sizeAddress  = 128 // struct sockaddr_storage
)

// uses says of system calls what memory they use. They use none if that is empty; of those that are not here, each argument may be the
// address of anything.
var uses = map[uintptr][]use{
	unix.SYS_READ:              {{1, trap.Write, 1, 2}},
	unix.SYS_PREAD64:           {{1, trap.Write, 1, 2}},
	unix.SYS_WRITE:             {{1, trap.Read, 1, 2}},
	unix.SYS_PWRITE64:          {{1, trap.Read, 1, 2}},
	unix.SYS_GETRANDOM:         {{0, trap.Write, 1, 1}},
	unix.SYS_RECVFROM:          {{1, trap.Write, 1, 2}, {4, trap.Write, sizeAddress, none}, {5, trap.Write, 4, none}},
	unix.SYS_SENDTO:            {{1, trap.Read, 1, 2}, {4, trap.Read, 1, 5}},
	unix.SYS_BIND:              {{1, trap.Read, 1, 2}},
	unix.SYS_CONNECT:           {{1, trap.Read, 1, 2}},
	unix.SYS_ACCEPT:            {{1, trap.Write, sizeAddress, none}, {2, trap.Write, 4, none}},
	unix.SYS_ACCEPT4:           {{1, trap.Write, sizeAddress, none}, {2, trap.Write, 4, none}},
	unix.SYS_GETSOCKNAME:       {{1, trap.Write, sizeAddress, none}, {2, trap.Write, 4, none}},
	unix.SYS_GETPEERNAME:       {{1, trap.Write, sizeAddress, none}, {2, trap.Write, 4, none}},
	unix.SYS_SOCKETPAIR:        {{3, trap.Write, 8, none}},
	unix.SYS_SETSOCKOPT:        {{3, trap.Read, 1, 4}},
	unix.SYS_PIPE:              {{0, trap.Write, 8, none}},
	unix.SYS_PIPE2:             {{0, trap.Write, 8, none}},
	unix.SYS_OPEN:              {{0, trap.Read, 0, none}},
	unix.SYS_OPENAT:            {{1, trap.Read, 0, none}},
	unix.SYS_ACCESS:            {{0, trap.Read, 0, none}},
	unix.SYS_FACCESSAT:         {{1, trap.Read, 0, none}},
	unix.SYS_FACCESSAT2:        {{1, trap.Read, 0, none}},
	unix.SYS_STAT:              {{0, trap.Read, 0, none}, {1, trap.Write, sizeStat, none}},
	unix.SYS_LSTAT:             {{0, trap.Read, 0, none}, {1, trap.Write, sizeStat, none}},
	unix.SYS_FSTAT:             {{1, trap.Write, sizeStat, none}},
	unix.SYS_NEWFSTATAT:        {{1, trap.Read, 0, none}, {2, trap.Write, sizeStat, none}},
	unix.SYS_STATX:             {{1, trap.Read, 0, none}, {4, trap.Write, sizeStatx, none}},
	unix.SYS_STATFS:            {{0, trap.Read, 0, none}, {1, trap.Write, sizeStatfs, none}},
	unix.SYS_FSTATFS:           {{1, trap.Write, sizeStatfs, none}},
	unix.SYS_READLINK:          {{0, trap.Read, 0, none}, {1, trap.Write, 1, 2}},
	unix.SYS_READLINKAT:        {{1, trap.Read, 0, none}, {2, trap.Write, 1, 3}},
	unix.SYS_GETDENTS64:        {{1, trap.Write, 1, 2}},
	unix.SYS_GETCWD:            {{0, trap.Write, 1, 1}},
	unix.SYS_CHDIR:             {{0, trap.Read, 0, none}},
	unix.SYS_MKDIR:             {{0, trap.Read, 0, none}},
	unix.SYS_MKDIRAT:           {{1, trap.Read, 0, none}},
	unix.SYS_RMDIR:             {{0, trap.Read, 0, none}},
	unix.SYS_UNLINK:            {{0, trap.Read, 0, none}},
	unix.SYS_UNLINKAT:          {{1, trap.Read, 0, none}},
	unix.SYS_RENAME:            {{0, trap.Read, 0, none}, {1, trap.Read, 0, none}},
	unix.SYS_LINK:              {{0, trap.Read, 0, none}, {1, trap.Read, 0, none}},
	unix.SYS_SYMLINK:           {{0, trap.Read, 0, none}, {1, trap.Read, 0, none}},
	unix.SYS_TRUNCATE:          {{0, trap.Read, 0, none}},
	unix.SYS_POLL:              {{0, trap.Read | trap.Write, 8, 1}},
	unix.SYS_EPOLL_WAIT:        {{1, trap.Write, 12, 2}},
	unix.SYS_EPOLL_CTL:         {{3, trap.Read, 12, none}},
	unix.SYS_NANOSLEEP:         {{0, trap.Read, sizeTimespec, none}, {1, trap.Write, sizeTimespec, none}},
	unix.SYS_CLOCK_NANOSLEEP:   {{2, trap.Read, sizeTimespec, none}, {3, trap.Write, sizeTimespec, none}},
	unix.SYS_CLOCK_GETTIME:     {{1, trap.Write, sizeTimespec, none}},
	unix.SYS_CLOCK_GETRES:      {{1, trap.Write, sizeTimespec, none}},
	unix.SYS_GETTIMEOFDAY:      {{0, trap.Write, sizeTimespec, none}, {1, trap.Write, 8, none}},
	unix.SYS_TIME:              {{0, trap.Write, 8, none}},
	unix.SYS_TIMES:             {{0, trap.Write, 32, none}},
	unix.SYS_SETITIMER:         {{1, trap.Read, 2 * sizeTimespec, none}, {2, trap.Write, 2 * sizeTimespec, none}},
	unix.SYS_GETITIMER:         {{1, trap.Write, 2 * sizeTimespec, none}},
	unix.SYS_TIMERFD_SETTIME:   {{2, trap.Read, 2 * sizeTimespec, none}, {3, trap.Write, 2 * sizeTimespec, none}},
	unix.SYS_UNAME:             {{0, trap.Write, 390, none}},
	unix.SYS_SYSINFO:           {{0, trap.Write, 112, none}},
	unix.SYS_GETRLIMIT:         {{1, trap.Write, sizeTimespec, none}},
	unix.SYS_PRLIMIT64:         {{2, trap.Read, sizeTimespec, none}, {3, trap.Write, sizeTimespec, none}},
	unix.SYS_GETRUSAGE:         {{1, trap.Write, sizeRusage, none}},
	unix.SYS_WAIT4:             {{1, trap.Write, 4, none}, {3, trap.Write, sizeRusage, none}},
	unix.SYS_WAITID:            {{2, trap.Write, sizeSiginfo, none}, {4, trap.Write, sizeRusage, none}},
	unix.SYS_SCHED_SETAFFINITY: {{2, trap.Read, 1, 1}},
	unix.SYS_SCHED_GETAFFINITY: {{2, trap.Write, 1, 1}},
	unix.SYS_GETCPU:            {{0, trap.Write, 4, none}, {1, trap.Write, 4, none}},

	unix.SYS_CLOSE: {}, unix.SYS_CLOSE_RANGE: {}, unix.SYS_LSEEK: {}, unix.SYS_DUP: {}, unix.SYS_DUP2: {}, unix.SYS_DUP3: {},
	unix.SYS_FSYNC: {}, unix.SYS_FDATASYNC: {}, unix.SYS_FTRUNCATE: {}, unix.SYS_FALLOCATE: {}, unix.SYS_FADVISE64: {}, unix.SYS_FLOCK: {},
	unix.SYS_FCHDIR: {}, unix.SYS_FCHMOD: {}, unix.SYS_FCHOWN: {}, unix.SYS_UMASK: {}, unix.SYS_SYNC: {}, unix.SYS_SYNCFS: {},
	unix.SYS_SOCKET: {}, unix.SYS_LISTEN: {}, unix.SYS_SHUTDOWN: {}, unix.SYS_EVENTFD: {}, unix.SYS_EVENTFD2: {},
	unix.SYS_EPOLL_CREATE: {}, unix.SYS_EPOLL_CREATE1: {}, unix.SYS_TIMERFD_CREATE: {}, unix.SYS_INOTIFY_INIT1: {}, unix.SYS_PIDFD_OPEN: {},
	unix.SYS_GETPID: {}, unix.SYS_GETPPID: {}, unix.SYS_GETTID: {}, unix.SYS_GETUID: {}, unix.SYS_GETEUID: {}, unix.SYS_GETGID: {},
	unix.SYS_GETEGID: {}, unix.SYS_GETPGRP: {}, unix.SYS_GETPGID: {}, unix.SYS_GETSID: {}, unix.SYS_SETSID: {}, unix.SYS_SETPGID: {},
	unix.SYS_SCHED_YIELD: {}, unix.SYS_PAUSE: {}, unix.SYS_ALARM: {}, unix.SYS_KILL: {}, unix.SYS_TKILL: {}, unix.SYS_TGKILL: {},
	unix.SYS_GETPRIORITY: {}, unix.SYS_SETPRIORITY: {}, unix.SYS_SCHED_GETSCHEDULER: {}, unix.SYS_SCHED_GET_PRIORITY_MAX: {},
	unix.SYS_SCHED_GET_PRIORITY_MIN: {}, unix.SYS_MEMBARRIER: {}, unix.SYS_MLOCK: {}, unix.SYS_MLOCK2: {}, unix.SYS_MUNLOCK: {}, unix.SYS_MSYNC: {},
	// They only tell the kernel an address.
	unix.SYS_SET_TID_ADDRESS: {}, unix.SYS_SET_ROBUST_LIST: {},
}

// Commands of futex(2).
const (
	futexCmdMask    = 127
	futexPrivate    = 128
	futexWaitCmd    = 0
	futexWakeCmd    = 1
	futexRequeue    = 3
	futexCmpRequeue = 4
	futexWakeOpCmd  = 5
	futexWaitBitset = 9
	futexWakeBitset = 10
)

// spans lists what memory the system call k may use: as the arguments say where that is known, else what they may point to.
func (th *thread) spans(k call) (list []span) {
	a := k.args
	if known, ok := uses[k.nr]; ok {
		for _, u := range known {
			length := u.size
			switch {
			case a[u.arg] == 0:
				continue
			case u.size == 0:
				text, _ := th.readString(a[u.arg])
				length = uint64(len(text)) + 1
			case u.count != none:
				length = min(u.size*min(a[u.count], maxLen), maxLen)
			}
			list = append(list, span{a[u.arg], a[u.arg] + length, u.access})
		}
		return list
	}
	both := trap.Read | trap.Write
	switch k.nr {
	case unix.SYS_FUTEX:
		return futexSpans(a)
	case unix.SYS_READV, unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PROCESS_VM_READV:
		return append(th.vector(a[1], a[2], trap.Write), span{a[1], a[1] + 16*min(a[2], maxVectors), trap.Read})
	case unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_PROCESS_VM_WRITEV:
		return append(th.vector(a[1], a[2], trap.Read), span{a[1], a[1] + 16*min(a[2], maxVectors), trap.Read})
	}
	reach := uint64(pageSize)
	for _, v := range a {
		if v <= maxReach {
			reach = max(reach, v)
		}
	}
	for _, v := range a {
		if v < userLimit-reach && v > maxReach {
			list = append(list, span{v, v + reach, both})
		}
	}
	switch k.nr {
	case unix.SYS_RECVMSG, unix.SYS_SENDMSG:
		list = append(list, th.messages(a[1], 1)...)
	case unix.SYS_RECVMMSG, unix.SYS_SENDMMSG:
		list = append(list, th.messages(a[1], a[2])...)
	}
	return list
}

// futexSpans is spans for futex(2).
func futexSpans(a [6]uint64) (list []span) {
	word := func(addr uint64, access trap.Access) { list = append(list, span{addr, addr + 4, access}) }
	shared := a[1]&futexPrivate == 0 // then the kernel looks for the page
	switch a[1] & futexCmdMask {
	case futexWaitCmd, futexWaitBitset:
		word(a[0], trap.Read)
		list = append(list, span{a[3], a[3] + sizeTimespec, trap.Read})
	case futexWakeCmd, futexWakeBitset:
		if shared {
			word(a[0], trap.Read)
		}
	case futexRequeue, futexCmpRequeue:
		word(a[0], trap.Read)
		if shared {
			word(a[4], trap.Read)
		}
	case futexWakeOpCmd:
		word(a[0], trap.Read)
		word(a[4], trap.Read|trap.Write)
	default: // those of priority inheritance
		word(a[0], trap.Read|trap.Write)
		list = append(list, span{a[3], a[3] + sizeTimespec, trap.Read})
		word(a[4], trap.Read|trap.Write)
	}
	return list
}

// vector lists the buffers of n struct iovec.
func (th *thread) vector(addr, n uint64, access trap.Access) (list []span) {
	b := make([]byte, 16*min(n, maxVectors))
	for b = b[:th.read(addr, b)]; len(b) >= 16; b = b[16:] {
		base := binary.LittleEndian.Uint64(b)
		list = append(list, span{base, base + min(binary.LittleEndian.Uint64(b[8:]), maxLen), access})
	}
	return list
}

// messages lists the buffers of n struct mmsghdr.
func (th *thread) messages(addr, n uint64) (list []span) {
	for range min(n, maxVectors) {
		var b [56]byte
		if th.read(addr, b[:]) < len(b) {
			break
		}
		w := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
		both := trap.Read | trap.Write
		list = append(list, span{w(0), w(0) + uint64(uint32(w(8))), both}, span{w(32), w(32) + min(w(40), maxLen), both})
		list = append(list, th.vector(w(16), w(24), both)...)
		addr += mmsghdrSize
	}
	return list
}
