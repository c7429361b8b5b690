// Package loader decides how a program becomes a guest.
//
// The kernel itself executes the file, so that /proc/PID/exe, the credentials
// and the initial stack are its own. What is left to decide is pure
// arithmetic, and it is all that this package does: whether the kernel would
// execute a file and xv can run it (Check), and which mappings of the freshly
// executed process move to which near address (Plan). Package loader makes no
// system call on a guest; the caller reads the guest and applies the plan.
//
// Every input may have been made by a hostile guest. Sizes are bounded,
// arithmetic is checked, and a malformed input is an error, never a panic.
package loader
