package suites

import (
	"fmt"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"xvrun/tests/harness"
	"xvrun/tests/need"
)

// pythonModule is a module of Python's own tests.
type pythonModule struct {
	name   string
	soak   bool
	moved  bool   // with -relocate-every 1ms
	ignore string // tests that it does not run, as a pattern of Python's -i
}

var pythonModules = []pythonModule{
	{name: "test_generators"},
	{name: "test_json"},
	{name: "test_re"},
	{name: "test_threading"},
	{name: "test_asyncio", soak: true},
	{name: "test_cmd_line", soak: true},
	{name: "test_concurrent_futures", soak: true},
	{name: "test_ctypes", soak: true},
	{name: "test_faulthandler", soak: true},
	{name: "test_io", soak: true},
	{name: "test_mmap", soak: true},
	{name: "test_multiprocessing_fork", soak: true},
	{name: "test_multiprocessing_spawn", soak: true},
	{name: "test_os", soak: true},
	{name: "test_posix", soak: true},
	{name: "test_pty", soak: true},
	{name: "test_signal", soak: true},
	{name: "test_socket", soak: true, ignore: "*.ThreadedVSOCKSocketStreamTest.*"}, // may wait for ever, natively too, in a virtual machine
	{name: "test_subprocess", soak: true},
	{name: "test_generators", soak: true, moved: true},
	{name: "test_json", soak: true, moved: true},
	{name: "test_re", soak: true, moved: true},
	{name: "test_signal", soak: true, moved: true},
	{name: "test_threading", soak: true, moved: true},
}

// TestPython runs modules of the distribution's Python test suite.
func TestPython(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import test.test_re").Run(); err != nil {
		need.Missing(t, "the test suite of "+python)
	}
	var parts []part
	for _, m := range pythonModules {
		name := m.name
		if m.moved {
			name += "-moved"
		}
		parts = append(parts, part{name: name, suite: "python:" + m.name, compare: func(t *testing.T) differences {
			if m.soak {
				harness.NeedSoak(t)
			}
			return m.compare(t, python)
		}})
	}
	compareAll(t, 2, parts)
}

func (m pythonModule) compare(t *testing.T, python string) differences {
	argv := []string{python, "-m", "test", "-v"}
	if m.ignore != "" {
		argv = append(argv, "-i", m.ignore)
	}
	spec := harness.Spec{Argv: append(argv, m.name), Timeout: 10 * time.Minute,
		Env: []string{"PYTHONDONTWRITEBYTECODE=1"}}
	if m.moved {
		spec.Flags = []string{"-relocate-every", "1ms"}
	}
	native, translated := harness.Run(t, spec), harness.RunXV(t, spec)
	differ := diffResults(pythonResults(native), pythonResults(translated))
	if w, g := outcome(native), outcome(translated); w != g {
		differ["end"] = fmt.Sprintf("native: %s, translated: %s\n%s", w, g, tail(append(translated.Stdout, translated.Stderr...)))
	}
	return differ
}

var pythonResult = regexp.MustCompile(`(?m)^(\w+) \(([\w.]+)\)(?:\n.*)? \.\.\. (.*)$`)

// pythonResults are the results of the tests that print nothing else.
func pythonResults(r harness.Result) map[string]string {
	results := map[string]string{}
	for _, m := range pythonResult.FindAllSubmatch(append(r.Stdout, r.Stderr...), -1) {
		switch result := string(m[3]); {
		case result == "ok", result == "FAIL", result == "ERROR", result == "expected failure", len(result) > 7 && result[:7] == "skipped":
			results[string(m[2])+"."+string(m[1])] = result
		}
	}
	return results
}
