//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// A guest holds no descriptor of xv: to map an object of the supervisor it gets one for as long as the
// mapping takes.

// caller performs system calls in a process of the guest, on behalf of the supervisor.
type caller interface {
	// perform returns the results as the kernel gives them, negative for errors.
	perform(calls ...call) ([]int64, error)
	// argument is the address of argumentSize bytes in the process, which write and read copy to and from.
	argument() uint64
	writeArgument(off int, b []byte) error
	readArgument(off int, b []byte) error
}

// argumentSize is the room for arguments that every caller has.
const argumentSize = 1024

// atFDCWD is AT_FDCWD as the kernel takes it.
const atFDCWD = 0xffffffffffffff9c

// mapping is a part of an object of the supervisor and where it belongs in a guest.
type mapping struct {
	object    *shared
	addr      uint64
	size, off uint64
	prot      uint64
	flags     uint64
}

// mapShared maps parts of objects of the supervisor into the address space of th, up to the first that
// fails.
func (th *thread) mapShared(parts ...mapping) error {
	return mapParts(th, borrower{th.p.pid, th.tid}, parts)
}

// mapParts maps parts by the calls of c, a thread of b.
func mapParts(c caller, b borrower, parts []mapping) error {
	for some := range slices.Chunk(parts, abi.MaxVector/2) {
		if err := mapSome(c, b, some); err != nil {
			return err
		}
	}
	return nil
}

// mapSome is mapParts for so few parts that they take two hand-offs.
func mapSome(c caller, b borrower, parts []mapping) error {
	var objects []*shared
	for _, p := range parts {
		if !slices.Contains(objects, p.object) {
			objects = append(objects, p.object)
		}
	}
	fds, err := b.lend(c, objects)
	if err != nil {
		return fmt.Errorf("opening the supervisor's memory in process %d: %w", b.pid, err)
	}
	var calls []call
	for _, p := range parts {
		fd := uint64(fds[slices.Index(objects, p.object)])
		calls = append(calls, call{unix.SYS_MMAP, [6]uint64{p.addr, p.size, p.prot, unix.MAP_SHARED | unix.MAP_NORESERVE | p.flags, fd, p.off}})
	}
	done, err := c.perform(append(calls, closing(fds)...)...)
	if err != nil {
		return err
	}
	for i, p := range parts {
		if r := done[i]; failed(r) {
			return fmt.Errorf("mmap at %#x in process %d: %w", p.addr, b.pid, unix.Errno(-r))
		} else if uint64(r) != p.addr {
			return errNoCall
		}
	}
	return nil
}

// errNoCall says that a guest has meddled with a result in its thread context.
var errNoCall = errors.New("remote system call failed")

// failed reports whether a result is an error.
func failed(r int64) bool { return r < 0 && r > -4096 }

// closing are the calls that close descriptors; results of opens that failed are no descriptors.
func closing(fds []int64) (calls []call) {
	for _, fd := range fds {
		if fd >= 0 {
			calls = append(calls, call{unix.SYS_CLOSE, [6]uint64{uint64(fd)}})
		}
	}
	return calls
}

// borrower is the thread that gets descriptors.
type borrower struct{ pid, tid int }

// lend opens objects of the supervisor in a process. Where the supervisor's files can't be reached by
// path, as in another PID namespace or below another root, descriptors are sent by a socket.
func (b borrower) lend(c caller, objects []*shared) ([]int64, error) {
	fds, err := openPaths(c, objects)
	if err == unix.EMFILE {
		restore, raised := b.allowFiles()
		if raised != nil {
			return nil, err
		}
		defer restore()
		fds, err = openPaths(c, objects)
	}
	if err == nil && !b.holds(fds, objects) {
		// The path is that of another process, which has our number in another PID namespace.
		if _, err := c.perform(closing(fds)...); err != nil {
			return nil, err
		}
		err = unix.ENOENT
	}
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ENXIO, unix.EACCES, unix.EPERM, unix.ELOOP:
		if restore, raised := b.allowFiles(); raised == nil {
			defer restore()
		}
		var sent error
		if fds, sent = b.send(c, objects); sent != nil {
			return nil, fmt.Errorf("%w, and by a socket: %w", err, sent)
		}
		return fds, nil
	}
	return fds, err
}

// holds reports whether the descriptors of the thread are those objects.
func (b borrower) holds(fds []int64, objects []*shared) bool {
	for i, o := range objects {
		var theirs, ours unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", b.tid, fds[i]), &theirs) != nil || unix.Fstat(o.fd, &ours) != nil ||
			theirs.Dev != ours.Dev || theirs.Ino != ours.Ino {
			return false
		}
	}
	return true
}

