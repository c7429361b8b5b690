package xv

import (
	"syscall"
	"time"

	"xvrun/xv/virt"
)

// start is virt.Start, except in tests.
var start = func(cfg *virt.Config) (session, error) {
	s, err := virt.Start(cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func takeOver() error {
	s, err := virt.TakeOver()
	if err != nil {
		return err
	}
	<-s.Gone()
	return s.Close()
}

func cpuTime(u *syscall.Rusage) (user, system time.Duration) {
	if u == nil {
		return 0, 0
	}
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}
