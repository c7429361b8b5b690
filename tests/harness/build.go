//go:build unix

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"xvrun/tests/need"
)

// Kind is the way in which a guest is linked.
type Kind string

// The kinds of a C, C++ or assembly guest. Go guests have the kinds Static and PIE.
const (
	Static    Kind = "static"    // static, fixed addresses
	StaticPIE Kind = "staticpie" // static, position-independent
	NoPIE     Kind = "nopie"     // dynamic, fixed addresses
	PIE       Kind = "pie"       // dynamic, position-independent
	Musl      Kind = "musl"      // static, musl libc
	Bare      Kind = "bare"      // static, no libc, no start files
	Shared    Kind = "shared"    // no program, but a shared library
)

// AllKinds are the kinds of a C guest that uses a libc.
var AllKinds = []Kind{Static, StaticPIE, NoPIE, PIE, Musl}

type buildKey struct {
	src   string
	kind  Kind
	flags string
}

type build struct {
	once sync.Once
	path string
	err  error
}

var (
	buildsMu sync.Mutex
	builds   = map[buildKey]*build{}
)

// Guest builds tests/testdata/src with the compiler that its extension asks
// for, once per test process, and returns the program's path.
func Guest(t testing.TB, src string, kind Kind, flags ...string) string {
	t.Helper()
	return BuildFile(t, TestData(src), kind, flags...)
}

// BuildFile is Guest for a source file anywhere.
func BuildFile(t testing.TB, src string, kind Kind, flags ...string) string {
	t.Helper()
	argv := compiler(src, kind)
	need.Tool(t, argv[0])

	key := buildKey{src, kind, strings.Join(flags, " ")}
	buildsMu.Lock()
	b := builds[key]
	if b == nil {
		b = &build{}
		b.path = filepath.Join(work, "guests", fmt.Sprintf("%d", len(builds)), guestName(src, kind))
		builds[key] = b
	}
	buildsMu.Unlock()

	b.once.Do(func() {
		if b.err = os.MkdirAll(filepath.Dir(b.path), 0o755); b.err != nil {
			return
		}
		argv := append(argv, "-o", b.path)
		if argv[0] == "go" {
			// go build wants its flags before the file.
			argv = append(append(argv, flags...), src)
		} else {
			// Libraries in flags must follow the source.
			argv = append(append(argv, src), flags...)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = filepath.Dir(src)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

func guestName(src string, kind Kind) string {
	base := filepath.Base(src)
	return strings.TrimSuffix(base, filepath.Ext(base)) + "-" + string(kind)
}

// compiler returns the command for a source file, without output and input.
func compiler(src string, kind Kind) []string {
	if filepath.Ext(src) == ".go" {
		if kind == PIE {
			return []string{"go", "build", "-buildmode=pie"}
		}
		return []string{"go", "build"}
	}
	cc := "gcc"
	switch {
	case kind == Musl:
		cc = "musl-gcc"
	case filepath.Ext(src) == ".cc":
		cc = "g++"
	}
	argv := []string{cc, "-O2", "-g", "-Wall", "-pthread"}
	switch kind {
	case Static, Musl:
		argv = append(argv, "-static", "-no-pie", "-fno-pie")
	case StaticPIE:
		argv = append(argv, "-static-pie", "-fPIE")
	case NoPIE:
		argv = append(argv, "-no-pie", "-fno-pie")
	case PIE:
		argv = append(argv, "-pie", "-fPIE")
	case Shared:
		argv = append(argv, "-shared", "-fPIC")
	case Bare:
		argv = append(argv, "-static", "-no-pie", "-fno-pie", "-nostdlib", "-nostartfiles")
	}
	return argv
}