// openPaths opens objects by the supervisor's descriptors in /proc.
func openPaths(c caller, objects []*shared) ([]int64, error) {
	var text []byte
	var opens []call
	for _, o := range objects {
		flags := uint64(unix.O_RDONLY | unix.O_CLOEXEC)
		if !o.sealed {
			flags = unix.O_RDWR | unix.O_CLOEXEC
		}
		opens = append(opens, call{unix.SYS_OPENAT, [6]uint64{atFDCWD, c.argument() + uint64(len(text)), flags}})
		text = append(append(text, o.path()...), 0)
	}
	if err := c.writeArgument(0, text); err != nil {
		return nil, err
	}
	fds, err := c.perform(opens...)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(fds, failed); i >= 0 {
		if _, err := c.perform(closing(fds)...); err != nil {
			return nil, err
		}
		return nil, unix.Errno(-fds[i])
	}
	return fds, nil
}

// allowFiles raises the soft limit of open files, which a guest may have reached, until restore is called.
func (b borrower) allowFiles() (restore func(), err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(b.pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return nil, err
	}
	more := unix.Rlimit{Cur: old.Max, Max: old.Max}
	if err := unix.Prlimit(b.pid, unix.RLIMIT_NOFILE, &more, nil); err != nil {
		return nil, err
	}
	return func() { unix.Prlimit(b.pid, unix.RLIMIT_NOFILE, &old, nil) }, nil
}

// Places of the arguments of recvmsg(2); the pair of sockets is at 0.
const (
	sendHeader  = 64  // struct msghdr
	sendVector  = 128 // struct iovec
	sendByte    = 160
	sendControl = 192 // struct cmsghdr with the descriptors
)

// send lets a process make a pair of sockets, takes one of the two, and sends the descriptors through it.
func (b borrower) send(c caller, objects []*shared) (fds []int64, err error) {
	r, err := c.perform(call{unix.SYS_SOCKETPAIR, [6]uint64{unix.AF_UNIX, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC, 0, c.argument()}})
	if err != nil {
		return nil, err
	}
	if failed(r[0]) {
		return nil, fmt.Errorf("socketpair: %w", unix.Errno(-r[0]))
	}
	var pair [8]byte
	if err := c.readArgument(0, pair[:]); err != nil {
		return nil, err
	}
	ours, theirs := binary.LittleEndian.Uint32(pair[:]), binary.LittleEndian.Uint32(pair[4:])
	defer func() {
		if _, cerr := c.perform(closing([]int64{int64(ours), int64(theirs)})...); err == nil {
			err = cerr
		}
	}()
	if err := b.sendTo(int(ours), objects); err != nil {
		return nil, err
	}
	return receive(c, uint64(theirs), len(objects))
}

// sendTo sends objects to the socket fd of the process.
func (b borrower) sendTo(fd int, objects []*shared) error {
	flags := 0
	if b.tid != b.pid {
		flags = unix.O_EXCL // PIDFD_THREAD: the descriptors may be the thread's own
	}
	pidfd, err := unix.PidfdOpen(b.tid, flags)
	if err == unix.EINVAL { // before Linux 6.9
		pidfd, err = unix.PidfdOpen(b.pid, 0)
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	local, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	defer unix.Close(local)
	var list []int
	for _, o := range objects {
		list = append(list, o.fd)
	}
	if err := unix.Sendmsg(local, []byte{0}, unix.UnixRights(list...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("sendmsg: %w", err)
	}
	return nil
}

// receive takes count descriptors from socket fd of the process.
func receive(c caller, fd uint64, count int) ([]int64, error) {
	base := c.argument()
	words := func(w ...uint64) (out []byte) {
		for _, v := range w {
			out = binary.LittleEndian.AppendUint64(out, v)
		}
		return out
	}
	control := unix.CmsgSpace(4 * count)
	for off, arg := range map[int][]byte{
		sendHeader: words(0, 0, base+sendVector, 1, base+sendControl, uint64(control), 0),
		sendVector: words(base+sendByte, 1),
	} {
		if err := c.writeArgument(off, arg); err != nil {
			return nil, err
		}
	}
	r, err := c.perform(call{unix.SYS_RECVMSG, [6]uint64{fd, base + sendHeader, unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC}})
	if err != nil {
		return nil, err
	}
	if failed(r[0]) {
		return nil, fmt.Errorf("recvmsg: %w", unix.Errno(-r[0]))
	}
	answer := make([]byte, control)
	if err := c.readArgument(sendControl, answer); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(answer)
	var fds []int64
	for off := unix.CmsgLen(0); off+4 <= control && uint64(off)+4 <= length; off += 4 {
		fds = append(fds, int64(int32(binary.LittleEndian.Uint32(answer[off:]))))
	}
	if len(fds) < count { // the rest didn't fit under the limit of open files
		if _, err := c.perform(closing(fds)...); err != nil {
			return nil, err
		}
		return nil, unix.EMFILE
	}
	return fds[:count], nil
}

// perform implements caller.
func (th *thread) perform(calls ...call) ([]int64, error) { return th.remote(calls...), nil }

func (th *thread) argument() uint64 { return th.ctx.scratchAddr() }

func (th *thread) writeArgument(off int, b []byte) error {
	copy(th.ctx.scratch()[off:], b)
	return nil
}

func (th *thread) readArgument(off int, b []byte) error {
	copy(b, th.ctx.scratch()[off:])
	return nil
}
