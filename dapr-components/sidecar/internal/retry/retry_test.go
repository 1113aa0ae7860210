package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Two failures of the same kind are one reason, whatever port each had.
func TestReasonIsTheSameForEveryPort(t *testing.T) {
	a := Reason(errors.New("dial tcp 10.0.0.7:4222: read from 10.0.0.9:51234: refused"))
	b := Reason(errors.New("dial tcp 10.0.0.7:4222: read from 10.0.0.9:51236: refused"))
	if a != b || a == Reason(errors.New("dial tcp: no such host")) {
		t.Errorf("%q and %q", a, b)
	}
}

// Sleep takes its time, and ends with its context.
func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		Sleep(t.Context(), time.Second)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("slept %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		Sleep(ctx, time.Hour)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("slept until %v", took)
		}
	})
}
