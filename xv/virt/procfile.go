//go:build linux && amd64

package virt

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"xvrun/loader"
	"xvrun/xv/agent/abi"
)

// What the kernel says of a process in /proc is the truth of the translated process. Where the original
// program would show something else, a guest that opens the file gets a memfd with that instead. The agent
// hands off all opens of files on a proc file system, by whatever name, so that no others pay for it.

// procFiles are the texts that differ, by the file's name in /proc/PID.
var procFiles = map[string]func(p *process, text []byte) []byte{
	"maps":   (*process).procMaps,
	"smaps":  (*process).procSmaps,
	"limits": (*process).procLimits,
}

// openCalls are the system calls that open a file by name.
var openCalls = map[uint64]bool{unix.SYS_OPEN: true, unix.SYS_OPENAT: true, unix.SYS_OPENAT2: true}

// fileOpened answers an open of a file on a proc file system.
func (th *thread) fileOpened() {
	regs := th.afterCall()
	th.substitute(int64(regs.gpr[rax]))
	th.result(&regs, int64(regs.gpr[rax]))
}

// substitute replaces the file that descriptor fd of the guest is open on, if it is one of procFiles.
func (th *thread) substitute(fd int64) {
	own := fmt.Sprintf("/proc/%d/fd/%d", th.tid, fd)
	name, err := os.Readlink(own)
	rewrite := procFiles[path.Base(name)]
	if err != nil || rewrite == nil && path.Base(name) != memFile {
		return
	}
	flags, ok := th.openFlags(fd)
	if rewrite == nil {
		if flags&unix.O_ACCMODE != unix.O_RDONLY {
			th.watchWrites()
		}
		return
	}
	p := th.processOf(procOwner(name))
	if p == nil || !ok || flags&unix.O_PATH != 0 {
		return
	}
	text, err := os.ReadFile(own)
	if err != nil || len(text) == 0 {
		return
	}
	text = rewrite(p, text)
	o, err := newShared(path.Base(name), len(text), true)
	if err != nil {
		th.p.s.trace("%d: %s: %v", th.tid, name, err)
		return
	}
	defer o.close()
	copy(o.view, text)
	fds, err := borrower{th.p.pid, th.tid}.lend(th, []*shared{o})
	if err != nil {
		th.p.s.trace("%d: %s: %v", th.tid, name, err)
		return
	}
	th.remote(append([]call{{unix.SYS_DUP3, [6]uint64{uint64(fds[0]), uint64(fd), uint64(flags & unix.O_CLOEXEC)}}}, closing(fds)...)...)
}

// procOwner is the process or thread that a file belongs to: the number in .../NUMBER/file, 0 if there is
// none. A thread has the maps and limits of its process.
func procOwner(name string) int {
	n, err := strconv.Atoi(path.Base(path.Dir(name)))
	if err != nil {
		return 0
	}
	return n
}

// openFlags are the flags of a descriptor of the guest (proc_pid_fdinfo(5)).
func (th *thread) openFlags(fd int64) (flags int, ok bool) {
	n, err := strconv.ParseInt(th.fdInfo(fd, "flags"), 8, 64)
	return int(n), err == nil
}

// code returns where the guest may execute, and the pages that are read-only for the translator's sake.
func (p *process) code() (ranges, map[uint64]struct{}) {
	as := p.space()
	as.readRanges()
	defer as.rangesMu.RUnlock()
	pages := make(map[uint64]struct{}, len(as.protected))
	for page := range as.protected {
		pages[page] = struct{}{}
	}
	return as.ranges.clone(), pages
}

// space is the address space of a process that may be another one's.
func (p *process) space() *addressSpace {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.as
}

func (p *process) procMaps(text []byte) []byte {
	maps, err := loader.ParseMaps(text)
	if err != nil {
		return text
	}
	code, protected := p.code()
	var out []byte
	for _, v := range originalMaps(p.space().home(), unshadowed(maps, p.space().shadowOf()), code, protected) {
		out = append(out, v.String()...)
		out = append(out, '\n')
	}
	return out
}

// originalMaps are the mappings that the original program would have: without xv's, and with the
// protections that the guest asked for.
func originalMaps(home abi.Home, maps []loader.VMA, code ranges, protected map[uint64]struct{}) []loader.VMA {
	var out []loader.VMA
	var last loader.VMA // the kernel's mapping that the end of out comes from
	for _, v := range maps {
		if isOurs(home, v) {
			continue
		}
		for at := v.Start; at < v.End; {
			piece := v
			piece.Start = at
			piece.Prot, piece.End = originalProt(v, at, code, protected)
			if v.File() {
				piece.Offset += at - v.Start
			}
			at = piece.End
			// Two pieces are one mapping, unless the kernel keeps apart what it could join.
			if n := len(out) - 1; n >= 0 && out[n].Continues(piece) && (last.Start == v.Start || last.Prot != v.Prot) {
				out[n].End = piece.End
				continue
			}
			out = append(out, piece)
		}
		last = v
	}
	return out
}

