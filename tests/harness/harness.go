//go:build unix

// Package harness builds guest programs, runs them natively and under xvrun,
// and compares what the two runs did.
//
// Environment:
//
//	XVRUN            use this xvrun instead of building cmd/xvrun
//	XV_TEST_FLAGS    extra flags for xvrun, before the program
//	XV_TEST_NATIVE   if 1, the "translated" run is a second native run: it checks the tests themselves
//	XV_TEST_KEEP     keep the temporary directory with the built guests, and print its name
//	CI               if set, a missing tool is a failure, not a skip
package harness

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"xvrun/tests/need"
)

// Soak is the -soak flag: run the long tests too.
var Soak = flag.Bool("soak", false, "run the long tests too")

// limitFlag is the -limit flag: a time limit for each run instead of its own.
var limitFlag = flag.Duration("limit", 0, "time limit of each run, instead of its own")

// Native reports whether the translated run is replaced by a second native run.
var Native = os.Getenv("XV_TEST_NATIVE") == "1"

var (
	work string // temporary directory of this test process
	root string // module root
)

// Main is the TestMain of a package that uses the harness.
func Main(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "xvtest-")
	if err == nil {
		// Other users run the guests too.
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		root, err = moduleRoot()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	work = dir
	// A core file would be one more thing in a guest's working directory.
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	if os.Getenv("XV_TEST_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "harness: keeping", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	return m.Run()
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}

// WorkDir returns the temporary directory of this test process, which is
// removed at its end and readable for every user.
func WorkDir() string { return work }

// ModuleRoot returns the directory of go.mod.
func ModuleRoot() string { return root }

// TestData returns the absolute path of a file under tests/testdata.
func TestData(name ...string) string {
	return filepath.Join(append([]string{root, "tests", "testdata"}, name...)...)
}

var xvrun = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("XVRUN"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(work, "xvrun")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/xvrun")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/xvrun: %v\n%s", err, out)
	}
	return path, nil
})

// Xvrun returns the path of the xvrun command, built on first use.
func Xvrun(t testing.TB) string {
	t.Helper()
	path, err := xvrun()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Command returns the argument vector that runs path under xvrun, or natively
// in the native mode. All runs of a test process share one store of translations.
func Command(t testing.TB, path string, args ...string) []string {
	t.Helper()
	return CommandWith(t, nil, append([]string{path}, args...)...)
}

// CommandWith is Command with more flags for xvrun.
func CommandWith(t testing.TB, flags []string, argv ...string) []string {
	t.Helper()
	if Native {
		return argv
	}
	prefix := append([]string{Xvrun(t), "-store", filepath.Join(work, "store")}, strings.Fields(os.Getenv("XV_TEST_FLAGS"))...)
	return append(append(prefix, flags...), argv...)
}

// Again runs this test binary once more, with a flag for xvrun and these arguments of go test. With -v it shows all that the tests print.
func Again(t testing.TB, xvrunFlag string, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-test.v", "-test.timeout", "3h"}, args...)...)
	cmd.Env = append(os.Environ(), "XVRUN="+Xvrun(t), "XV_TEST_FLAGS="+os.Getenv("XV_TEST_FLAGS")+" "+xvrunFlag)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// NeedXvrun skips a test of xvrun's own behaviour in the native mode.
func NeedXvrun(t testing.TB) {
	t.Helper()
	if Native {
		t.Skip("tests xvrun itself")
	}
}

// NeedSoak skips a long test unless -soak is given.
func NeedSoak(t testing.TB) {
	t.Helper()
	if !*Soak {
		t.Skip("long: run with -soak")
	}
}

// Python returns the real interpreters of the machine: the one that python3
// resolves to (not a version manager's shell script) and the distribution's.
func Python(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		out, err := exec.Command(name, "-c", "import os, sys; print(os.path.realpath(sys.executable))").Output()
		if err != nil {
			continue
		}
		path := strings.TrimSpace(string(out))
		if len(found) == 0 || found[0] != path {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		need.Missing(t, "python3")
	}
	return found
}

// OrdinaryUser returns the credentials of a user without privilege, or nil if the tests run as one already.
func OrdinaryUser() *syscall.Credential {
	if syscall.Geteuid() != 0 {
		return nil
	}
	const nobody = 65534
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}
