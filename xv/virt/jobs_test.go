//go:build linux && amd64

package virt

import (
	"errors"
	"os"
	"testing"
)

// A job whose thread dies in the middle is for the next one; none is lost when no thread is left.
func TestJobs(t *testing.T) {
	var js jobs
	p := &process{}
	first, second := &thread{p: p, tid: os.Getpid()}, &thread{p: p, tid: os.Getpid()}
	var did []*thread
	failure := errors.New("failure")
	again := &job{done: make(chan error, 1), do: func(th *thread, _ caller) error {
		did = append(did, th)
		if th == first {
			th.dead.Store(true)
			panic(gone{})
		}
		return nil
	}}
	fails := &job{done: make(chan error, 1), do: func(th *thread, _ caller) error { return failure }}
	js.add(again)
	js.add(fails)
	if js.doAll(first, first) || js.pending.Load() != 2 || len(again.done) != 0 {
		t.Errorf("after the first thread's death %d jobs", js.pending.Load())
	}
	if !js.doAll(second, second) || js.pending.Load() != 0 {
		t.Errorf("%d jobs are left", js.pending.Load())
	}
	if err := <-again.done; err != nil || len(did) != 2 || did[1] != second {
		t.Errorf("%v, done %d times", err, len(did))
	}
	if err := <-fails.done; err != failure {
		t.Error(err)
	}
	js.add(again)
	js.end()
	if err := <-again.done; err != os.ErrProcessDone {
		t.Error(err)
	}
	if js.add(again) || js.pending.Load() != 0 {
		t.Error("a job after the end")
	}
}
