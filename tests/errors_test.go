package tests

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestErrors covers what xvrun itself reports: its exit status, and one line
// on stderr that names file and reason.
func TestErrors(t *testing.T) {
	harness.NeedXvrun(t)
	hello := readFile(t, harness.Guest(t, "c/hello.c", harness.PIE))
	// patch returns the program with some bytes changed.
	patch := func(off int, b ...byte) string {
		data := bytes.Clone(hello)
		copy(data[off:], b)
		return string(data)
	}
	le := binary.LittleEndian
	phoff := int(le.Uint64(hello[32:]))
	// field returns the file offset of a field of the first program header of a type.
	field := func(typ uint32, off int) int {
		for i := range int(le.Uint16(hello[56:])) {
			ph := phoff + i*56
			if le.Uint32(hello[ph:]) == typ {
				return ph + off
			}
		}
		t.Fatalf("no program header of type %d", typ)
		return 0
	}
	const ptLoad, ptInterp = 1, 3
	interp := regexp.MustCompile(`/lib64/ld-linux-x86-64\.so\.2`).FindIndex(hello)
	if interp == nil {
		t.Fatal("no interpreter in a dynamic program")
	}
	huge := []byte{0, 0, 0, 0, 0, 0, 0, 0x40}

	for _, c := range []struct {
		name   string
		data   string
		mode   os.FileMode
		args   []string // instead of the file
		status string   // regular expression
		reason string   // regular expression
	}{
		{name: "not-found", args: []string{"./nosuchfile"}, status: "127", reason: "nosuchfile.*(no such file|not found)"},
		{name: "not-in-path", args: []string{"nosuchcommand"}, status: "127", reason: "nosuchcommand.*not found"},
		{name: "not-a-folder", args: []string{"/dev/null/x"}, status: "12[67]", reason: "/dev/null/x"},
		{name: "directory", args: []string{"/usr"}, status: "126", reason: "/usr.*directory"},
		{name: "no-permission", data: string(hello), mode: 0o644, status: "126", reason: "prog.*permission"},
		{name: "device", args: []string{"/dev/null"}, status: "126", reason: "/dev/null"},
		{name: "empty", data: "", status: "126", reason: "prog"},
		{name: "text", data: "just text\n", status: "126", reason: "prog"},
		{name: "script-without-interpreter", data: "#!/no/such/interpreter\n", status: "12[67]", reason: "/no/such/interpreter"},
		{name: "script-with-empty-line", data: "#!\n", status: "126", reason: "prog"},
		{name: "32-bit", data: patch(4, 1), status: "126", reason: "prog.*32-bit"},
		{name: "other-machine", data: patch(18, 183, 0), status: "126", reason: "(?i)prog.*(aarch64|machine)"},
		{name: "big-endian", data: patch(5, 2), status: "126", reason: "(?i)prog.*(endian|data)"},
		{name: "object-file", data: patch(16, 1, 0), status: "126", reason: "(?i)prog.*(type|relocatable)"},
		{name: "core-file", data: patch(16, 4, 0), status: "126", reason: "(?i)prog.*(type|core)"},
		{name: "phentsize", data: patch(54, 7, 0), status: "126", reason: "(?i)prog.*phentsize"},
		{name: "phnum", data: patch(56, 0, 0), status: "126", reason: "(?i)prog.*(phnum|program header|segment)"},
		{name: "phoff", data: patch(32, huge...), status: "126", reason: "(?i)prog.*(phoff|program header)"},
		{name: "truncated-header", data: string(hello[:40]), status: "126", reason: "(?i)prog.*(short|truncated|header)"},
		{name: "truncated-table", data: string(hello[:100]), status: "126", reason: "(?i)prog.*(short|truncated|header)"},
		{name: "segment-offset", data: patch(field(ptLoad, 8), huge...), status: "126", reason: "(?i)prog.*(offset|segment)"},
		{name: "segment-address", data: patch(field(ptLoad, 16), 0, 0, 0, 0, 0, 0, 0, 0x80), status: "126", reason: "(?i)prog.*(vaddr|address|segment)"},
		{name: "segment-alignment", data: patch(field(ptLoad, 16), 3), status: "126", reason: "(?i)prog.*(align|vaddr|offset)"},
		{name: "segment-sizes", data: patch(field(ptLoad, 32), huge...), status: "126", reason: "(?i)prog.*(filesz|memsz|size)"},
		{name: "missing-interpreter", data: patch(interp[0], []byte("/lib64/ld-nowhere")...), status: "12[67]", reason: "/lib64/ld-nowhere"},
		{name: "interpreter-name", data: patch(field(ptInterp, 32), huge...), status: "126", reason: "(?i)prog.*interp"},
		{name: "no-program", args: []string{}, status: "125", reason: "(?i)usage|program"},
		{name: "unknown-flag", args: []string{"-nosuchflag", "true"}, status: "125", reason: "nosuchflag"},
		{name: "bad-output", args: []string{"-v", "-o", "/no/such/dir/file", "true"}, status: "125", reason: "/no/such/dir/file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mode := c.mode
			if mode == 0 {
				mode = 0o755
			}
			args := c.args
			if args == nil {
				args = []string{"./prog"}
			}
			res := harness.RunArgv(t, append([]string{harness.Xvrun(t)}, args...), harness.Spec{Files: []harness.File{{Name: "prog", Data: c.data, Mode: mode}}})
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if !res.Status.Exited() || !regexp.MustCompile("^("+c.status+")$").MatchString(itoa(res.Status.ExitStatus())) {
				t.Errorf("%s, want exit status %s", harness.StatusString(res.Status), c.status)
			}
			text := strings.TrimSuffix(string(res.Stderr), "\n")
			if !regexp.MustCompile(c.reason).MatchString(text) {
				t.Errorf("stderr doesn't match %q: %s", c.reason, text)
			}
			if c.name != "no-program" && c.name != "unknown-flag" && strings.Contains(text, "\n") {
				t.Errorf("stderr has more than one line: %s", text)
			}
			if len(res.Stdout) > 0 {
				t.Errorf("stdout: %s", res.Stdout)
			}
		})
	}
}

