package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// program is a run of one of the machine's own programs.
type program struct {
	name    string
	tool    string
	args    []string
	stdin   string
	files   []harness.File
	exit    int
	timeout time.Duration
}

// Placeholders for the fixtures, which are made when first needed.
const (
	argTree  = "<tree>"
	argLines = "<lines>"
)

func script(parts ...string) string { return harness.TestData(parts...) }

func programs() []program {
	return []program{
		{name: "true", tool: "true"},
		{name: "false", tool: "false", exit: 1},
		{name: "echo", tool: "echo", args: []string{"hello", "", "a  b", "-n", "\\t"}},
		{name: "echo-n", tool: "echo", args: []string{"-ne", "a\\tb\\n\\x41"}},
		{name: "cat", tool: "cat", args: []string{"-", "f"}, stdin: "from stdin\n", files: []harness.File{{Name: "f", Data: "from file\n"}}},
		{name: "cat-missing", tool: "cat", args: []string{"nosuchfile"}, exit: 1},
		{name: "env", tool: "env", args: []string{"-u", "HOME", "A=1", "sh", "-c", "echo $A ${HOME-unset}"}},
		{name: "pwd", tool: "pwd"},
		{name: "id", tool: "id"},
		{name: "uname", tool: "uname", args: []string{"-a"}},
		{name: "nproc", tool: "nproc"},
		{name: "date", tool: "date", args: []string{"-u", "-d", "@86400"}},
		{name: "ls-tree", tool: "ls", args: []string{"-lR", argTree}},
		{name: "ls-color", tool: "ls", args: []string{"--color=always", "-la", argTree}},
		{name: "find", tool: "find", args: []string{argTree, "-name", "*7*", "-size", "-2", "-printf", "%p %s %m\\n"}},
		{name: "find-exec", tool: "find", args: []string{argTree + "/d3", "-name", "*1", "-exec", "wc", "-c", "{}", ";"}},
		{name: "du", tool: "du", args: []string{"-a", "--apparent-size", argTree + "/d1"}},
		{name: "sort", tool: "sort", args: []string{"-o", "sorted", argLines}, timeout: 2 * time.Minute},
		{name: "sort-n", tool: "sort", args: []string{"--parallel=2", "-k2,2n", "-S", "2M", "-o", "sorted", argLines}, timeout: 2 * time.Minute},
		{name: "wc", tool: "wc", args: []string{argLines}},
		{name: "md5sum", tool: "md5sum", args: []string{argLines}},
		{name: "grep-r", tool: "grep", args: []string{"-r", "-n", "value 7.*3$", argTree}},
		{name: "grep-c", tool: "grep", args: []string{"-cE", "(a|e).*(12|34)", argLines}},
		{name: "grep-none", tool: "grep", args: []string{"nothing like it", argLines}, exit: 1},
		{name: "awk", tool: "awk", args: []string{"{n[$2%10]+=length($1)} END {for (i=0;i<10;i++) printf \"%d %d %.3f\\n\", i, n[i], n[i]/3}", argLines}},
		{name: "sed", tool: "sed", args: []string{"-n", "-e", "s/\\([a-z]\\)\\([a-z]*\\)/\\2\\1/p", "-e", "/9999/q", argLines}},
		{name: "sed-i", tool: "sed", args: []string{"-i.bak", "s/a/A/g;2d", "f"}, files: []harness.File{{Name: "f", Data: "banana\ngone\nlast\n"}}},
		{name: "xargs", tool: "xargs", args: []string{"-n", "2", "-P", "1", "echo"}, stdin: "1 2 3 4 5"},
		{name: "perl", tool: "perl", args: []string{"-e", `my %h; $h{$_ % 17} += $_ for 1..200000; print join(",", map {$h{$_}} sort keys %h), "\n"; print scalar reverse("abc"), "\n"; system("echo child; exit 3"); print $? >> 8, "\n"; eval { die "oops\n" }; print $@; exit 2`}, exit: 2},
		{name: "bash-basics", tool: "bash", args: []string{script("sh", "basics.sh"), "one", "two words"}, exit: 5},
		{name: "bash-jobs", tool: "bash", args: []string{script("sh", "jobs.sh")}},
		{name: "dash-pipeline", tool: "dash", args: []string{"-c", "seq 20000 | sort -n | uniq | tail -1; (exit 4); echo $?; kill -KILL $$"}},
		{name: "archive", tool: "bash", args: []string{script("sh", "archive.sh"), argTree + "/d1"}},
		{name: "compile", tool: "bash", args: []string{script("sh", "compile.sh")}, timeout: 3 * time.Minute},
		{name: "valgrind", tool: "valgrind", args: []string{"-q", "--tool=none", "sh", "-c", "echo $((6 * 7)); (exit 4); exit $?"}, exit: 4, timeout: 2 * time.Minute},
		{name: "luajit", tool: "luajit", args: []string{script("lua", "jit.lua")}, timeout: 2 * time.Minute},
		{name: "node", tool: "node", args: []string{script("js", "script.js")}, exit: 6, timeout: 3 * time.Minute},
	}
}

