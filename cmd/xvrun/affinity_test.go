//go:build linux && amd64

package main

import (
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAffinity compares what CPUs a program may use under xvrun with what it may natively, also where the thread that starts
// xvrun is restricted itself.
func TestAffinity(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: it ends with the test
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	for _, cpus := range []unix.CPUSet{all, one} {
		if err := unix.SchedSetaffinity(0, &cpus); err != nil {
			t.Fatal(err)
		}
		var lists [2]string
		for i, argv := range [][]string{{"grep", "Cpus_allowed", "/proc/self/status"}, {xvrun, "grep", "Cpus_allowed", "/proc/self/status"}} {
			out, err := exec.Command(argv[0], argv[1:]...).Output()
			if err != nil {
				t.Fatal(err)
			}
			lists[i] = string(out)
		}
		if lists[0] != lists[1] {
			t.Errorf("under xvrun\n%snatively\n%s", lists[1], lists[0])
		}
	}
}