// TestCommandLine covers xvrun's flags.
func TestCommandLine(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string // regular expressions
		file           string // must not be empty
	}{
		{name: "path", args: []string{"echo", "hi"}, stdout: "^hi\n$", stderr: "^$"},
		{name: "guest-flags", args: []string{"echo", "-v", "--", "-stats"}, stdout: "^-v -- -stats\n$", stderr: "^$"},
		{name: "end-of-flags", args: []string{"--", "echo", "-v"}, stdout: "^-v\n$", stderr: "^$"},
		{name: "relative", args: []string{"./script", "x"}, stdout: "^script ./script x\n$", stderr: "^$", status: 3},
		{name: "stats", args: []string{"-stats", "true"}, stdout: "^$", stderr: "(?i)regions"},
		{name: "stats-status", args: []string{"-stats", "sh", "-c", "exit 9"}, status: 9, stderr: "(?i)regions"},
		{name: "trace", args: []string{"-v", "echo", "hi"}, stdout: "^hi\n$", stderr: "mmap"},
		{name: "trace-file", args: []string{"-v", "-o", "trace", "echo", "hi"}, stdout: "^hi\n$", stderr: "^$", file: "trace"},
		{name: "trace-full", args: []string{"-v", "-o", "/dev/full", "sh", "-c", "exit 9"}, status: 9, stderr: "^xvrun: warning: the trace .*/dev/full: no space.*\n$"},
		{name: "stats-full", args: []string{"-stats", "-trap-print", "-o", "/dev/full", "echo", "hi"}, stdout: "^hi\n$", stderr: "^xvrun: warning: the report .*/dev/full: no space.*\n$"},
		{name: "version", args: []string{"-version"}, stdout: "xv"},
		{name: "help", args: []string{"-h"}, stdout: "(?is)usage.*-stats.*example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := harness.RunArgv(t, append([]string{harness.Xvrun(t)}, c.args...), harness.Spec{
				Files: []harness.File{{Name: "script", Data: "#!/bin/sh\necho script $0 $1\nexit 3\n", Mode: 0o755}},
			})
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if !res.Status.Exited() || res.Status.ExitStatus() != c.status {
				t.Errorf("%s, want exit status %d", harness.StatusString(res.Status), c.status)
			}
			stdout := res.Stdout
			if c.name == "help" {
				// Help may go to either.
				stdout = append(stdout, res.Stderr...)
			}
			if !regexp.MustCompile(c.stdout).Match(stdout) {
				t.Errorf("stdout doesn't match %q: %s", c.stdout, stdout)
			}
			if c.stderr != "" && !regexp.MustCompile(c.stderr).Match(res.Stderr) {
				t.Errorf("stderr doesn't match %q: %s", c.stderr, res.Stderr)
			}
			if c.file != "" && strings.Contains(res.Files[c.file], " 0 bytes") || c.file != "" && res.Files[c.file] == "" {
				t.Errorf("file %s: %q", c.file, res.Files[c.file])
			}
		})
	}
}

