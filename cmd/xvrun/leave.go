//go:build !plan9

package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"xvrun/xv"
)

// supervisor is the name, as its zeroth argument, of the xvrun that serves the
// processes which have outlived the program.
const supervisor = "xvrun: supervisor"

const (
	// together is how long descendants may take to end with the program: it is
	// not worth starting a supervisor for those.
	together = 5 * time.Millisecond
	// again is when to try once more to leave them to a supervisor.
	again = time.Second
)

// leave returns when no descendant of the program needs this process any more:
// natively they would live on without it, so they get a supervisor of their own.
func leave(p *xv.Process) {
	select {
	case <-p.Gone():
		return
	default:
	}
	for wait := together; ; wait = again {
		select {
		case <-p.Gone():
			return
		case <-time.After(wait):
		}
		if err := p.HandOver("/proc/self/exe", supervisor); errors.Is(err, os.ErrProcessDone) {
			p.WaitAll()
			return
		}
	}
}

// supervise serves the processes that another xvrun leaves behind. It ends with
// the last of them: what is meant for a terminal's or a session's processes is
// not meant for it.
func supervise() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE)
	if err := xv.TakeOver(); err != nil {
		os.Exit(exitOwn)
	}
}
