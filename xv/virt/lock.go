//go:build linux && amd64

package virt

import (
	"golang.org/x/sys/unix"
)

// mlockall would also lock the lookup tables, and with that give memory to all 8 GiB of them. So the
// guest's mappings are locked one by one, and those to come as they are mapped.
func (th *thread) mlockall(regs *registers) {
	a := th.args(regs)
	flags := int(a[0])
	if flags&^(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) != 0 || flags&(unix.MCL_CURRENT|unix.MCL_FUTURE) == 0 {
		th.finish(regs, call{unix.SYS_MLOCKALL, a}) // EINVAL
		return
	}
	home := th.home()
	var calls []call
	if flags&unix.MCL_CURRENT != 0 {
		maps, err := th.maps()
		if err != nil {
			th.result(regs, -int64(unix.ENOMEM))
			return
		}
		for _, v := range maps {
			if !isOurs(home, v) && !isVsyscall(v.Start) {
				calls = append(calls, call{unix.SYS_MLOCK2, [6]uint64{v.Start, v.Len(), uint64(flags&unix.MCL_ONFAULT) / unix.MCL_ONFAULT}})
			}
		}
		if errno := th.lockable(spaceOf(home, maps, 0, 0)); errno != 0 {
			th.result(regs, -int64(errno))
			return
		}
	}
	th.remote(calls...) // a mapping that can't be populated is no error
	// MCL_ONFAULT locks what is touched: mmap has no flag for that.
	th.p.as.lockNew.Store(flags&unix.MCL_FUTURE != 0 && flags&unix.MCL_ONFAULT == 0)
	th.result(regs, 0)
}

// lockable is the error of locking size bytes (mlock(2)).
func (th *thread) lockable(size uint64) unix.Errno {
	var l unix.Rlimit
	if unix.Prlimit(th.p.pid, unix.RLIMIT_MEMLOCK, nil, &l) != nil || size <= l.Cur || th.hasCapability(unix.CAP_IPC_LOCK) {
		return 0
	}
	if l.Cur == 0 {
		return unix.EPERM
	}
	return unix.ENOMEM
}

func (th *thread) munlockall(regs *registers) {
	th.p.as.lockNew.Store(false)
	th.finish(regs, call{unix.SYS_MUNLOCKALL, th.args(regs)})
}
