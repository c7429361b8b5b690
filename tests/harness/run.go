//go:build unix

package harness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// Spec says what to run. The zero value of each field is a sensible default.
type Spec struct {
	Argv    []string      // the program, by absolute path, and its arguments
	Env     []string      // added to the fixed environment
	Stdin   string        // contents of standard input
	Files   []File        // what the working directory contains at the start
	Timeout time.Duration // DefaultTimeout if zero
	User    *syscall.Credential
	Flags   []string // of xvrun
	Wrap    []string // a native command that executes the rest of its arguments
}

// File is a file or, if the name ends in a slash, a directory.
type File struct {
	Name string
	Data string
	Mode fs.FileMode // 0644 if zero
}

// DefaultTimeout is the time limit of one run.
const DefaultTimeout = 60 * time.Second

// Result is what a run did.
type Result struct {
	Stdout, Stderr []byte
	Status         syscall.WaitStatus
	Files          map[string]string // name: type, mode and contents
	Err            error             // the run itself failed, or took too long, or left processes behind
	Elapsed        time.Duration
}

// Reasons in Result.Err.
var (
	ErrLate = errors.New("still running at the time limit")
	ErrLeft = errors.New("processes left behind")
)

var tokens atomic.Int64

// NewToken returns a name that marks the processes of one run: it is the value
// of XVTEST in their environment.
func NewToken() string {
	return fmt.Sprintf("%d.%d", os.Getpid(), tokens.Add(1))
}

// Environ is the environment of a guest. It doesn't depend on that of the
// test, except for where the tools are.
func Environ(dir, token string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"TMPDIR=/tmp",
		"LC_ALL=C",
		"TZ=UTC0",
		"TERM=dumb",
		"USER=guest",
		"XVTEST=" + token,
	}
}

// place is the working directory of a case. Both runs use the same path, one
// after the other, so that a program that prints where it is prints the same.
type place struct {
	dir   string
	token string
}

func newPlace(t testing.TB) place {
	t.Helper()
	top := t.TempDir()
	// t.TempDir's parents are private to the test's user.
	for d := top; strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	return place{filepath.Join(top, "w"), NewToken()}
}

func (p place) fill(spec Spec) error {
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	for _, f := range spec.Files {
		name := filepath.Join(p.dir, f.Name)
		if strings.HasSuffix(f.Name, "/") {
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		// No other test may fork meanwhile: its child would hold the file open for writing until it
		// has executed its own program, and this one could not be executed (ETXTBSY).
		syscall.ForkLock.RLock()
		err := os.WriteFile(name, []byte(f.Data), mode)
		syscall.ForkLock.RUnlock()
		if err != nil {
			return err
		}
		// Files have one fixed time, so that listings are equal.
		when := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
		if err := os.Chtimes(name, when, when); err != nil {
			return err
		}
	}
	if spec.User != nil {
		return filepath.WalkDir(p.dir, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Chown(name, int(spec.User.Uid), int(spec.User.Gid))
		})
	}
	return nil
}

// Run runs spec natively in a scratch directory.
func Run(t testing.TB, spec Spec) Result {
	t.Helper()
	return runIn(newPlace(t), spec, spec.Argv)
}

// RunXV runs spec under xvrun in a scratch directory.
func RunXV(t testing.TB, spec Spec) Result {
	t.Helper()
	return runIn(newPlace(t), spec, CommandWith(t, spec.Flags, spec.Argv...))
}

// RunArgv runs argv as it is, with everything else from spec.
func RunArgv(t testing.TB, argv []string, spec Spec) Result {
	t.Helper()
	return runIn(newPlace(t), spec, argv)
}

// runIn runs argv in p. The guest gets a session of its own, so that it has no
// terminal and all its processes can be found and ended.
func runIn(p place, spec Spec, argv []string) (res Result) {
	if err := p.fill(spec); err != nil {
		return Result{Err: err}
	}
	if len(spec.Wrap) > 0 {
		argv = append(append([]string{}, spec.Wrap...), argv...)
	}
	var stdout, stderr syncBuffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = p.dir
	// A user's own directories come first in spec.Env: the last one counts.
	cmd.Env = append(Environ(p.dir, p.token), spec.Env...)
	cmd.Stdin = strings.NewReader(spec.Stdin)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: spec.User}
	// A process left behind may hold the pipes open.
	cmd.WaitDelay = 5 * time.Second

	limit := spec.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	if *limitFlag > 0 {
		limit = *limitFlag
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{Err: err}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	var err error
	select {
	case err = <-done:
	case <-time.After(limit):
		dump := Dump(p.token, cmd.Process.Pid)
		// A Go program answers SIGQUIT with the stacks of its goroutines.
		cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		KillAll(p.token, cmd.Process.Pid)
		res.Err = fmt.Errorf("%w, %v\nstdout: %s\nstderr: %s\n%s", ErrLate, limit,
			excerpt(stdout.Bytes()), excerpt(stderr.Bytes()), dump)
		return res
	}
	res.Elapsed = time.Since(start)
	res.Stdout, res.Stderr = stdout.Bytes(), stderr.Bytes()
	res.Status = cmd.ProcessState.Sys().(syscall.WaitStatus)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		res.Err = err
	}
	if left := waitGone(p.token, cmd.Process.Pid, 3*time.Second); len(left) > 0 {
		dump := Dump(p.token, cmd.Process.Pid)
		KillAll(p.token, cmd.Process.Pid)
		res.Err = errors.Join(res.Err, fmt.Errorf("%w:\n%s", ErrLeft, dump))
	}
	files, err := snapshot(p.dir)
	res.Files = files
	res.Err = errors.Join(res.Err, err)
	return res
}

// snapshot describes every file below dir.
func snapshot(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if len(data) < 1000 && utf8.Valid(data) {
				what += fmt.Sprintf(" %d bytes:\n%s", len(data), data)
			} else {
				what += fmt.Sprintf(" %d bytes, sha256 %.8x", len(data), sha256.Sum256(data))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			what += " -> " + target
		}
		files[rel] = what
		return nil
	})
	return files, err
}

// syncBuffer can be read while the copying goroutine still writes.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

func excerpt(b []byte) string {
	const max = 4000
	if len(b) <= max {
		return string(b)
	}
	return fmt.Sprintf("%s\n... %d bytes ...\n%s", b[:max/2], len(b)-max, b[len(b)-max/2:])
}
