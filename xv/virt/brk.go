//go:build linux && amd64

package virt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"xvrun/loader"
)

// The kernel puts the program break of a non-PIE up to 1 GiB behind the program: among the images that
// were moved to near addresses, or into the virtualization region, where it could not grow. So the break
// moves behind the lookup tables of all code below 2 GiB.
const (
	breakStart = 7 << 32
	breakRange = 1 << 30 // as random as the kernel's

	prSetMMMap = 14
)

// statFields are the numbers of the fields of /proc/PID/stat (proc_pid_stat(5)) that struct prctl_mm_map
// has, in its order.
var statFields = [...]int{26, 27, 45, 46, 47, 47, 28, 48, 49, 50, 51}

// Positions in struct prctl_mm_map, in words.
const (
	mmStartCode = 0
	mmEndCode   = 1
	mmStartData = 2
	mmEndData   = 3
	mmStartBrk  = 4
	mmBrk       = 5
)

// describeImage is the call that tells the kernel where the images are now, and that the auxiliary vector
// has changed, for /proc/PID/stat and auxv, and that moves the program break if it is low (prctl(PR_SET_MM,
// PR_SET_MM_MAP), which needs no privilege). Kernels without CONFIG_CHECKPOINT_RESTORE refuse, and all this
// stays as it was. Its argument is in the scratch memory.
func (th *thread) describeImage(plan *loader.Layout, view *loader.StackView) (call, error) {
	words, err := th.memoryMap()
	if err != nil {
		return call{}, err
	}
	for _, i := range []int{mmStartCode, mmStartData} {
		words[i], _ = plan.Translate(words[i])
	}
	for _, i := range []int{mmEndCode, mmEndData} { // the address behind the last byte
		last, _ := plan.Translate(words[i] - 1)
		words[i] = last + 1
	}
	if words[mmStartBrk] < breakStart {
		at := breakStart + rand.Uint64N(breakRange)&^(pageSize-1)
		words[mmStartBrk], words[mmBrk] = at, at
	}
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	b = binary.LittleEndian.AppendUint64(b, view.AuxAt)
	b = binary.LittleEndian.AppendUint32(b, uint32(view.AuxSize()))
	b = binary.LittleEndian.AppendUint32(b, ^uint32(0)) // exe_fd: unchanged
	copy(th.ctx.scratch(), b)
	th.p.s.trace("%d: program break at %#x", th.tid, words[mmBrk])
	return call{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_MM, prSetMMMap, th.ctx.scratchAddr(), uint64(len(b)), 0}}, nil
}

// memoryMap reads the numbers of struct prctl_mm_map from /proc/PID/stat.
func (th *thread) memoryMap() (words [len(statFields)]uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", th.tid))
	if err != nil {
		return words, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from field 3 on
	for i, n := range statFields {
		if n-3 >= len(fields) {
			return words, fmt.Errorf("/proc/%d/stat has %d fields", th.tid, len(fields)+2)
		}
		if words[i], err = strconv.ParseUint(string(fields[n-3]), 10, 64); err != nil {
			return words, err
		}
	}
	return words, nil
}
