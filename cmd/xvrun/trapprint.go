//go:build !plan9

package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"xvrun/loader"
	"xvrun/xv/trap"
)

// trapPrinter prints each fault of the program to w, and lets it take its course.
func trapPrinter(w io.Writer) func(*trap.Context) trap.Action {
	return func(c *trap.Context) trap.Action {
		io.WriteString(w, c.String()+fileOf(c.Tid, c.RIP)) // one write: blocks of several threads don't mix
		return trap.Deliver
	}
}

// fileOf tells in a line what file is mapped at an address of a thread, and what offset in the file that is. Images lie
// elsewhere than natively. It is "" if there is none.
func fileOf(tid int, addr uint64) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", tid))
	if err != nil {
		return ""
	}
	maps, err := loader.ParseMaps(text)
	i := slices.IndexFunc(maps, func(v loader.VMA) bool { return v.Contains(addr) })
	if err != nil || i < 0 || !maps[i].File() {
		return ""
	}
	return fmt.Sprintf("file   %s, offset %#x\n", maps[i].Path, maps[i].Offset+addr-maps[i].Start)
}
