//go:build linux && amd64

package virt

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"xvrun/loader"
)

// Memory of System V can be mapped executable, and shared memory is another way to change code, like a file that is mapped
// shared.

// Of sys/shm.h, which package unix has not.
const (
	shmRemap = 0o40000
	shmExec  = 0o100000

	shmSegsz = 48 // offset of shm_segsz in struct shmid64_ds
)

// shmat handles shmat(2).
func (th *thread) shmat(regs *registers) {
	k := call{unix.SYS_SHMAT, th.args(regs)}
	as := th.p.as
	id, addr, flags := k.args[0], k.args[1], k.args[2]
	prot := uint64(unix.PROT_READ | unix.PROT_WRITE)
	if flags&unix.SHM_RDONLY != 0 {
		prot = unix.PROT_READ
	}
	if flags&shmExec != 0 {
		prot |= unix.PROT_EXEC
	}
	prot = as.guestProt(prot)
	stat := call{unix.SYS_SHMCTL, [6]uint64{id, unix.IPC_STAT, th.ctx.scratchAddr()}}
	if th.remote(stat)[0] < 0 {
		th.finish(regs, k) // the kernel says what is wrong
		return
	}
	size := binary.LittleEndian.Uint64(th.ctx.scratch()[shmSegsz:])
	if flags&unix.SHM_RND != 0 {
		addr &^= pageSize - 1
	}
	lo, hi, ok := pages(addr, size)
	claim := unless
	if flags&shmRemap != 0 {
		claim = replace
	}
	switch {
	case as.refusesGain(0, 0, prot):
		th.result(regs, -int64(unix.EACCES))
		return
	case ok && addr != 0 && claim == replace && !th.makeWayInTables(lo, hi):
		return
	case ok && addr != 0 && as.inTables(lo, hi):
		th.result(regs, -int64(unix.EINVAL))
		return
	case ok && addr != 0 && !th.makeWay(lo, hi, claim):
		return
	case ok && prot&unix.PROT_EXEC != 0 && !th.makeWayForCode(lo, hi, addr != 0):
		return
	case !th.fits(pageUp(size), 0, 0):
		th.result(regs, -int64(unix.ENOMEM))
		return
	}
	if ok && flags&shmRemap != 0 {
		th.loseCode(lo, hi)
	}
	written := as.mapsShared(prot, unix.MAP_SHARED)
	r := th.remote(k)[0]
	if !failed(r) {
		if ok && flags&shmRemap != 0 {
			as.forget(lo, hi)
		}
		if written {
			as.mappedShared()
		}
		if lo, hi, ok := pages(uint64(r), size); ok && prot&unix.PROT_EXEC != 0 {
			// The kernel has checked that it may be executed.
			th.remote(call{unix.SYS_MPROTECT, [6]uint64{lo, hi - lo, kernelProt(prot)}})
			th.gainCode(lo, hi, int(prot))
		}
	}
	th.result(regs, r)
}

// shmdt handles shmdt(2).
func (th *thread) shmdt(regs *registers) {
	k := call{unix.SYS_SHMDT, th.args(regs)}
	var mapped []loader.VMA
	for at := k.args[0]; ; {
		v, ok, err := th.mappingFrom(at)
		if err != nil || !ok || !v.Shared || len(mapped) > 0 && (v.Dev != mapped[0].Dev || v.Inode != mapped[0].Inode) {
			break
		}
		mapped = append(mapped, v)
		at = v.End
	}
	r := th.remote(k)[0]
	if r == 0 {
		for _, v := range mapped {
			if now, ok, err := th.mappingFrom(v.Start); err != nil || !ok || !now.Contains(v.Start) {
				th.loseCode(v.Start, v.End)
				th.p.as.forget(v.Start, v.End)
			}
		}
	}
	th.result(regs, r)
}