// originalProt is the protection at an address of a mapping, and how far it reaches.
func originalProt(v loader.VMA, at uint64, code ranges, protected map[uint64]struct{}) (prot int, end uint64) {
	prot, end = v.Prot, v.End
	for _, c := range code {
		switch {
		case c.lo <= at && at < c.hi:
			return c.prot, min(end, c.hi)
		case at < c.lo:
			end = min(end, c.lo)
		}
	}
	isProtected := func(page uint64) bool {
		_, ok := protected[page]
		return ok
	}
	if len(protected) == 0 || prot&loader.ProtWrite != 0 {
		return prot, end
	}
	first := isProtected(at)
	for page := at + pageSize; page < end; page += pageSize {
		if isProtected(page) != first {
			end = page
		}
	}
	if first {
		prot |= loader.ProtWrite
	}
	return prot, end
}

// procSmaps changes the lines that describe mappings; what xv has split stays split.
func (p *process) procSmaps(text []byte) []byte {
	code, protected := p.code()
	shadow, home := p.space().shadowOf(), p.space().home()
	var out []byte
	ours, prot := false, 0
	for line := range bytes.Lines(text) {
		if v, ok := loader.ParseMap(bytes.TrimSuffix(line, []byte("\n"))); ok {
			ours = isOurs(home, v)
			if r, ok := shadow.find(v.Start); ok {
				v.Prot = r.prot
			}
			prot, _ = originalProt(v, v.Start, code, protected)
			v.Prot = prot
			line = append([]byte(v.String()), '\n')
		} else if rest, ok := bytes.CutPrefix(line, []byte("VmFlags: ")); ok && prot&loader.ProtExec != 0 {
			line = executableFlags(rest)
		}
		if !ours {
			out = append(out, line...)
		}
	}
	return out
}

// executableFlags adds ex to a line of flags, behind rd and wr (proc_pid_smaps(5)).
func executableFlags(flags []byte) []byte {
	at := 0
	for _, f := range []string{"rd ", "wr "} {
		if bytes.HasPrefix(flags[at:], []byte(f)) {
			at += len(f)
		}
	}
	return []byte("VmFlags: " + string(flags[:at]) + "ex " + string(flags[at:]))
}

// procLimits shows the limits that the kernel doesn't have.
func (p *process) procLimits(text []byte) []byte {
	space, files := p.limits.get()
	show := func(v uint64) string {
		if v == infinite {
			return "unlimited"
		}
		return strconv.FormatUint(v, 10)
	}
	var out []byte
	for line := range bytes.Lines(text) {
		switch fields := strings.Fields(string(line)); {
		case bytes.HasPrefix(line, []byte("Max address space ")):
			line = fmt.Appendf(nil, "%-25s %-20s %-20s %-10s\n", "Max address space", show(space.soft), show(space.hard), "bytes")
		case bytes.HasPrefix(line, []byte("Max open files ")) && len(fields) == 6:
			line = fmt.Appendf(nil, "%-25s %-20s %-20s %-10s\n", "Max open files", fields[3], show(files), "files")
		}
		out = append(out, line...)
	}
	return out
}

// unshadowed gives mappings the protections that they had without page tools. What a tool alone has split is joined.
func unshadowed(maps []loader.VMA, shadow ranges) []loader.VMA {
	if len(shadow) == 0 {
		return maps
	}
	var out []loader.VMA
	last := -1 // the kernel's protection of the end of out
	for _, v := range maps {
		for at := v.Start; at < v.End; {
			piece := v
			piece.Start = at
			if r, ok := shadow.find(at); ok {
				piece.Prot, piece.End = r.prot, min(v.End, r.hi)
			} else if later := shadow.within(at, v.End); len(later) > 0 {
				piece.End = later[0].lo
			}
			if v.File() {
				piece.Offset += at - v.Start
			}
			at = piece.End
			if n := len(out) - 1; n >= 0 && out[n].Continues(piece) && (last != v.Prot || piece.Start != v.Start) {
				out[n].End = piece.End
			} else {
				out = append(out, piece)
			}
			last = v.Prot
		}
	}
	return out
}
