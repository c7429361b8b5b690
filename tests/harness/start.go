//go:build unix

package harness

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Running is a run that a test drives itself: it sends signals, looks at
// the processes, or waits for output.
type Running struct {
	Cmd    *exec.Cmd
	Token  string
	Dir    string
	Stdout *syncBuffer
	Stderr *syncBuffer
	t      testing.TB
	done   chan struct{}
}

// Start starts argv as it is, in a session and a directory of its own. All of
// its processes are ended with the test.
func Start(t testing.TB, argv []string, env ...string) *Running {
	t.Helper()
	p := newPlace(t)
	if err := p.fill(Spec{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(Environ(p.dir, p.token), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 5 * time.Second
	r := &Running{Cmd: cmd, Token: p.token, Dir: p.dir, Stdout: &syncBuffer{}, Stderr: &syncBuffer{}, t: t, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = r.Stdout, r.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(r.done) }()
	t.Cleanup(func() {
		KillAll(r.Token, cmd.Process.Pid)
		<-r.done
	})
	return r
}

// Pid is the process that was started: xvrun, or the guest in the native mode.
func (r *Running) Pid() int { return r.Cmd.Process.Pid }

// Processes returns the living processes of the run.
func (r *Running) Processes() []int { return Processes(r.Token, r.Pid()) }

// Guests returns those that aren't xvrun.
func (r *Running) Guests() []int {
	var guests []int
	for _, pid := range r.Processes() {
		if !IsXvrun(pid) {
			guests = append(guests, pid)
		}
	}
	return guests
}

// IsXvrun reports whether a process executes xvrun itself.
func IsXvrun(pid int) bool {
	if Native {
		return false
	}
	path, err := xvrun()
	if err != nil {
		return false
	}
	exe, err := os.Stat("/proc/" + itoa(pid) + "/exe")
	if err != nil {
		return false
	}
	self, err := os.Stat(path)
	return err == nil && os.SameFile(exe, self)
}

// Wait waits for the end of the process that was started.
func (r *Running) Wait(limit time.Duration) syscall.WaitStatus {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(limit):
		r.t.Fatalf("still running after %v\nstdout: %s\nstderr: %s\n%s", limit,
			excerpt(r.Stdout.Bytes()), excerpt(r.Stderr.Bytes()), Dump(r.Token, r.Pid()))
	}
	return r.Cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// WaitOutput waits until stdout contains text.
func (r *Running) WaitOutput(text string, limit time.Duration) {
	r.t.Helper()
	r.Until("output "+text, limit, func() bool { return bytes.Contains(r.Stdout.Bytes(), []byte(text)) })
}

// Until waits for a condition.
func (r *Running) Until(what string, limit time.Duration, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s within %v\nstdout: %s\nstderr: %s\n%s", what, limit,
				excerpt(r.Stdout.Bytes()), excerpt(r.Stderr.Bytes()), Dump(r.Token, r.Pid()))
		}
	}
}

// Gone fails the test if processes of the run are left after limit.
func (r *Running) Gone(limit time.Duration) {
	r.t.Helper()
	if left := waitGone(r.Token, r.Pid(), limit); len(left) > 0 {
		r.t.Fatalf("left behind after %v:\n%s", limit, Dump(r.Token, r.Pid()))
	}
}

// Comm is the name of a process.
func Comm(pid int) string {
	data, _ := os.ReadFile("/proc/" + itoa(pid) + "/comm")
	return strings.TrimSpace(string(data))
}
