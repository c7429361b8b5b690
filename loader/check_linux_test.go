package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	elf := func(name, interp string) string {
		return write(name, 0o755, string(makeELF(3, interp, text(0), nil)))
	}
	ld := elf("ld", "")
	arm := write("arm", 0o755, string(makeELF(3, "", text(0), put16(18, 183))))
	chain := elf("chain0", "")
	for i := 1; i <= maxScripts+1; i++ {
		chain = write(fmt.Sprintf("chain%d", i), 0o755, fmt.Sprintf("#!%s -%d\n", chain, i))
	}
	loop := filepath.Join(dir, "loop")
	write("loop", 0o755, "#!"+loop+"\n")
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		status int
		errno  syscall.Errno
		want   string // the reason
	}{
		{"", 127, syscall.ENOENT, "not found"},
		{dir + "/none", 127, syscall.ENOENT, "not found"},
		{ld + "/none", 126, syscall.ENOTDIR, "not a directory"},
		{dir, 126, syscall.EACCES, "is a directory"},
		{fifo, 126, syscall.EACCES, "not a regular file"},
		{"/dev/null", 126, syscall.EACCES, "not a regular file"},
		{write("noexec", 0o644, "x"), 126, syscall.EACCES, "permission denied"},
		{write("empty", 0o755, ""), 126, syscall.ENOEXEC, "empty file"},
		{write("text", 0o755, "echo hello\n"), 126, syscall.ENOEXEC, "text file without #!"},
		{write("binary", 0o755, "\x00\x01\x02"), 126, syscall.ENOEXEC, "not an ELF file"},
		{write("nointerp", 0o755, "#!  \n"), 126, syscall.ENOEXEC, "no interpreter in its #! line"},
		{write("badinterp", 0o755, "#!/none/sh\n"), 126, syscall.ENOENT, `interpreter "/none/sh": not found`},
		{write("dirinterp", 0o755, "#!"+dir+"\n"), 126, syscall.EACCES, fmt.Sprintf("interpreter %q: is a directory", dir)},
		{loop, 126, syscall.ELOOP, "more than 5 #! interpreters in a row"},
		{chain, 126, syscall.ELOOP, "more than 5 #! interpreters in a row"},
		{arm, 126, syscall.ENOEXEC, "built for AArch64, not x86-64"},
		{elf("missing", "/none/ld.so\x00"), 126, syscall.ENOENT, `interpreter "/none/ld.so": not found`},
		{elf("armld", arm+"\x00"), 126, syscall.ELIBBAD, fmt.Sprintf("interpreter %q: built for AArch64, not x86-64", arm)},
		{elf("scriptld", loop+"\x00"), 126, syscall.ELIBBAD, fmt.Sprintf("interpreter %q: not an ELF file", loop)},
		{strings.Repeat("a", 5000), 126, syscall.ENAMETOOLONG, "file name too long"},
	} {
		_, err := Check(c.path)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.ExitStatus != c.status || e.Errno != c.errno || e.Reason != c.want || e.Path != c.path {
			t.Errorf("Check(%.60q) = %+v, want %d, %q", c.path, err, c.status, c.want)
			continue
		}
		if strings.ContainsRune(err.Error(), '\n') || !strings.Contains(err.Error(), e.Reason) {
			t.Errorf("message %q", err)
		}
	}
	if _, err := Check(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}

	info, err := Check(filepath.Join(dir, "chain5"))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Scripts) != 5 || info.Path != filepath.Join(dir, "chain0") || !info.StaticPIE || len(info.Args) != 10 || info.Args[1] != "-1" || info.Args[9] != "-5" {
		t.Errorf("chain of five: %+v", info)
	}
	info, err = Check(elf("dynamic", ld+"\x00"))
	if err != nil || info.Interp != ld || info.StaticPIE || info.Type != Dyn || info.Lost(-2, -2) != "" {
		t.Errorf("dynamic: %+v, %v", info, err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	for _, c := range []struct {
		mode       os.FileMode
		euid, egid int
		lost       string
	}{
		{0o755 | os.ModeSetuid, uid, gid, ""},
		{0o755 | os.ModeSetuid, uid + 1, gid, fmt.Sprintf("(set-user-ID %d)", uid)},
		{0o755 | os.ModeSetgid, uid + 1, gid, ""},
		{0o755 | os.ModeSetgid, uid, gid + 1, fmt.Sprintf("(set-group-ID %d)", gid)},
		{0o745 | os.ModeSetgid, uid, gid + 1, ""}, // mandatory locking, once
		{0o755 | os.ModeSetuid | os.ModeSetgid, uid + 1, gid + 1, fmt.Sprintf("(set-user-ID %d, set-group-ID %d)", uid, gid)},
	} {
		path := write("setid", 0o755, string(makeELF(3, "", text(0), nil)))
		if err := os.Chmod(path, c.mode); err != nil { // after the write, which clears the bits
			t.Fatal(err)
		}
		if info, err = Check(path); err != nil {
			t.Fatal(err)
		}
		if lost := info.Lost(c.euid, c.egid); (lost == "") != (c.lost == "") || !strings.Contains(lost, c.lost) {
			t.Errorf("%v for %d, %d: %q, want %q", c.mode, c.euid, c.egid, lost, c.lost)
		}
	}
}

// TestOrigin looks files up as another directory and another process see them.
func TestOrigin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, base := filepath.Split(self)
	for _, c := range []struct {
		from Origin
		path string
	}{
		{Origin{}, self},
		{Origin{Dir: dir}, base},
		{Origin{Dir: "/none"}, self},
		{Origin{PID: os.Getpid()}, self},
		{Origin{PID: os.Getpid()}, "/proc/self/exe"},
		{Origin{PID: os.Getpid(), Dir: dir}, "./" + base},
	} {
		if _, err := c.from.Check(c.path); err != nil {
			t.Errorf("%+v: %v", c.from, err)
		}
	}
	if _, err := (Origin{Dir: "/none"}).Check(base); err == nil {
		t.Error("a name relative to a missing directory was found")
	}
}

// TestCheckAgainstKernel compares what Check accepts with what the system's
// programs are.
func TestCheckAgainstKernel(t *testing.T) {
	entries, err := os.ReadDir("/usr/bin")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, e := range entries {
		p := "/usr/bin/" + e.Name()
		st, err := os.Stat(p)
		if err != nil || !st.Mode().IsRegular() || st.Mode()&0o001 == 0 {
			continue
		}
		if _, err := Check(p); err != nil {
			t.Logf("refused: %v", err)
			if e, ok := errors.AsType[*Error](err); !ok || e.Reason == "" {
				t.Errorf("%s: untyped error %v", p, err)
			}
			continue
		}
		checked++
	}
	if checked == 0 {
		t.Error("no program of /usr/bin is accepted")
	}
}
