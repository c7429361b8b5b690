//go:build (!linux || !amd64) && !plan9

package main

import (
	"os"

	"xvrun/xv"
)

// Guests cannot be started here, so nothing of them can be mirrored.

type inheritance struct{}

func inherit() (*inheritance, error) { return &inheritance{}, nil }

func (*inheritance) pass(*xv.Cmd) {}

func (*inheritance) release() {}

func bearBrokenPipes() {}

type mirror struct{}

func newMirror(*xv.Cmd) *mirror { return &mirror{} }

func (*mirror) follow() {}

func (*mirror) hungUp() bool { return false }

func finish(end outcome) {
	if end.state != nil {
		os.Exit(end.state.ExitCode())
	}
	os.Exit(end.status)
}
