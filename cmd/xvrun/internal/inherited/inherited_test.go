package inherited

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// hooked is whether this build calls note, with which nothing that needs the runtime's hook itself can be linked.
var hooked bool

// TestNoted has the test binary print what it was started with, by a shell that sets it up.
func TestNoted(t *testing.T) {
	if os.Getenv("XV_TEST_INHERITED") != "" {
		report()
	}
	if Known() != hooked {
		t.Fatalf("the state is known: %v, the build has the hook: %v", Known(), hooked)
	}
	if !hooked {
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ setup, want string }{
		{"", ""},
		{"exec <&-", "closed 0\n"},
		{"exec 1<&-", "closed 1\n"},
		{"exec <&- 2>&-", "closed 0\nclosed 2\n"},
		{"exec <>/dev/null 2<>/dev/null", ""},
		{"trap '' USR1 HUP PIPE TERM 64", "ignored 1\nignored 10\nignored 13\nignored 15\nignored 64\n"},
		{"trap : USR1", ""},
	} {
		cmd := exec.Command("sh", "-c", c.setup+"\n"+`exec "$0" -test.run TestNoted 3>report`, exe)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "XV_TEST_INHERITED=1")
		cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v", c.setup, err)
		}
		text, err := os.ReadFile(cmd.Dir + "/report")
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != c.want {
			t.Errorf("%s: %q, want %q", c.setup, text, c.want)
		}
	}
}

func report() {
	var b strings.Builder
	for fd := range 3 {
		if Closed(fd) {
			b.WriteString("closed " + string('0'+rune(fd)) + "\n")
		}
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if Ignored(sig) {
			b.WriteString("ignored " + itoa(int(sig)) + "\n")
		}
	}
	syscall.Write(3, []byte(b.String()))
	os.Exit(0)
}

func itoa(n int) string {
	if n < 10 {
		return string('0' + rune(n))
	}
	return itoa(n/10) + itoa(n%10)
}
