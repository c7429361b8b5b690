//go:build !plan9

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"xvrun/xv"
)

// relocateEvery moves what xv has in the guest each time that it has run for d, until the function that it returns is called.
func relocateEvery(p *xv.Process, d time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(d):
			}
			_, err := p.Relocate(ctx, xv.Relocation{})
			if err != nil && !errors.Is(err, os.ErrProcessDone) && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "xvrun: warning: relocating: %v\n", err)
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
