//go:build linux && amd64

package xv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"xvrun/loader"
	"xvrun/xv/virt"
)

func TestOutput(t *testing.T) {
	useFake(t)
	out, err := Command("echo", "a", "b").Output()
	if err != nil || string(out) != "a b\n" {
		t.Errorf("Output: %q, %v", out, err)
	}
	out, err = Command("sh", "-c", "echo out; echo err >&2; exit 3").Output()
	e, ok := errors.AsType[*ExitError](err)
	if !ok || e.ExitCode() != 3 || string(e.Stderr) != "err\n" || string(out) != "out\n" || e.Error() != "exit status 3" {
		t.Errorf("Output of a failure: %q, %v", out, err)
	}
	out, err = Command("sh", "-c", "echo out; echo err >&2").CombinedOutput()
	if err != nil || string(out) != "out\nerr\n" {
		t.Errorf("CombinedOutput: %q, %v", out, err)
	}
	c := Command("true")
	c.Stdout = io.Discard
	if _, err := c.Output(); err == nil {
		t.Error("Output with Stdout set gives no error")
	}
	if _, err := c.CombinedOutput(); err == nil {
		t.Error("CombinedOutput with Stdout set gives no error")
	}
}

func TestStdin(t *testing.T) {
	useFake(t)
	c := Command("cat")
	c.Stdin = strings.NewReader("some input")
	if out, err := c.Output(); err != nil || string(out) != "some input" {
		t.Errorf("cat: %q, %v", out, err)
	}
	// A program that leaves its input unread is no error.
	c = Command("true")
	c.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if err := c.Run(); err != nil {
		t.Errorf("true with input: %v", err)
	}
	if out, err := Command("cat").Output(); err != nil || len(out) != 0 {
		t.Errorf("cat of the null device: %q, %v", out, err)
	}
}

func TestPipes(t *testing.T) {
	useFake(t)
	c := Command("sh", "-c", "read line; echo got $line; echo done >&2")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	diag, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StdoutPipe(); err == nil {
		t.Error("a second StdoutPipe gives no error")
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "x y\n"); err != nil {
		t.Error(err)
	}
	got, _ := io.ReadAll(out)
	text, _ := io.ReadAll(diag)
	if err := c.Wait(); err != nil || string(got) != "got x y\n" || string(text) != "done\n" {
		t.Errorf("%q, %q, %v", got, text, err)
	}
	if err := c.Wait(); err == nil {
		t.Error("a second Wait gives no error")
	}
	if err := c.Start(); err == nil {
		t.Error("a second Start gives no error")
	}
}

func TestConfig(t *testing.T) {
	started := useFake(t)
	dir := t.TempDir()
	extra, err := os.Create(filepath.Join(dir, "extra"))
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	c := Command("/bin/sh", "-c", "pwd; echo $V; echo extra >&4")
	c.Env = []string{"V=1", "V=2"}
	c.Dir = dir
	c.ExtraFiles = []*os.File{nil, extra}
	c.Ignore = []syscall.Signal{syscall.SIGPIPE}
	c.Options.CacheSize = 1 << 20
	c.OnStop = func(syscall.Signal) {}
	out, err := c.Output()
	if err != nil || !strings.HasPrefix(string(out), dir) {
		t.Errorf("%q, %v", out, err)
	}
	if b, err := os.ReadFile(extra.Name()); err != nil || string(b) != "extra\n" {
		t.Errorf("descriptor 4: %q, %v", b, err)
	}
	s := <-started
	if s.cfg.CacheSize != 1<<20 || !slices.Equal(s.cfg.Ignored, c.Ignore) || !slices.Equal(s.cfg.Env, c.Env) || s.stop == nil {
		t.Errorf("configuration %+v", s.cfg)
	}
	c.Env = nil
	if env := c.Environ(); !slices.Contains(env, "PWD="+dir) {
		t.Errorf("PWD is not set to %s", dir)
	}
}

func TestErrors(t *testing.T) {
	useFake(t)
	t.Setenv("PATH", t.TempDir()+":/usr/bin:/bin")
	denied := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "denied")
	if err := os.WriteFile(denied, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		status int
		is     error
	}{
		{"no-such-program", loader.ExitNotFound, fs.ErrNotExist},
		{"denied", loader.ExitCannotExecute, fs.ErrPermission},
		{"./no-such-program", loader.ExitNotFound, fs.ErrNotExist},
		{"/", loader.ExitCannotExecute, syscall.EACCES},
	} {
		err := Command(c.name).Run()
		e, ok := errors.AsType[*loader.Error](err)
		if !ok || e.ExitStatus != c.status || !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := (&Cmd{}).Run(); err == nil {
		t.Error("an empty Cmd gives no error")
	}
	if err := (&Cmd{Path: "/bin/true", Cancel: func() error { return nil }}).Run(); err == nil {
		t.Error("Cancel without a context gives no error")
	}
	if err := Command("true").Wait(); err == nil {
		t.Error("Wait before Start gives no error")
	}
}

func TestStartFailureClosesPipes(t *testing.T) {
	real := start
	defer func() { start = real }()
	failure := errors.New("no")
	start = func(*virt.Config) (session, error) { return nil, failure }
	c := Command("true")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); !errors.Is(err, failure) {
		t.Errorf("Start: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("pipe after a failed Start: %v", err)
	}
}

func TestSignals(t *testing.T) {
	useFake(t)
	c := Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	e, ok := errors.AsType[*ExitError](err)
	if !ok || !e.Signaled() || e.Signal() != syscall.SIGTERM || e.ExitCode() != -1 || e.Error() != "signal: terminated" {
		t.Errorf("Wait: %v", err)
	}
	if err := c.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Kill after the end: %v", err)
	}
	c.Process.WaitAll()
}

func TestContext(t *testing.T) {
	useFake(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	c := CommandContext(ctx, "sleep", "60")
	if err := c.Run(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run: %v", err)
	}
	if c.ProcessState.Signal() != syscall.SIGKILL {
		t.Errorf("state %v", c.ProcessState)
	}
	if err := CommandContext(ctx, "true").Start(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start with a context that is done: %v", err)
	}
	if err := CommandContext(t.Context(), "true").Run(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestWaitDelay(t *testing.T) {
	useFake(t)
	// The grandchild keeps the pipe open after the program has ended.
	c := Command("sh", "-c", "sleep 5 & echo started")
	var out bytes.Buffer
	c.Stdout = &out
	c.WaitDelay = 50 * time.Millisecond
	begin := time.Now()
	if err := c.Run(); !errors.Is(err, ErrWaitDelay) {
		t.Errorf("Run: %v", err)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("Run took %v", d)
	}
}

func TestString(t *testing.T) {
	if s := Command("/bin/echo", "a").String(); s != "/bin/echo a" {
		t.Errorf("String: %q", s)
	}
	var state *ProcessState
	if state.ExitCode() != -1 || state.String() != "<nil>" {
		t.Errorf("nil state: %d, %v", state.ExitCode(), state)
	}
}
