//go:build !linux || !amd64

// Command trapgc needs guests, and so Linux on x86-64.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "trapgc: guests run on linux/amd64")
	os.Exit(1)
}