// TestSetUserID runs a program that has a set-user-ID bit: without the privilege, with one line of warning for each
// execution, and without a warning where the bit has no effect natively.
func TestSetUserID(t *testing.T) {
	harness.NeedXvrun(t)
	if syscall.Geteuid() != 0 {
		testSystemSetUserID(t)
		return
	}
	id, sh, setpriv := readFile(t, need.Tool(t, "id")), need.Tool(t, "sh"), need.Tool(t, "setpriv")
	program := filepath.Join(harness.WorkDir(), "privileged-id")
	if os.WriteFile(program, id, 0o755) != nil || os.Chmod(program, 0o755|os.ModeSetuid) != nil {
		t.Fatal("no set-user-ID program")
	}
	const nobody = 65534
	user := &syscall.Credential{Uid: nobody, Gid: nobody}
	if res := harness.RunArgv(t, []string{program, "-u"}, harness.Spec{User: user}); string(res.Stdout) != "0\n" {
		need.Missing(t, "a file system that honours set-user-ID bits for "+harness.WorkDir())
	}
	warning := regexp.QuoteMeta("xvrun: warning: \""+program+"\"") + ".*set-user-ID 0.*\n"
	for _, c := range []struct {
		name           string
		user           *syscall.Credential
		argv           []string
		stdout, stderr string
	}{
		{"program", user, []string{program, "-u"}, "65534\n", warning},
		{"executed", user, []string{sh, "-c", program + " -u; echo; " + program + " -u"}, "65534\n\n65534\n", warning + warning},
		{"no-new-privileges", user, []string{setpriv, "--no-new-privs", program, "-u"}, "65534\n", ""},
		{"own", nil, []string{program, "-u"}, "0\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := harness.RunXV(t, harness.Spec{Argv: c.argv, User: c.user})
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if string(res.Stdout) != c.stdout || !regexp.MustCompile("^"+c.stderr+"$").Match(res.Stderr) {
				t.Errorf("stdout %q, want %q\nstderr %q, want %q", res.Stdout, c.stdout, res.Stderr, c.stderr)
			}
		})
	}
}

// testSystemSetUserID does it with a program of the system: an ordinary user can't make one of another user.
func testSystemSetUserID(t *testing.T) {
	su := need.Tool(t, "su")
	argv := []string{su, "--version"}
	native, res := harness.RunArgv(t, argv, harness.Spec{}), harness.RunXV(t, harness.Spec{Argv: argv})
	if native.Err != nil || res.Err != nil {
		t.Fatal(native.Err, res.Err)
	}
	warning := regexp.MustCompile("^" + regexp.QuoteMeta("xvrun: warning: \""+su+"\"") + ".*set-user-ID 0.*\n$")
	if string(res.Stdout) != string(native.Stdout) || !warning.Match(res.Stderr) {
		t.Errorf("stdout %q, want %q\nstderr %q, want %q", res.Stdout, native.Stdout, res.Stderr, warning)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestCrowded has a guest take memory that xv can't leave: an error names it.
func TestCrowded(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct{ name, want string }{
		{"images", `(?m)^xvrun: .*maps memory at 0x1000000-0x10000000 and replaces the code that does so: .*$`},
		{"vfork", `(?m)^xvrun: .*maps memory at 0x40000000-0x50000000, where xv is: it can't be moved while .*vfork.*$`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := harness.RunXV(t, harness.Spec{Argv: []string{harness.Guest(t, "c/crowded.c", harness.PIE), c.name}})
			if res.Status.ExitStatus() != 125 || len(res.Stdout) > 0 || !regexp.MustCompile(c.want).Match(res.Stderr) {
				t.Errorf("%s, stdout %q, stderr %q", harness.StatusString(res.Status), res.Stdout, res.Stderr)
			}
		})
	}
}

// TestLookupInTheWay has a child of vfork place code where xv cannot look it up: an error says so before any of it runs.
func TestLookupInTheWay(t *testing.T) {
	harness.NeedXvrun(t)
	t.Parallel()
	res := harness.RunXV(t, harness.Spec{Argv: []string{harness.Guest(t, "c/lookup.c", harness.PIE), "vfork"}})
	want := regexp.MustCompile(`(?m)^xvrun: .*code at 0x60040000000-0x60040001000 cannot be translated: .*$`)
	if res.Status.ExitStatus() != 125 || len(res.Stdout) > 0 || !want.Match(res.Stderr) {
		t.Errorf("%s, stdout %q, stderr %q", harness.StatusString(res.Status), res.Stdout, res.Stderr)
	}
}
