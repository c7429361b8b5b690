//go:build plan9

package xv

import (
	"errors"
	"fmt"
	"runtime"
)

// Cmd is a program that cannot be run: Plan 9 has neither the system calls nor the types of the rest of this package.
type Cmd struct {
	Path string
	Args []string
}

// Command returns a Cmd of which only Start's error is of use.
func Command(name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: append([]string{name}, args...)}
}

// Start returns an error that is errors.ErrUnsupported.
func (c *Cmd) Start() error {
	return fmt.Errorf("xv: guests run on linux/amd64, not on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// Run is Start.
func (c *Cmd) Run() error { return c.Start() }
