package suites

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// goPackage is a package of Go's standard library and which of its tests run.
type goPackage struct {
	path string
	run  string // -test.run; "": all
	skip string // -test.skip
	soak bool   // only with -soak
}

// Tests of package runtime that build programs take minutes, most of them for the compiler.
var goPackages = []goPackage{
	{path: "sync"},
	{path: "sync/atomic"},
	{path: "context"},
	{path: "os/signal"},
	{path: "os/exec"},
	{path: "syscall"},
	{path: "runtime", run: "^Test(Chan|Select|Stack|Stop|Goroutine|Gosched|Timer|Finalizer|GC|Defer|Panic|Caller|Futex|Preempt|LFStack|" +
		"Note|Semaphore|RWMutex|Signal|Usleep|Nano|Env|Mmap|Physical)", skip: "Deadlock|Pprof|LeakProfile"},
	{path: "time", soak: true},
	{path: "os", soak: true},
	{path: "net", soak: true},
	{path: "runtime/debug", soak: true},
	{path: "runtime", soak: true},
}

// TestGo builds the tests of packages of Go's standard library and compares what each test says.
func TestGo(t *testing.T) {
	need.Tool(t, "go")
	root, cache := goEnv(t, "GOROOT"), goEnv(t, "GOCACHE")
	var parts []part
	for _, p := range goPackages {
		name := strings.ReplaceAll(p.path, "/", "_")
		if p.soak {
			name += "_all"
		}
		only := p.run
		parts = append(parts, part{name: name, suite: "go:" + p.path, compare: func(t *testing.T) differences {
			if p.soak {
				harness.NeedSoak(t)
			}
			differ := p.compare(t, root, cache, only)
			if differ["end"] == "" {
				only = topLevel(differ) // if it is compared again
			}
			return differ
		}})
	}
	compareAll(t, 2, parts)
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// compare runs the tests of a package that match the pattern only, or all.
func (p goPackage) compare(t *testing.T, root, cache, only string) differences {
	program := filepath.Join(harness.WorkDir(), strings.ReplaceAll(p.path, "/", "_")+".test")
	build := exec.Command("go", "test", "-c", "-o", program, p.path)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := filepath.Join(root, "src", p.path) // tests read files there
	args := []string{program, "-test.short", "-test.v"}
	if only != "" {
		args = append(args, "-test.run", only)
	}
	if p.skip != "" {
		args = append(args, "-test.skip", p.skip)
	}
	spec := harness.Spec{Argv: args, Wrap: []string{"env", "-C", dir}, Timeout: 10 * time.Minute,
		Env: []string{"GOCACHE=" + cache, "GOFLAGS=-mod=mod"}}
	native, translated := harness.Run(t, spec), harness.RunXV(t, spec)
	differ := diffResults(goResults(native.Stdout), goResults(translated.Stdout))
	if w, g := outcome(native), outcome(translated); w != g && len(differ) == 0 {
		differ["end"] = fmt.Sprintf("native: %s, translated: %s", w, g)
	}
	if len(differ) > 0 {
		t.Logf("end of the translated run:\n%s", tail(append(translated.Stdout, translated.Stderr...)))
	}
	return differ
}

var goResult = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`)

// goResults are the results of tests and their subtests, by name.
func goResults(out []byte) map[string]string {
	results := map[string]string{}
	for _, m := range goResult.FindAllSubmatch(out, -1) {
		results[string(m[2])] = string(m[1])
	}
	return results
}

// diffResults describes the differences between the results of two runs, by test.
func diffResults(native, translated map[string]string) differences {
	differ := differences{}
	names := slices.Collect(maps.Keys(native))
	for _, name := range slices.AppendSeq(names, maps.Keys(translated)) {
		if w, g := native[name], translated[name]; w != g {
			differ[name] = fmt.Sprintf("native: %q, translated: %q", w, g)
		}
	}
	return differ
}

// topLevel is a pattern for the tests that differ.
func topLevel(differ differences) string {
	var names []string
	for name := range differ {
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains(names, top) {
			names = append(names, top)
		}
	}
	slices.Sort(names)
	return "^(" + strings.Join(names, "|") + ")$"
}
