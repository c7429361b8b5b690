//go:build linux && amd64

package virt

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"xvrun/xv/agent/abi"
)

// A page that a userfaultfd fills, or the host (see pagerTool), is absent until some thread of the guest has filled it, and whoever reads it waits for that. The
// supervisor must not: it reads code while it holds the cache, which the thread that fills the page may need. So code is
// not read from absent pages. The thread that needs it waits for the page first, as natively, and then the code is looked up again.

// userfaultfd notes that pages may be absent from now on.
func (th *thread) userfaultfd(regs *registers) {
	th.p.s.mayLack.Store(true)
	th.finish(regs, call{unix.SYS_USERFAULTFD, th.args(regs)})
}

// noteIoctl does it for an ioctl, which may be one of /dev/userfaultfd.
func (th *thread) noteIoctl(k call) {
	if k.nr == unix.SYS_IOCTL && uint32(k.args[1]) == abi.IoctlHandedOff {
		th.p.s.mayLack.Store(true)
	}
}

// hasPages reports whether the pages of [lo, hi) can be read without waiting. If not, it notes the first that can't.
func (th *thread) hasPages(lo, hi uint64) bool {
	for page := lo &^ (pageSize - 1); page < hi; page += pageSize {
		if th.p.as.pagerOf(page) != nil {
			th.absent = page
			return false
		}
	}
	if !th.p.s.mayLack.Load() {
		return true
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", th.tid))
	if err != nil {
		return true
	}
	defer f.Close()
	for page := lo &^ (pageSize - 1); page < hi; page += pageSize {
		var entry [8]byte
		if _, err := f.ReadAt(entry[:], int64(page/pageSize*8)); err != nil {
			return true
		}
		if binary.LittleEndian.Uint64(entry[:])&(pagePresent|pageSwapped) == 0 {
			th.absent = page
			return false
		}
	}
	return true
}

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
)

// awaitPage lets the thread wait for the page that hasPages has found absent. It reports whether there was one and it is there now. The
// address space must not be entered.
func (th *thread) awaitPage() bool {
	page := th.absent
	th.absent = 0
	if page == 0 {
		return false
	}
	if t := th.p.as.pagerOf(page); t != nil {
		err := th.provide(t, page)
		if err != nil {
			th.p.s.trace("%d: page %#x: %v", th.tid, page, err)
		}
		return err == nil
	}
	// The handler has the original state, and asks the cache again.
	th.parked.Store(true)
	defer th.parked.Store(false)
	th.server.leave()
	defer th.server.enter()
	return th.touch(page)
}
