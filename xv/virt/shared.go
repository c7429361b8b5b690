//go:build linux && amd64

package virt

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shared is memory that guests map by opening the supervisor's descriptor under /proc: the guest needs
// to hold no descriptor of ours, and a sealed object can never be mapped writable by it.
type shared struct {
	fd     int
	view   []byte
	sealed bool // guests can't write it

	readOnly bool // nor can this process, which has not made it
}

// newShared makes an object of size bytes, of which only what is touched takes memory. A sealed
// object can be written only through the view that is returned (F_SEAL_FUTURE_WRITE, memfd_create(2)).
func newShared(name string, size int, sealed bool) (*shared, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there is no MFD_EXEC
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	s := &shared{fd: fd, sealed: sealed}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		s.close()
		return nil, fmt.Errorf("ftruncate to %d bytes: %w", size, err)
	}
	if err := s.look(size, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		s.close()
		return nil, err
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if sealed {
		seals |= unix.F_SEAL_FUTURE_WRITE
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		s.close()
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return s, nil
}

// openShared returns an object that another supervisor has made. A sealed one can only be read.
func openShared(fd int) (*shared, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	s := &shared{fd: fd}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("seals of descriptor %d: %w", fd, err)
	}
	prot := unix.PROT_READ | unix.PROT_WRITE
	if seals&unix.F_SEAL_FUTURE_WRITE != 0 {
		s.sealed, s.readOnly = true, true
		prot = unix.PROT_READ
	}
	if err := s.look(int(st.Size), prot); err != nil {
		return nil, err
	}
	return s, nil
}

// look maps the object.
func (s *shared) look(size, prot int) (err error) {
	s.view, err = unix.Mmap(s.fd, 0, size, prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("mmap of %d bytes: %w", size, err)
	}
	return nil
}

func (s *shared) close() {
	if s.view != nil {
		unix.Munmap(s.view)
		s.view = nil
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// path is where a guest can open the object.
func (s *shared) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd) }

// word32 and word64 are atomic views of shared memory; off is aligned and in range.
func word32(mem []byte, off int) *atomic.Uint32 {
	_ = mem[off : off+4]
	return (*atomic.Uint32)(unsafe.Pointer(&mem[off]))
}

func word64(mem []byte, off int) *atomic.Uint64 {
	_ = mem[off : off+8]
	return (*atomic.Uint64)(unsafe.Pointer(&mem[off]))
}

// futexWait sleeps while *w is v, at most for timeout. It must not be a RawSyscall: the Go collector
// would wait for this thread.
func futexWait(w *atomic.Uint32, v uint32, timeout *unix.Timespec) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexOpWait, uintptr(v), uintptr(unsafe.Pointer(timeout)), 0, 0)
	return errno
}

// futexWake wakes one sleeper; it never blocks.
func futexWake(w *atomic.Uint32) {
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexOpWake, 1, 0, 0, 0)
}

// The futexes are shared between processes, so without FUTEX_PRIVATE_FLAG.
const (
	futexOpWait = 0
	futexOpWake = 1
)
