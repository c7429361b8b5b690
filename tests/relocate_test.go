//go:build linux && amd64

package tests

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/xv"
)

// TestRelocate runs guests while all that xv has in them moves to a random place ten times a second, fifty with -soak, every other time
// without the translations: they must do what they do natively.
func TestRelocate(t *testing.T) {
	harness.NeedXvrun(t)
	for _, c := range []struct {
		src  string
		args []string
	}{
		{src: "c/signals.c"},
		{src: "c/sigqueue.c"},
		{src: "c/syncsignals.c"},
		{src: "c/threads.c"},
		{src: "c/pthreads.c"},
		{src: "c/forks.c"},
		{src: "c/procs.c"},
		{src: "c/killed.c"},
		{src: "c/poll.c"},
		{src: "c/jit.c"},
		{src: "c/code.c"},
		{src: "c/apart.c"},
		{src: "c/storm.c", args: []string{"2000"}},
		{src: "go/runtime.go"},
	} {
		t.Run(stem(c.src), func(t *testing.T) {
			t.Parallel()
			program := harness.Guest(t, c.src, harness.PIE)
			env := harness.Environ(t.TempDir(), harness.NewToken())

			native := exec.Command(program, c.args...)
			native.Env, native.Dir = env, t.TempDir()
			want, wantErr := native.Output()

			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var got bytes.Buffer
			cmd := xv.CommandContext(ctx, program, c.args...)
			cmd.Env, cmd.Dir, cmd.Stdout = env, t.TempDir(), &got
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			moved := make(chan int)
			ctx, stop := context.WithCancel(ctx)
			go func() { moved <- relocateOften(t, ctx, cmd.Process) }()
			gotErr := cmd.Wait()
			stop()
			if <-moved == 0 {
				t.Error("nothing was moved")
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("stdout %q\nnative %q", got.Bytes(), want)
			}
			if gotErr == nil != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
				t.Errorf("%v, native %v", gotErr, wantErr)
			}
		})
	}
}

// relocateOften moves what xv has in the guest until ctx is done, and returns how often.
func relocateOften(t *testing.T, ctx context.Context, p *xv.Process) (n int) {
	pause := 100 * time.Millisecond
	if *harness.Soak {
		pause = 20 * time.Millisecond
	}
	for i := 0; ctx.Err() == nil; i++ {
		list, err := p.Relocate(ctx, xv.Relocation{Discard: i%2 == 1})
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
	return n
}
