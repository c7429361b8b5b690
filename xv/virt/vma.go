//go:build linux && amd64

package virt

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"xvrun/loader"
)

// maps are the mappings of the thread's process.
func (th *thread) maps() ([]loader.VMA, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", th.tid))
	if err != nil {
		if unix.Tgkill(th.p.pid, th.tid, 0) == unix.ESRCH {
			err = unix.ESRCH // it was killed
		}
		return nil, err
	}
	return loader.ParseMaps(text)
}

// procmapQuery is struct procmap_query of linux/fs.h: what PROCMAP_QUERY on /proc/PID/maps says of one mapping, since Linux 6.11.
type procmapQuery struct {
	size, queryFlags, addr      uint64
	start, end, flags, pageSize uint64
	offset, inode               uint64
	devMajor, devMinor          uint32
	nameSize, buildIDSize       uint32
	nameAddr, buildIDAddr       uint64
}

const (
	procmapQueryCall = 0xc0686611 // _IOWR('f', 17, struct procmap_query)
	procmapNext      = 0x10       // PROCMAP_QUERY_COVERING_OR_NEXT_VMA
	procmapShared    = 0x8        // PROCMAP_QUERY_VMA_SHARED; the lower bits are those of protection
)

// mappingFrom returns the first mapping of the thread's process that ends behind addr, without its name; ok is false if there is none.
func (th *thread) mappingFrom(addr uint64) (v loader.VMA, ok bool, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", th.tid))
	if err != nil {
		return v, false, err
	}
	defer f.Close()
	q := procmapQuery{size: uint64(unsafe.Sizeof(procmapQuery{})), queryFlags: procmapNext, addr: addr}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), procmapQueryCall, uintptr(unsafe.Pointer(&q)))
	switch errno {
	case 0:
		return loader.VMA{
			Start: q.start, End: q.end, Prot: int(q.flags & (procmapShared - 1)), Shared: q.flags&procmapShared != 0,
			Offset: q.offset, Dev: uint64(q.devMajor)<<32 | uint64(q.devMinor), Inode: q.inode,
		}, true, nil
	case unix.ENOENT:
		return v, false, nil
	}
	maps, err := th.maps()
	if err != nil {
		return v, false, err
	}
	i := slices.IndexFunc(maps, func(v loader.VMA) bool { return addr < v.End })
	if i < 0 {
		return v, false, nil
	}
	return maps[i], true, nil
}

// isShared reports whether memory of [lo, hi) is mapped shared, or may be.
func (th *thread) isShared(lo, hi uint64) bool {
	for lo < hi {
		v, ok, err := th.mappingFrom(lo)
		switch {
		case err != nil:
			return true
		case !ok || v.Start >= hi:
			return false
		case v.Shared:
			return true
		}
		lo = v.End
	}
	return false
}

// writable reports whether the guest may write at addr by now. The kernel's answer alone would not do: another thread may be
// about to make the page writable.
func (th *thread) writable(addr uint64) bool {
	if r, ok := th.p.as.executable(addr); ok && r.prot&unix.PROT_WRITE != 0 {
		return true
	}
	v, ok, err := th.mappingFrom(addr)
	return err == nil && ok && v.Contains(addr) && v.Prot&loader.ProtWrite != 0
}
