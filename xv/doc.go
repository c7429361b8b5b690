// Package xv runs unmodified Linux x86-64 programs under dynamic binary
// translation: no instruction of the program is executed in place, all of it
// runs as a rewritten copy out of a translation cache.
//
// The package is shaped like os/exec. A Cmd describes a program, Start or Run
// execute it, and it is seen by the rest of the system as an ordinary child
// process, with its own descriptors, signals and entry in /proc:
//
//	out, err := xv.Command("uname", "-m").Output()
//
// A guest is the started process with all its descendants, which stay under
// translation through fork and execve. The calling program serves them while
// they run, also those that outlive the first; they end when it ends, unless
// it has handed them over to another one (Process.HandOver).
//
// Guests need Linux on x86-64. Elsewhere the package builds, and starting a
// guest gives an error that is errors.ErrUnsupported.
package xv
