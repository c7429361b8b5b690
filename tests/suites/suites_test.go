// Package suites runs other projects' test suites natively and under xvrun and compares what each of their tests says.
// What differs for a reason is listed in docs/conformance.md; a listed difference that is none any more is an error.
package suites

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"xvrun/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestReturns runs the suites with the other kinds of return addresses, but Go's, which walks stacks, not with native ones. It is a soak.
func TestReturns(t *testing.T) {
	harness.NeedXvrun(t)
	harness.NeedSoak(t)
	t.Run("native", func(t *testing.T) { harness.Again(t, "-returns=native", "-test.run", "^Test(Posix|StressNG|Python)$") })
	t.Run("auto", func(t *testing.T) { harness.Again(t, "-returns=auto", "-test.run", "^Test(Posix|StressNG|Python|Go)$") })
}

// known is a difference that docs/conformance.md lists.
type known struct {
	sometimes bool // it depends on timing
	reason    string
}

// nativeReturns says that XV_TEST_FLAGS has xvrun leave native return addresses on the stacks.
var nativeReturns = slices.Contains(strings.Fields(os.Getenv("XV_TEST_FLAGS")), "-returns=native")

// knownDifferences reads the tables of docs/conformance.md: | suite | test | always, sometimes or native | difference and reason |. Those of the last
// kind are differences with native return addresses only.
var knownDifferences = sync.OnceValues(func() (map[[2]string]known, error) {
	text, err := os.ReadFile(filepath.Join(harness.ModuleRoot(), "docs", "conformance.md"))
	if err != nil {
		return nil, err
	}
	list := map[[2]string]known{}
	for _, row := range regexp.MustCompile(`(?m)^\| *(\S+) *\| *(\S+) *\| *(always|sometimes|native) *\| *(.*?) *\|$`).FindAllStringSubmatch(string(text), -1) {
		if row[3] != "native" || nativeReturns {
			list[[2]string{row[1], row[2]}] = known{row[3] == "sometimes", row[4]}
		}
	}
	return list, nil
})

// differences are those that a comparison found: what differs, by the name of the suite's test.
type differences map[string]string

// unlisted reports whether there is one that docs/conformance.md does not list.
func (d differences) unlisted(t *testing.T, suite string) bool {
	t.Helper()
	list, err := knownDifferences()
	if err != nil {
		t.Fatal(err)
	}
	for test := range d {
		if _, ok := list[[2]string{suite, test}]; !ok {
			return true
		}
	}
	return false
}

// report ends the comparison of a suite's tests, of which some differ.
func report(t *testing.T, suite string, tests []string, differ differences) {
	t.Helper()
	list, err := knownDifferences()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		k, listed := list[[2]string{suite, test}]
		if differ[test] == "" && listed && !k.sometimes && !harness.Native {
			t.Errorf("%s %s is as natively: take it out of docs/conformance.md", suite, test)
		}
	}
	for _, test := range slices.Sorted(maps.Keys(differ)) {
		if k, listed := list[[2]string{suite, test}]; listed {
			t.Logf("%s: known difference: %s", test, k.reason)
		} else {
			t.Errorf("%s %s:\n%s", suite, test, differ[test])
		}
	}
}

// part is what is compared in one subtest: a test of a suite, or as many as one program runs.
type part struct {
	name  string   // of the subtest
	suite string   // in docs/conformance.md
	tests []string // that are known to be in it
	// compare runs them natively and translated. It is called again if it finds differences that are not listed, and may
	// then run only what differed.
	compare func(t *testing.T) differences
}

// compareAll compares the parts, n at a time. Tests of other projects depend on timing. So what differs is run again
// when all parts have had their turn, up to attempts times, alone and when the machine has nothing else to do.
func compareAll(t *testing.T, n int, parts []part) {
	const attempts = 3
	slots := make(chan struct{}, n)
	var all, first sync.WaitGroup
	var one sync.Mutex
	alone := func(t *testing.T, p part) differences {
		first.Wait()
		one.Lock()
		defer one.Unlock()
		awaitIdle()
		return p.compare(t)
	}
	first.Add(len(parts))
	for _, p := range parts {
		slots <- struct{}{}
		all.Go(func() {
			leave := sync.OnceFunc(func() { <-slots; first.Done() })
			defer leave()
			t.Run(p.name, func(t *testing.T) {
				differ := p.compare(t)
				leave()
				for try := 0; try < attempts && differ.unlisted(t, p.suite); try++ {
					t.Logf("once more, since these differed: %s", strings.Join(slices.Sorted(maps.Keys(differ)), ", "))
					differ = alone(t, p)
				}
				report(t, p.suite, p.tests, differ)
			})
		})
	}
	all.Wait()
}

// idlePatience is how long awaitIdle waits in all. A machine that others use may never be idle.
var idlePatience = 2 * time.Minute

// awaitIdle waits until the processors have had little to do for a moment. It is not for concurrent use.
func awaitIdle() {
	const window = 500 * time.Millisecond
	for ; idlePatience > 0; idlePatience -= window {
		idle, total := processorTime()
		time.Sleep(window)
		idleNow, totalNow := processorTime()
		if 4*(idleNow-idle) >= 3*(totalNow-total) {
			return
		}
	}
}

// processorTime is the time, in ticks of the clock and since the start of the machine, that processors were idle or waited for
// input or output, and all of their time. See proc_stat(5).
func processorTime() (idle, total uint64) {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line) {
		ticks, _ := strconv.ParseUint(field, 10, 64) // 0 for the line's name
		if i <= 8 {                                  // those of virtual machines are in user time too
			total += ticks
		}
		if i == 4 || i == 5 {
			idle += ticks
		}
	}
	return idle, total
}

// outcome says how a run ended, without what it printed.
func outcome(r harness.Result) string {
	switch {
	case errors.Is(r.Err, harness.ErrLate):
		return "does not end"
	case errors.Is(r.Err, harness.ErrLeft):
		return harness.StatusString(r.Status) + ", processes left behind"
	case r.Err != nil:
		return r.Err.Error()
	}
	return harness.StatusString(r.Status)
}

// each calls f for each item, n at a time.
func each[T any](n int, items []T, f func(T)) {
	queue := make(chan T)
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() {
			for item := range queue {
				f(item)
			}
		})
	}
	for _, item := range items {
		queue <- item
	}
	close(queue)
	workers.Wait()
}

// tail is the end of a text.
func tail(b []byte) string {
	const limit = 2000
	text := strings.TrimSpace(string(b))
	return text[max(0, len(text)-limit):]
}
