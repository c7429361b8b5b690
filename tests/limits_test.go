package tests

import (
	"regexp"
	"strings"
	"syscall"
	"testing"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// TestLimits starts guests with resource limits that are too low for xvrun itself, as far as it may lift
// them.
func TestLimits(t *testing.T) {
	sh := need.Tool(t, "bash")
	for name, limit := range map[string]string{
		"none": "-c 0", "space": "-S -v 300000", "data": "-S -d 10000", "file": "-S -f 10", "files": "-S -n 4", "cpu": "-S -t 5",
		"stack": "-s 256", "endless-stack": "-S -s unlimited", "lock": "-l 0", "signals": "-i 10",
		"open-above": "-S -n 4; exec 60</dev/null; ulimit -S -n 4",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			harness.Compare(t, harness.Case{Spec: harness.Spec{
				Argv: []string{harness.Guest(t, "c/limits.c", harness.Static), "started"},
				Wrap: []string{sh, "-c", "ulimit " + limit + ` && exec "$@"`, "sh"},
			}})
		})
	}
}

// TestLowLimits starts xvrun with limits that it may not lift: one line says which.
func TestLowLimits(t *testing.T) {
	harness.NeedXvrun(t)
	sh := need.Tool(t, "bash")
	spec := harness.Spec{}
	if syscall.Geteuid() == 0 { // without the privilege to raise limits
		const nobody = 65534
		spec.User = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	for name, limit := range map[string]string{
		"space": "-v 500000", "more-space": "-v 8000000", "data": "-d 10000", "file": "-f 10", "files": "-n 10", "processes": "-u 4",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := harness.RunArgv(t, []string{sh, "-c", "ulimit " + limit + ` && exec "$@"`, "sh", harness.Xvrun(t), "/bin/true"}, spec)
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			text := string(res.Stderr)
			want := regexp.MustCompile(`^xvrun: the hard limit of [^\n]*ulimit ` + strings.Fields(limit)[0] + `\)[^\n]*\n$`)
			if res.Status.ExitStatus() != 125 || len(res.Stdout) > 0 || !want.MatchString(text) {
				t.Errorf("%s, stdout %q, stderr %q", harness.StatusString(res.Status), res.Stdout, text)
			}
		})
	}
}
