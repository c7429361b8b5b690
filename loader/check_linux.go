package loader

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Check is like the function Check, with names looked up from o.
func (o Origin) Check(path string) (*Info, error) {
	info := &Info{}
	name := path
	for {
		f, err := o.open(name)
		if err != nil {
			return nil, err.about(path, name)
		}
		next, err := info.read(f, name)
		f.Close()
		if err != nil {
			return nil, err.about(path, name)
		}
		if next != "" {
			name = next
			if len(info.Scripts) > maxScripts {
				return nil, refuse(path, syscall.ELOOP, "more than %d #! interpreters in a row", maxScripts)
			}
			continue
		}
		if err := o.checkInterp(path, info.Interp); err != nil {
			return nil, err
		}
		return info, nil
	}
}

// read takes in one file of the chain. It returns the next file to look at if
// this one is a script.
func (i *Info) read(f *os.File, name string) (next string, _ *Error) {
	st, err := f.Stat()
	if err != nil {
		return "", unreadable(name, err)
	}
	var head [headSize]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", unreadable(name, err)
	}
	if !isELF(head[:n]) {
		interp, arg, ok := parseScript(&head)
		if !ok {
			return "", refuse(name, syscall.ENOEXEC, "%s", unknownFormat(head[:n]))
		}
		// Each further interpreter and its argument go in front (load_script).
		args := []string{interp}
		if arg != "" {
			args = append(args, arg)
		}
		if len(i.Scripts) > 0 {
			// The name of this script is already the first of Args.
			args = append(args, i.Args...)
		}
		i.Args = args
		i.Scripts = append(i.Scripts, name)
		return interp, nil
	}
	img, err := parseELF(name, f, st.Size())
	if err == nil {
		err = fitsNear(name, img)
	}
	if err != nil {
		return "", asError(name, err)
	}
	i.Path, i.Type, i.Interp = name, img.typ, img.interp
	i.StaticPIE = img.typ == Dyn && img.interp == ""
	i.Entry, i.Low, i.High, i.Align = img.entry, img.low, img.high, img.align
	i.ExecStack = img.execStack
	i.UID, i.GID = privileges(f, st)
	return "", nil
}

// privileges returns whose rights execve of a file gives, -1 for none (bprm_fill_uid).
func privileges(f *os.File, st os.FileInfo) (uid, gid int) {
	uid, gid = -1, -1
	owner, ok := st.Sys().(*syscall.Stat_t)
	var fs syscall.Statfs_t
	const ignored = syscall.MS_NOSUID // ST_NOSUID is the same
	if !ok || st.Mode()&(os.ModeSetuid|os.ModeSetgid) == 0 || syscall.Fstatfs(int(f.Fd()), &fs) != nil || fs.Flags&ignored != 0 {
		return uid, gid
	}
	if st.Mode()&os.ModeSetuid != 0 {
		uid = int(owner.Uid)
	}
	if st.Mode()&os.ModeSetgid != 0 && st.Mode()&0o010 != 0 {
		gid = int(owner.Gid)
	}
	return uid, gid
}

// checkInterp checks the file that PT_INTERP names. The kernel opens it as it
// opens the program, but reads no #! in it (load_elf_binary).
func (o Origin) checkInterp(path, interp string) error {
	if interp == "" {
		return nil
	}
	f, e := o.open(interp)
	if e != nil {
		return e.about(path, interp)
	}
	defer f.Close()
	var head [headSize]byte
	n, err := io.ReadFull(f, head[:])
	if !isELF(head[:n]) {
		return refuse(path, syscall.ELIBBAD, "interpreter %q: not an ELF file", interp)
	}
	st, err := f.Stat()
	if err != nil {
		return refuse(path, syscall.EIO, "interpreter %q: %v", interp, err)
	}
	img, err := parseELF(interp, f, st.Size())
	if err == nil {
		err = fitsNear(interp, img)
	}
	if err != nil {
		e := asError(interp, err)
		if e.Errno == syscall.ENOEXEC {
			e.Errno = syscall.ELIBBAD
		}
		return e.about(path, interp)
	}
	return nil
}

