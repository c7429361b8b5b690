//go:build linux && amd64

// Package host tests what a host program does with a guest by package xv: fault handlers and page tools.
package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
	"xvrun/xv"
)

func TestMain(m *testing.M) { harness.Main(m) }

// limit is how long a guest may run.
const limit = time.Minute

// builtVar names a directory with guests that are built already, for tests that run as another user.
const builtVar = "XV_TEST_HOST_GUESTS"

// built returns the path of a guest.
func built(t *testing.T, src string) string {
	t.Helper()
	if dir := os.Getenv(builtVar); dir != "" {
		return filepath.Join(dir, filepath.Base(src))
	}
	return harness.Guest(t, src, harness.PIE)
}

// guest makes the command that runs a guest of tests/testdata.
func guest(t *testing.T, src string, args ...string) (cmd *xv.Cmd, out *bytes.Buffer) {
	t.Helper()
	harness.NeedXvrun(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	out = &bytes.Buffer{}
	cmd = xv.CommandContext(ctx, built(t, src), args...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// run runs cmd, which must succeed.
func run(t *testing.T, cmd *xv.Cmd, out *bytes.Buffer, want string) {
	t.Helper()
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// exitError is the end of a guest that did not exit with status 0.
func exitError(t *testing.T, err error) *xv.ExitError {
	t.Helper()
	e, ok := errors.AsType[*xv.ExitError](err)
	if !ok {
		t.Fatalf("end of the guest: %v", err)
	}
	return e
}

// TestThreadsWithChildren runs a guest whose supervisor gets OS threads that the host program has forked children on. The ones
// that have ended and aren't waited for must not be taken for the guest, the others not end with xv's threads.
func TestThreadsWithChildren(t *testing.T) {
	t.Parallel()
	const threads = 48
	var children [2 * threads]*exec.Cmd
	var busy sync.WaitGroup
	forked := make(chan struct{})
	start := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(need.Tool(t, name), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
		return cmd
	}
	busy.Add(threads)
	for i := range threads {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			children[2*i] = start("true")
			children[2*i+1] = start("sleep", "60")
			busy.Done()
			<-forked
		}()
	}
	busy.Wait()
	close(forked)
	cmd, out := guest(t, "c/paged.c")
	cmd.Path, cmd.Args = need.Tool(t, "python3"), []string{"python3", "-c", "import subprocess\n" +
		"for i in range(5): print(subprocess.run('true', env={'PATH': '/none:/nowhere:/usr/bin:/bin'}).returncode)"}
	run(t, cmd, out, strings.Repeat("0\n", 5))
	for _, c := range children {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
		if ws := c.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() && ws.Signal() == syscall.SIGKILL {
			t.Error("a child of the host program was killed: the thread that forked it ended")
		}
	}
}

// TestUser runs the other tests as an ordinary user.
func TestUser(t *testing.T) {
	harness.NeedXvrun(t)
	dir := filepath.Join(harness.WorkDir(), "user")
	mkdir(t, dir, 0o755)
	mkdir(t, filepath.Join(dir, "tmp"), 0o777)
	copyFile(t, "/proc/self/exe", filepath.Join(dir, "test"))
	for _, src := range []string{"c/faulting.c", "c/paged.c", "c/hammered.c"} {
		copyFile(t, built(t, src), filepath.Join(dir, filepath.Base(src)))
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), nil, 0o644); err != nil { // the harness looks for one
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "test"), "-test.run", "^Test(Fault|Trap|Watch|Protect|Page|Track|Tool)")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), builtVar+"="+dir, "XVRUN="+harness.Xvrun(t), "TMPDIR="+filepath.Join(dir, "tmp"), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: harness.OrdinaryUser()}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func mkdir(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	err := os.MkdirAll(dir, mode)
	if err == nil {
		err = os.Chmod(dir, mode) // whatever the umask
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o755)
	}
	if err == nil {
		err = os.Chmod(to, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
