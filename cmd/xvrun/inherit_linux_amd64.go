package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"

	"xvrun/cmd/xvrun/internal/inherited"
	"xvrun/xv"
)

// inheritance is what a program executed in xvrun's place would have got and
// the Go runtime hides or changes.
type inheritance struct {
	env     []string
	files   []*os.File // by descriptor; nil: closed
	ignored []syscall.Signal
}

func inherit() *inheritance {
	return &inheritance{env: environ(), files: descriptors(), ignored: ignored()}
}

func (i *inheritance) pass(cmd *xv.Cmd) {
	cmd.Env, cmd.Ignore = i.env, i.ignored
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = i.files[0], i.files[1], i.files[2], i.files[3:]
}

// environ returns the environment with its duplicates, which os.Environ drops.
func environ() []string {
	text, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	env := strings.Split(string(text), "\x00")
	return env[:len(env)-1] // each string ends with a zero
}

// descriptors returns the inherited descriptors: the standard ones, and those from 3 on that are not
// close-on-exec, as the runtime's own all are.
func descriptors() []*os.File {
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for fd := range files {
		if inherited.Closed(fd) {
			files[fd] = nil // the runtime has opened /dev/null
		}
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return files
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return files
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3 {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno != 0 || flags&syscall.FD_CLOEXEC != 0 {
			continue
		}
		for len(files) <= fd {
			files = append(files, nil)
		}
		files[fd] = os.NewFile(uintptr(fd), "descriptor "+name)
	}
	return files
}

const lastSignal = 64

// sigIgn is SIG_IGN (signal(7)).
const sigIgn = 1

// ignored returns the signals that xvrun was started with ignored. Where package inherited doesn't know,
// these are the few that the runtime leaves so.
func ignored() []syscall.Signal {
	var list []syscall.Signal
	current := uint64(0)
	if !inherited.Known() {
		current = currentlyIgnored()
	}
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if current>>(sig-1)&1 != 0 || inherited.Ignored(sig) {
			list = append(list, sig)
		}
	}
	return list
}

// currentlyIgnored reads the set of ignored signals from /proc (proc_pid_status(5)).
func currentlyIgnored() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("\nSigIgn:\t"))
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(value), 16, 64)
	if err != nil {
		return 0
	}
	return set
}
