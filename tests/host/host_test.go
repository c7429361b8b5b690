//go:build linux && amd64

// Package host tests what a host program does with a guest by package xv: fault handlers and page tools.
package host

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

func TestMain(m *testing.M) { harness.Main(m) }

// limit is how long a guest may run.
const limit = 30 * time.Second

// guest makes the command that runs a guest of tests/testdata.
func guest(t *testing.T, src string, args ...string) (cmd *xv.Cmd, out *bytes.Buffer) {
	t.Helper()
	harness.NeedXvrun(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	out = &bytes.Buffer{}
	cmd = xv.CommandContext(ctx, harness.Guest(t, src, harness.PIE), args...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// run runs cmd, which must succeed.
func run(t *testing.T, cmd *xv.Cmd, out *bytes.Buffer, want string) {
	t.Helper()
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// exitError is the end of a guest that did not exit with status 0.
func exitError(t *testing.T, err error) *xv.ExitError {
	t.Helper()
	e, ok := errors.AsType[*xv.ExitError](err)
	if !ok {
		t.Fatalf("end of the guest: %v", err)
	}
	return e
}
