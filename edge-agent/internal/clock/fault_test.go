//go:build faults

package clock

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A build for tests can be told to be in 1970, to step and to lose its source.
func TestFaultsAreObeyed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orders")
	t.Setenv(FaultVariable, path)
	c := System()
	f := func(orders string, want time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(orders), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := time.Unix(0, c.Now().Wall); got.Sub(want).Abs() > time.Minute {
			t.Errorf("%s: got %s, want %s", orders, got, want)
		}
	}
	f(`{}`, time.Now())
	f(`{"wall": "1970-01-01T00:00:09Z"}`, time.Unix(9, 0))
	f(`{"step": "-1h"}`, time.Now().Add(-time.Hour))
	f(`{"synchronised": true}`, time.Now())
	if !c.Sync().Synchronised {
		t.Error("not synchronised")
	}
}
