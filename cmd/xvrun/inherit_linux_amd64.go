package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"

	_ "xvrun/cmd/xvrun/internal/hugeheap"
	"xvrun/cmd/xvrun/internal/inherited"
	"xvrun/xv"
)

// inheritance is what a program executed in xvrun's place would have got and
// the Go runtime hides or changes.
type inheritance struct {
	env      []string
	standard [3]*os.File // nil: closed
	others   []int       // descriptors from 3 on; the program inherits them without further ado
	ignored  []syscall.Signal
	limits   []xv.Limit
}

func inherit() (*inheritance, error) {
	l, err := limits() // first: without a file left nothing else works
	if err != nil {
		return nil, err
	}
	return &inheritance{env: environ(), standard: standard(), others: others(), ignored: ignored(), limits: l}, nil
}

func (i *inheritance) pass(cmd *xv.Cmd) {
	cmd.Env, cmd.Ignore, cmd.Limits = i.env, i.ignored, i.limits
	cmd.Stdin, cmd.Stdout, cmd.Stderr = i.standard[0], i.standard[1], i.standard[2]
}

// release gives up what only the program needs: whoever reads from a pipe sees its end when the program
// closes its descriptor. Standard error is kept, for messages.
func (i *inheritance) release() {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 2 {
		syscall.Dup3(int(null.Fd()), fd, 0)
	}
	for _, fd := range i.others {
		syscall.Close(fd)
	}
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

// standard returns the standard descriptors. Those that were closed are /dev/null here.
func standard() [3]*os.File {
	files := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	for fd := range files {
		if inherited.Closed(fd) {
			files[fd] = nil
		}
	}
	return files
}

// others lists the inherited descriptors from 3 on: those that are not close-on-exec, as the runtime's own
// all are.
func others() (list []int) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3 {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			list = append(list, fd)
		}
	}
	return list
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
