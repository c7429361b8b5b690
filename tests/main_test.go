// Package tests runs guest programs natively and under xvrun and compares
// everything that can be seen of them. See README.md.
package tests

import (
	"testing"

	"xvrun/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
