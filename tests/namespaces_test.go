package tests

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestNamespaces runs programs where the supervisor's files can't be reached: in other namespaces, below
// another root, and without /proc. What is not permitted natively is skipped.
func TestNamespaces(t *testing.T) {
	unshare, sh := need.Tool(t, "unshare"), need.Tool(t, "bash")
	const some = `(exit 3); echo $?; echo a | cat | tr a b; `
	for _, c := range []struct {
		name   string
		flags  string
		script string
	}{
		{"pid", "--fork --pid --mount-proc", some + `echo $$; readlink /proc/self/exe; cat /proc/self/comm; ls -d /proc/[0-9]* | head -1`},
		{"pid-old-proc", "--fork --pid", some + `echo $$`},
		{"user", "-r", some + `id -u`},
		{"user-pid", "-r --fork --pid --mount-proc", some + `kill -9 1; trap 'echo caught' TERM; kill $$; setsid sh -c 'sleep 0.05; exit 4' & wait $!; echo $?`},
		{"network", "-r -n -i -u", some + `echo $(ls /sys/class/net | wc -l)`},
		{"no-proc", "-r -m", `mount -t tmpfs x /proc; ` + some},
		{"all", "-r -m -p -f -i -n -u", `mount -t proc x /proc; ` + some + `unshare -r --fork --pid --mount-proc sh -c 'echo $$; true | cat'`},
		{"chroot", "-r", `chroot root /limits started; cd root; chroot . /limits started | head -1`},
		{"pivot-root", "-r -m", `mount --bind root root && cd root && mkdir old && pivot_root . old && /limits started && exec /limits started`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			flags := strings.Fields(c.flags)
			if out, err := exec.Command(unshare, append(flags, "true")...).CombinedOutput(); err != nil {
				need.Missing(t, fmt.Sprintf("the permission for unshare %s (%v %s)", c.flags, err, out))
			}
			static := readFile(t, harness.Guest(t, "c/limits.c", harness.Static))
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv:  append(append([]string{unshare}, flags...), sh, "-c", c.script),
				Files: []harness.File{{Name: "root/limits", Data: string(static), Mode: 0o755}},
			}, Exit: 0})
		})
	}
}

// TestNoProc starts xvrun where /proc isn't that of its processes.
func TestNoProc(t *testing.T) {
	harness.NeedXvrun(t)
	unshare, sh := need.Tool(t, "unshare"), need.Tool(t, "bash")
	for name, argv := range map[string][]string{
		"none":  {unshare, "-r", "-m", sh, "-c", `mount -t tmpfs x /proc; "$0" true`, harness.Xvrun(t)},
		"other": {unshare, "-r", "--fork", "--pid", harness.Xvrun(t), "true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(unshare, "-r", "-m", "--fork", "--pid", "true").CombinedOutput(); err != nil {
				need.Missing(t, fmt.Sprintf("the permission for unshare (%v %s)", err, out))
			}
			res := harness.RunArgv(t, argv, harness.Spec{})
			if text := string(res.Stderr); res.Err != nil || res.Status.ExitStatus() != 125 ||
				!strings.HasPrefix(text, "xvrun: /proc must be") || strings.Count(text, "\n") != 1 {
				t.Errorf("%v, %s, stderr %q", res.Err, harness.StatusString(res.Status), text)
			}
		})
	}
}
