//go:build (!linux || !amd64) && !plan9

package xv

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"xvrun/xv/virt"
)

var errUnsupported = fmt.Errorf("xv: guests need linux/amd64, this is %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)

var start = func(*virt.Config) (session, error) { return nil, errUnsupported }

func takeOver() error { return errUnsupported }

func cpuTime(*syscall.Rusage) (user, system time.Duration) { return 0, 0 }
