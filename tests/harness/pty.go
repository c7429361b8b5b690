//go:build unix

package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"xvrun/tests/need"
)

func itoa(n int) string { return strconv.Itoa(n) }

// A Terminal is a pseudo-terminal with a session on it.
type Terminal struct {
	t      testing.TB
	master *os.File
	cmd    *exec.Cmd
	token  string
	out    syncBuffer
	seen   int // how much of the output earlier expectations have used up
	done   chan struct{}
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	// Not f.Fd(), which makes the file blocking: Close would wait for Read then.
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
	})
	if errno != 0 {
		return errno
	}
	return err
}

type winsize struct{ rows, cols, x, y uint16 }

// OpenTerminal starts argv as the leader of a session on a new terminal.
func OpenTerminal(t testing.TB, argv []string, env ...string) *Terminal {
	t.Helper()
	const (
		tiocsptlck = 0x40045431
		tiocgptn   = 0x80045430
	)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		need.Missing(t, "/dev/ptmx")
	}
	var unlock, n int32
	if err := ioctl(master, tiocsptlck, unsafe.Pointer(&unlock)); err != nil {
		t.Fatal(err)
	}
	if err := ioctl(master, tiocgptn, unsafe.Pointer(&n)); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()

	p := newPlace(t)
	if err := p.fill(Spec{}); err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, master: master, token: p.token, done: make(chan struct{})}
	term.Resize(24, 80)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(Environ(p.dir, p.token), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term.cmd = cmd
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.out.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	go func() { cmd.Wait(); close(term.done) }()
	t.Cleanup(func() {
		KillAll(term.token, cmd.Process.Pid)
		<-term.done
		master.Close()
	})
	return term
}

// Resize changes the window size.
func (term *Terminal) Resize(rows, cols int) {
	term.t.Helper()
	ws := winsize{rows: uint16(rows), cols: uint16(cols)}
	if err := ioctl(term.master, syscall.TIOCSWINSZ, unsafe.Pointer(&ws)); err != nil {
		term.t.Fatal(err)
	}
}

// Type types text.
func (term *Terminal) Type(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// Expect waits for output that matches a regular expression, and returns it.
// Output up to there isn't looked at again.
func (term *Terminal) Expect(pattern string) string {
	term.t.Helper()
	re := regexp.MustCompile(pattern)
	const limit = 20 * time.Second
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		out := term.out.Bytes()
		if m := re.FindIndex(out[term.seen:]); m != nil {
			found := string(out[term.seen:][m[0]:m[1]])
			term.seen += m[1]
			return found
		}
		if time.Now().After(deadline) {
			term.t.Fatalf("no %q on the terminal within %v; it shows:\n%s\n%s", pattern, limit,
				bytes.ReplaceAll(out, []byte("\r\n"), []byte("\n")), Dump(term.token, term.cmd.Process.Pid))
		}
	}
}

// Foreground waits until a process of this name leads the terminal's
// foreground group: signals from the keyboard reach it now.
func (term *Terminal) Foreground(name string) {
	term.t.Helper()
	term.Until(name+" in the foreground", func() bool {
		var group int32
		return ioctl(term.master, syscall.TIOCGPGRP, unsafe.Pointer(&group)) == nil && Comm(int(group)) == name
	})
}

// State waits until a process of this name is in a state of /proc/PID/stat.
func (term *Terminal) State(name string, state byte) {
	term.t.Helper()
	term.Until(fmt.Sprintf("%s in state %c", name, state), func() bool {
		for _, pid := range Processes(term.token, term.Pid()) {
			if st, ok := ReadStat(pid); ok && st.State == state && Comm(pid) == name {
				return true
			}
		}
		return false
	})
}

// Until waits for a condition.
func (term *Terminal) Until(what string, ok func() bool) {
	term.t.Helper()
	const limit = 20 * time.Second
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			term.t.Fatalf("no %s within %v; the terminal shows:\n%s\n%s", what, limit, term.out.Bytes(), Dump(term.token, term.Pid()))
		}
	}
}

// Wait waits for the end of the session's leader.
func (term *Terminal) Wait(limit time.Duration) syscall.WaitStatus {
	term.t.Helper()
	select {
	case <-term.done:
	case <-time.After(limit):
		term.t.Fatalf("still running after %v; the terminal shows:\n%s\n%s", limit, term.out.Bytes(), Dump(term.token, term.cmd.Process.Pid))
	}
	return term.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// Close hangs up.
func (term *Terminal) Close() { term.master.Close() }

// Pid is the process that was started.
func (term *Terminal) Pid() int { return term.cmd.Process.Pid }

// Gone fails the test if processes are left after limit.
func (term *Terminal) Gone(limit time.Duration) {
	term.t.Helper()
	if left := waitGone(term.token, term.Pid(), limit); len(left) > 0 {
		term.t.Fatalf("left behind after %v:\n%s", limit, Dump(term.token, term.Pid()))
	}
}