func TestPrograms(t *testing.T) { runPrograms(t, programs()) }

// runPrograms runs them with flags for xvrun.
func runPrograms(t *testing.T, list []program, flags ...string) {
	for _, p := range list {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			c := harness.Case{Spec: harness.Spec{
				Argv:    append([]string{need.Tool(t, p.tool)}, fixtures(t, p.args)...),
				Stdin:   p.stdin,
				Files:   p.files,
				Timeout: p.timeout,
				Flags:   flags,
			}, Exit: p.exit}
			if p.name == "dash-pipeline" {
				c.Signal = 9
			}
			if p.name == "compile" {
				need.Tool(t, "gcc")
			}
			harness.Compare(t, c)
		})
	}
}

// TestPython runs each script with each interpreter of the machine.
func TestPython(t *testing.T) { runPython(t, harness.Python(t)) }

// runPython runs each script with these interpreters and flags for xvrun.
func runPython(t *testing.T, interpreters []string, flags ...string) {
	for _, s := range []program{
		{name: "basics", args: []string{"an argument"}, stdin: "some input", exit: 9},
		{name: "threads"},
		{name: "processes"},
		{name: "sqlite"},
	} {
		t.Run(s.name, func(t *testing.T) {
			for i, python := range interpreters {
				t.Run([]string{"first", "system"}[i], func(t *testing.T) {
					t.Parallel()
					harness.Compare(t, harness.Case{Spec: harness.Spec{
						Argv:    append([]string{python, script("py", s.name+".py")}, s.args...),
						Env:     []string{"PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1"},
						Stdin:   s.stdin,
						Timeout: 2 * time.Minute,
						Flags:   flags,
					}, Exit: s.exit})
				})
			}
		})
	}
}

// fixtures replaces the placeholders in a program's arguments.
func fixtures(t *testing.T, args []string) []string {
	t.Helper()
	out := make([]string, len(args))
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, argTree):
			arg = must(t, tree) + strings.TrimPrefix(arg, argTree)
		case arg == argLines:
			arg = must(t, lines)
		}
		out[i] = arg
	}
	return out
}

func must(t *testing.T, fixture func() (string, error)) string {
	t.Helper()
	path, err := fixture()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// tree is a folder of 3000 files of fixed contents and times.
var tree = sync.OnceValues(func() (string, error) {
	top := filepath.Join(harness.WorkDir(), "tree")
	rng := rand.New(rand.NewPCG(1, 2))
	for d := range 30 {
		dir := filepath.Join(top, fmt.Sprintf("d%d", d), fmt.Sprintf("sub %d", d%7))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		for f := range 100 {
			var b strings.Builder
			for range rng.IntN(40) {
				fmt.Fprintf(&b, "line with value %d of %d\n", rng.IntN(1000), f)
			}
			name := filepath.Join(dir, fmt.Sprintf("file%d", f))
			if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
				return "", err
			}
			when := time.Unix(1600000000+int64(d*1000+f), 0)
			if err := os.Chtimes(name, when, when); err != nil {
				return "", err
			}
		}
		if err := os.Symlink("file1", filepath.Join(dir, "link")); err != nil {
			return "", err
		}
	}
	return top, nil
})

// lines is a file of a million lines.
var lines = sync.OnceValues(func() (string, error) {
	rng := rand.New(rand.NewPCG(3, 4))
	var b []byte
	for range 1000000 {
		for range 1 + rng.IntN(8) {
			b = append(b, byte('a'+rng.IntN(26)))
		}
		b = append(b, ' ')
		b = append(b, itoa(rng.IntN(1000000))...)
		b = append(b, '\n')
	}
	path := filepath.Join(harness.WorkDir(), "lines")
	return path, os.WriteFile(path, b, 0o644)
})