// open opens a file of which execve would accept the inode: regular, with
// execute permission for the effective ids, not on a noexec mount
// (do_open_execat). It never blocks and never opens a device.
func (o Origin) open(name string) (*os.File, *Error) {
	if name == "" {
		return nil, absent(name, syscall.ENOENT)
	}
	at := o.locate(name)
	var st syscall.Stat_t
	if err := syscall.Stat(at, &st); err != nil {
		return nil, failed(name, err)
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, refuse(name, syscall.EACCES, "is a directory")
	default:
		return nil, refuse(name, syscall.EACCES, "not a regular file")
	}
	const (
		atFDCWD   = -0x64
		atEAccess = 0x200
		xOK       = 1
	)
	if err := syscall.Faccessat(atFDCWD, at, xOK, atEAccess); err != nil {
		return nil, failed(name, err)
	}
	// O_NONBLOCK, because the name may have become a FIFO meanwhile.
	fd, err := syscall.Open(at, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, syscall.EACCES) {
		return nil, refuse(name, syscall.EACCES, "no read permission, which translation needs")
	}
	if err != nil {
		return nil, failed(name, err)
	}
	if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		syscall.Close(fd)
		return nil, refuse(name, syscall.EACCES, "not a regular file")
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ownMounts names the mount namespace of this process.
var ownMounts = sync.OnceValue(func() string {
	mounts, _ := os.Readlink("/proc/self/ns/mnt")
	return mounts
})

// locate turns a name of the origin into one for this process. Names below
// /proc/self and /dev/fd mean another process here than there.
func (o Origin) locate(name string) string {
	if o.PID == 0 {
		if o.Dir == "" || strings.HasPrefix(name, "/") {
			return name
		}
		return o.Dir + "/" + name
	}
	proc := "/proc/" + strconv.Itoa(o.PID)
	for _, own := range []struct{ prefix, dir string }{
		{"/proc/self/", "/"}, {"/proc/thread-self/", "/"}, {"/dev/fd/", "/fd/"},
	} {
		if rest, ok := strings.CutPrefix(name, own.prefix); ok {
			return proc + own.dir + rest
		}
	}
	if strings.HasPrefix(name, "/") {
		// An absolute symbolic link in there leads astray: what isn't found is left to the kernel.
		root, err := os.Readlink(proc + "/root")
		mounts, _ := os.Readlink(proc + "/ns/mnt")
		if err != nil || root == "/" && mounts == ownMounts() {
			return name
		}
		return proc + "/root" + name
	}
	if o.Dir != "" {
		return o.Dir + "/" + name
	}
	return proc + "/cwd/" + name
}

// about makes an error about a later file of the chain one about the first.
func (e *Error) about(path, name string) *Error {
	if path == name {
		return e
	}
	return &Error{
		Path: path, Field: e.Field, Errno: e.Errno, ExitStatus: ExitCannotExecute,
		Reason: "interpreter " + strconv.Quote(name) + ": " + e.Reason,
	}
}

func asError(path string, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return unreadable(path, err)
}

func absent(name string, errno syscall.Errno) *Error {
	return &Error{Path: name, Reason: "not found", Errno: errno, ExitStatus: ExitNotFound}
}

// failed describes a system call that failed on a name.
func failed(name string, err error) *Error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return unreadable(name, err)
	}
	if errno == syscall.ENOENT {
		return absent(name, errno)
	}
	return refuse(name, errno, "%s", errno.Error())
}

func isELF(head []byte) bool {
	return len(head) >= 4 && string(head[:4]) == "\x7fELF"
}

func unknownFormat(head []byte) string {
	switch {
	case len(head) == 0:
		return "empty file"
	case head[0] == '#' && len(head) > 1 && head[1] == '!':
		return "no interpreter in its #! line"
	case looksLikeText(head):
		return "text file without #!"
	}
	return "not an ELF file"
}
