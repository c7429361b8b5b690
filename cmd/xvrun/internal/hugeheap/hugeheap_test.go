package hugeheap

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"xvrun/tests/need"
)

// hooked is whether this build advises.
var hooked bool

// TestAdvised looks at the memory of an object that was allocated early.
func TestAdvised(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		need.Missing(t, "huge pages: "+err.Error())
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addr := uintptr(unsafe.Pointer(&early[0]))
	var lo, hi uintptr
	for s := bufio.NewScanner(f); s.Scan(); {
		fmt.Sscanf(s.Text(), "%x-%x", &lo, &hi)
		flags, ok := strings.CutPrefix(s.Text(), "VmFlags:")
		if !ok || addr < lo || addr >= hi {
			continue
		}
		if advised := strings.Contains(flags, " hg"); advised != hooked {
			t.Errorf("the heap at %#x is advised: %v, the build has the hook: %v", addr, advised, hooked)
		}
		return
	}
	t.Errorf("no mapping at %#x", addr)
}

var early = make([]byte, 100)
