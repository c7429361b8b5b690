//go:build unix

package harness

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"xvrun/xv"
)

// Hosted is a program that the test runs by package xv instead of xvrun.
type Hosted struct {
	Program string
	Args    []string
	Limit   time.Duration
	Prepare func(cmd *xv.Cmd)   // if not nil, called before the start
	Started func(p *xv.Process) // if not nil, called after it
}

// Compare runs the program natively and hosted; standard output and end must be the same. It returns the hosted process after its
// end.
func (h Hosted) Compare(t *testing.T) *xv.Process {
	t.Helper()
	env := Environ(t.TempDir(), NewToken())

	native := exec.Command(h.Program, h.Args...)
	native.Env, native.Dir = env, t.TempDir()
	want, wantErr := native.Output()

	ctx, cancel := context.WithTimeout(t.Context(), h.Limit)
	defer cancel()
	var got, errs bytes.Buffer
	cmd := xv.CommandContext(ctx, h.Program, h.Args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, t.TempDir(), &got, &errs
	if h.Prepare != nil {
		h.Prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if h.Started != nil {
		h.Started(cmd.Process)
	}
	gotErr := cmd.Wait()

	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("stdout %q\nnative %q", got.Bytes(), want)
	}
	if gotErr == nil != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
		t.Errorf("%v, native %v, stderr %q", gotErr, wantErr, excerpt(errs.Bytes()))
	}
	return cmd.Process
}

// RelocateOften moves what xv has in a guest again and again, with pauses, until stop is called, which returns how often it
// did. It keeps all translations, the hot ones and none in turn, or as keep says; two of four moves go far above 2 GiB.
func RelocateOften(t *testing.T, p *xv.Process, pause time.Duration, keep ...xv.Keeping) (stop func() int) {
	if len(keep) == 0 {
		keep = []xv.Keeping{xv.KeepAll, xv.KeepHot, xv.KeepNothing}
	}
	ctx, cancel := context.WithCancel(t.Context())
	count := make(chan int, 1)
	go func() {
		n := 0
		for i := 0; ctx.Err() == nil; i++ {
			list, err := p.Relocate(ctx, xv.Relocation{Keep: keep[i%len(keep)], Far: i%4 < 2})
			if err != nil && !errors.Is(err, os.ErrProcessDone) && ctx.Err() == nil {
				t.Error(err)
				break
			}
			n += len(list)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		count <- n
	}()
	return func() int {
		cancel()
		return <-count
	}
}
