package main

import (
	"fmt"
	"os"

	"xvrun/xv"
)

func main() {
	fmt.Fprintf(os.Stderr, "xvrun: %v\n", xv.Command("").Run())
	os.Exit(125)
}
