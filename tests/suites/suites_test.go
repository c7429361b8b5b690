// Package suites runs other projects' test suites natively and under xvrun and compares what each of their tests says.
// What differs for a reason is listed in docs/conformance.md; a listed difference that is none any more is an error.
package suites

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"xvrun/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// known is a difference that docs/conformance.md lists.
type known struct {
	sometimes bool // it depends on timing
	reason    string
}

// knownDifferences reads the tables of docs/conformance.md: | suite | test | always or sometimes | difference and reason |.
var knownDifferences = sync.OnceValues(func() (map[[2]string]known, error) {
	text, err := os.ReadFile(filepath.Join(harness.ModuleRoot(), "docs", "conformance.md"))
	if err != nil {
		return nil, err
	}
	list := map[[2]string]known{}
	for _, row := range regexp.MustCompile(`(?m)^\| *(\S+) *\| *(\S+) *\| *(always|sometimes) *\| *(.*?) *\|$`).FindAllStringSubmatch(string(text), -1) {
		list[[2]string{row[1], row[2]}] = known{row[3] == "sometimes", row[4]}
	}
	return list, nil
})

// report ends the comparison of a suite's test; difference is empty if there is none.
func report(t *testing.T, suite, test, difference string) {
	t.Helper()
	list, err := knownDifferences()
	if err != nil {
		t.Fatal(err)
	}
	k, listed := list[[2]string{suite, test}]
	switch {
	case difference == "" && listed && !k.sometimes && !harness.Native:
		t.Errorf("%s %s is as natively: take it out of docs/conformance.md", suite, test)
	case difference != "" && listed:
		t.Logf("known difference: %s", k.reason)
	case difference != "":
		t.Errorf("%s %s:\n%s", suite, test, difference)
	}
}

// attempts is how often a test is run before it counts as different: tests of other projects depend on timing.
const attempts = 3

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

// each calls f for each item, n at a time: most tests sleep.
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
