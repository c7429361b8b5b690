//go:build linux && amd64

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var xvrun string // the command under test

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "xvrun")
	if err != nil {
		panic(err)
	}
	xvrun = filepath.Join(dir, "xvrun")
	os.Setenv("XDG_CACHE_HOME", dir)
	out, err := exec.Command("go", "build", "-o", xvrun, ".").CombinedOutput()
	status := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
	} else {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args    string
		program string
		ok      bool
	}{
		{"true", "true", true},
		{"-v -stats true -v", "true -v", true},
		{"-- -odd x", "-odd x", true},
		{"-v -o trace a -- b", "a -- b", true},
		{"-h", "", true},
		{"-version", "", true},
		{"", "", false},
		{"-unknown a", "", false},
		{"-o trace a", "", false},
		{"-o", "", false},
	} {
		o, err := parse(strings.Fields(c.args))
		if (err == nil) != c.ok || err == nil && strings.Join(o.program, " ") != c.program {
			t.Errorf("%q: %+v, %v", c.args, o, err)
		}
	}
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("echo\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string // standard error
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "exit 255"}, 255, ""},
		{[]string{}, 125, "xvrun: no program given (xvrun -h explains)\n"},
		{[]string{"-o", dir, "-v", "true"}, 125, "xvrun: open " + dir + ": is a directory\n"},
		{[]string{script}, 126, fmt.Sprintf("xvrun: %q: cannot execute: text file without #!\n", script)},
		{[]string{dir}, 126, fmt.Sprintf("xvrun: %q: cannot execute: is a directory\n", dir)},
		{[]string{"no-such-program"}, 127, "xvrun: \"no-such-program\": not found in PATH\n"},
		{[]string{"./none"}, 127, "xvrun: \"./none\": not found\n"},
	} {
		var diag bytes.Buffer
		cmd := exec.Command(xvrun, c.args...)
		cmd.Stderr = &diag
		err := cmd.Run()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != c.status || diag.String() != c.want {
			t.Errorf("xvrun %q: status %d, %q, want %d, %q", c.args, got, &diag, c.status, c.want)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGTERM, syscall.SIGPIPE, syscall.Signal(40)} {
		cmd := exec.Command(xvrun, "sh", "-c", fmt.Sprintf("kill -%d $$", sig))
		cmd.Run()
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ws.Signaled() || ws.Signal() != sig || ws.CoreDump() {
			t.Errorf("program killed by %v: xvrun ends with %v", sig, cmd.ProcessState)
		}
	}
}

func TestOutputs(t *testing.T) {
	out, err := exec.Command(xvrun, "-h").Output()
	if err != nil || string(out) != usage {
		t.Errorf("-h: %q, %v", out, err)
	}
	out, err = exec.Command(xvrun, "-version").Output()
	if err != nil || !strings.HasPrefix(string(out), "xvrun ") {
		t.Errorf("-version: %q, %v", out, err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	both, err := exec.Command(xvrun, "-v", "-stats", "-o", trace, "echo", "x").CombinedOutput()
	if err != nil || string(both) != "x\n" {
		t.Errorf("with -o: %q, %v", both, err)
	}
	text, err := os.ReadFile(trace)
	if err != nil || !bytes.Contains(text, []byte("regions translated")) || bytes.Count(text, []byte("\n")) < 20 {
		t.Errorf("trace of %d bytes, %v", len(text), err)
	}
}

// TestClosedError has xvrun report something while its standard error is closed, and the program open a
// file that gets the number 2.
func TestClosedError(t *testing.T) {
	cmd := exec.Command("sh", "-c", `"$0" -stats sh -c 'true < file; exec > file; echo x >&2 || echo y' 2>&-`, xvrun)
	cmd.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(cmd.Dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	text, _ := os.ReadFile(filepath.Join(cmd.Dir, "file"))
	if err != nil || len(out) > 0 || string(text) != "y\n" {
		t.Errorf("%v, output %q, file %q", err, out, text)
	}
}

// TestInherited compares what a program finds with what it finds natively:
// environment, descriptors, ignored signals.
func TestInherited(t *testing.T) {
	extra, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	for _, c := range []struct{ name, script string }{
		{"environment", "%s env -u _"},
		{"descriptors", "%s sh -c 'for i in 3 4 5 6 7 8 9; do readlink /proc/self/fd/$i | grep -v /proc; done; true'"},
		{"ignored", "trap '' PIPE TERM USR1 QUIT INT HUP TSTP CHLD; %s grep SigIgn /proc/self/status"},
		{"not ignored", "%s grep SigIgn /proc/self/status"},
	} {
		var got [2]string
		for i, prefix := range []string{"", xvrun} {
			cmd := exec.Command("sh", "-c", fmt.Sprintf(c.script, prefix))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "A=1", "A=2", "B=", "odd"}
			cmd.ExtraFiles = []*os.File{nil, extra, nil, extra}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", c.name, err, out)
			}
			lines := strings.Split(string(out), "\n")
			slices.Sort(lines)
			got[i] = strings.Join(lines, "\n")
		}
		if got[0] != got[1] {
			t.Errorf("%s natively:\n%s\nunder xvrun:\n%s", c.name, got[0], got[1])
		}
	}
	// A shell would drop duplicates of the environment.
	cmd := exec.Cmd{Path: xvrun, Args: []string{"xvrun", "/bin/cat", "/proc/self/environ"}}
	attr := &syscall.ProcAttr{Env: []string{"A=1", "A=2", "", "odd"}}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	attr.Files = []uintptr{0, w.Fd(), 2}
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, attr)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.ReadFrom(r)
	syscall.Wait4(pid, nil, 0, nil)
	if out.String() != "A=1\x00A=2\x00\x00odd\x00" {
		t.Errorf("environment %q", &out)
	}
}

func TestOwnPlace(t *testing.T) {
	dir := t.TempDir()
	if !ownPlace(dir) || !ownPlace(filepath.Join(dir, "a", "b")) {
		t.Error("an own directory")
	}
	if os.Geteuid() != 0 {
		if ownPlace("/usr") || ownPlace("/nosuchdirectory") {
			t.Error("directories of root")
		}
		return
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if ownPlace(dir) || ownPlace(filepath.Join(dir, "a")) {
		t.Error("a directory of another user")
	}
}
