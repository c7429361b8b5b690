//go:build linux && amd64

package xv_test

import (
	"errors"
	"fmt"
	"log"
	"strings"

	"xvrun/xv"
)

func ExampleCommand() {
	cmd := xv.Command("tr", "a-z", "A-Z")
	cmd.Stdin = strings.NewReader("every instruction of tr is translated")
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(out))
	// Output: EVERY INSTRUCTION OF TR IS TRANSLATED
}

func ExampleExitError() {
	err := xv.Command("sh", "-c", "exit 3").Run()
	if exit, ok := errors.AsType[*xv.ExitError](err); ok {
		fmt.Println("status", exit.ExitCode())
	}
	// Output: status 3
}

func ExampleProcess_Stats() {
	cmd := xv.Command("true")
	if err := cmd.Run(); err != nil {
		log.Fatal(err)
	}
	stats := cmd.Process.Stats()
	fmt.Println(stats.Regions > 0, stats.Processes)
	// Output: true 1
}
