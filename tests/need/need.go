// Package need is for tests that need something of the machine: a tool, a permission.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Tool returns the path of a program; if there is none, the test is skipped,
// or fails in CI.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name)
	}
	return path
}

// Missing ends a test or benchmark for the lack of something that the machine should have:
// a skip on a developer's machine, a failure in CI, so that CI never passes by
// running less.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing", what)
}
