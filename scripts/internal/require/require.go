// Package require decides what a test does without a program that it needs:
// it is skipped, with the reason, unless HOLDFAST_TEST_REQUIRE names it.
package require

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Program returns the path of an installed program. Without it the test is
// skipped, or fails when HOLDFAST_TEST_REQUIRE (names separated by commas) has
// its name.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name, "the program "+name+" is not installed")
	}
	return path
}

// Built returns the path of one of our own programs, which ./scripts/test
// builds and hands over in the environment.
func Built(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		Missing(t, variable, variable+" is not set: ./scripts/test sets it")
	}
	return path
}

// Missing skips the test, or fails it when name is required.
func Missing(t testing.TB, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), name) {
		t.Fatalf("%s, but HOLDFAST_TEST_REQUIRE names %s", reason, name)
	}
	t.Skip(reason)
}
