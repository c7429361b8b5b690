package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
	"xvrun/xv/reloc"
)

// mayBeRegion reports whether the virtualization region, the only place where a guest has executable pages, may begin or go on at an address: it
// is where a program begins that leaves the place free, or one that runs with -far-region.
func mayBeRegion(addr uint64) bool {
	return addr >= 0x40000000 && addr < 0x80000000 || addr >= reloc.Far.Lo && addr < reloc.Far.Hi
}

// TestNoOriginalCode samples the memory maps of guests while they run, and
// finds no executable page outside the virtualization region and the kernel's
// vsyscall page: no original instruction can run.
func TestNoOriginalCode(t *testing.T) {
	harness.NeedXvrun(t)
	bash := need.Tool(t, "bash")
	// Short programs run several times, so that there is something to see.
	often := func(path string) []string {
		return []string{bash, "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do " + path + "; done"}
	}
	for _, c := range []struct {
		name string
		argv []string
	}{
		{"static", often(harness.Guest(t, "c/threads.c", harness.Static))},
		{"threads", []string{harness.Guest(t, "c/threads.c", harness.PIE)}},
		{"forks", often(harness.Guest(t, "c/forks.c", harness.PIE))},
		{"signals", []string{harness.Guest(t, "c/signals.c", harness.NoPIE)}},
		{"dlopen", []string{harness.Guest(t, "c/dlopen.c", harness.PIE, "-ldl"), "loop"}},
		{"jit", []string{harness.Guest(t, "c/jit.c", harness.PIE)}},
		{"go", []string{harness.Guest(t, "go/runtime.go", harness.Static)}},
		{"shell", []string{bash, "-c", "for i in 1 2 3 4 5 6 7 8; do seq 1000 | sort | grep 7 | wc -l; (sleep 0.05); done"}},
		{"python", []string{harness.Python(t)[0], script("py", "threads.py")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := sampler{clean: map[image]bool{}, dirty: map[image]time.Time{}}
			// On a busy machine a short program may be over before the sampler had its turn.
			for try := 0; try < 10 && s.samples == 0; try++ {
				r := harness.Start(t, harness.Command(t, c.argv[0], c.argv[1:]...))
				for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
					// To look for new processes takes longer than to sample those there are.
					pids := r.Processes()
					if len(pids) == 0 {
						break
					}
					for scan := time.Now(); time.Since(scan) < 3*time.Millisecond; {
						for _, pid := range pids {
							if err := s.sample(pid); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				ws := r.Wait(time.Minute)
				if ws.ExitStatus() != 0 {
					t.Errorf("%s\nstderr: %s", harness.StatusString(ws), r.Stderr.Bytes())
				}
			}
			if s.samples == 0 || len(s.clean) == 0 {
				t.Errorf("%d samples, %d clean images: the guest was not seen", s.samples, len(s.clean))
			}
			t.Logf("%d samples of %d images", s.samples, len(s.clean))
		})
	}
}

// An image is a process between two calls of execve.
type image struct {
	pid   int
	start uint64
	stack uint64 // at a random address, so it tells one image from the next
}

// A sampler judges samples. After execve the kernel itself has mapped the
// program executable, and it takes a moment until that is gone, while the
// process waits or runs the agent. So an image may be dirty at first, for a
// short time, but once clean it stays so.
type sampler struct {
	clean   map[image]bool
	dirty   map[image]time.Time
	samples int
}

func (s *sampler) sample(pid int) error {
	before, ok := harness.ReadStat(pid)
	maps := harness.ReadMaps(pid)
	// It may have died, been replaced or called execve meanwhile.
	after, still := harness.ReadStat(pid)
	if !ok || !still || before.StartTime != after.StartTime || before.StackStart != after.StackStart || len(maps) == 0 {
		return nil
	}
	img := image{pid, before.StartTime, before.StackStart}
	var bad []string
	for _, m := range maps {
		inside := mayBeRegion(m.Start) && mayBeRegion(m.End-1)
		if strings.Contains(m.Perms, "x") && !inside && m.Name != "[vsyscall]" {
			bad = append(bad, fmt.Sprintf("%x-%x %s %s", m.Start, m.End, m.Perms, m.Name))
		}
	}
	if len(bad) == 0 {
		s.samples++
		s.clean[img] = true
		return nil
	}
	if harness.IsXvrun(pid) {
		return nil
	}
	if s.clean[img] {
		return fmt.Errorf("process %d has executable pages outside the region again:\n%s", pid, strings.Join(bad, "\n"))
	}
	first, seen := s.dirty[img]
	if !seen {
		s.dirty[img] = time.Now()
	} else if time.Since(first) > 2*time.Second {
		return fmt.Errorf("process %d has executable pages outside the region since its start:\n%s", pid, strings.Join(bad, "\n"))
	}
	return nil
}
