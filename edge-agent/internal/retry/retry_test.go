package retry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A pause doubles up to its last, is never shorter than half of what it says, and
// starts over when it is told to.
func TestPauseGrowsAndStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Pause{First: time.Second, Last: 5 * time.Second}
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			want *= time.Second
			begin := time.Now()
			if p.Next() != want || !p.Sleep(t.Context()) {
				t.Fatalf("next %v, want %v", p.Next(), want)
			}
			if took := time.Since(begin); took < want/2 || took > want {
				t.Errorf("a pause of %v took %v", want, took)
			}
		}
		if p.Reset(); p.Next() != time.Second {
			t.Errorf("after Reset %v", p.Next())
		}
		if p.Longest(); p.Next() != 5*time.Second {
			t.Errorf("after Longest %v", p.Next())
		}
	})
}

// A pause ends with its context, and says so.
func TestPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		p := Pause{First: time.Hour, Last: time.Hour}
		if p.Sleep(ctx) || time.Since(begin) != time.Second {
			t.Errorf("slept %v", time.Since(begin))
		}
	})
}
