// Package clock tells the time as a device without a battery knows it: time
// since boot, the wall clock as it is, and whether the kernel calls it
// synchronised. It corrects nothing; anchors let the cloud do so.
package clock

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Sync is what the kernel says of the wall clock.
type Sync struct {
	Synchronised bool
	MaxError     time.Duration // 0 when unknown
}

// Clock is the device's clock, or a test's.
type Clock interface {
	// Now returns time since boot, suspend included, and the wall clock.
	Now() telemetry.Instant
	// Sync returns what the kernel says of the wall clock now.
	Sync() Sync
}

// System returns the device's clock.
func System() Clock { return fault(system{}) }

type system struct{}

func (system) Now() telemetry.Instant {
	return telemetry.Instant{Boot: time.Duration(nanoseconds(unix.CLOCK_BOOTTIME)), Wall: nanoseconds(unix.CLOCK_REALTIME)}
}

func nanoseconds(id int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic("BUG: clock_gettime: " + err.Error()) // both clocks are in every kernel since 2.6.39
	}
	return t.Nano()
}

// Sync asks adjtimex. TIME_ERROR and STA_UNSYNC mean that nobody set the clock
// or that whoever did has gone quiet; a sandbox that forbids the call knows as
// little.
func (system) Sync() Sync {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil || state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return Sync{}
	}
	return Sync{Synchronised: true, MaxError: time.Duration(t.Maxerror) * time.Microsecond}
}

// Boot returns the kernel's boot id: epochs that share it share time since boot.
func Boot() ([16]byte, error) {
	return parseBoot("/proc/sys/kernel/random/boot_id")
}

func parseBoot(path string) (id [16]byte, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("read boot id: %w", err)
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if len(digits) != 2*len(id) {
		return id, fmt.Errorf("read boot id: %s holds %q", path, text)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, fmt.Errorf("read boot id: %w", err)
	}
	return id, nil
}
