package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres/pgtest"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// A database that crashes and comes back while frames arrive: nothing that was
// answered is lost, what was not is taken when it comes again, and the server
// goes on by itself; it is not ready meanwhile.
func TestDatabaseThatGoesAwayForAWhile(t *testing.T) {
	pg := pgtest.Require(t)
	dsn, err := pg.Database()
	if err != nil {
		t.Fatal(err)
	}
	cfg := settings(t)
	cfg.Store.Postgres.DSNFile = filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(cfg.Store.Postgres.DSNFile, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, cfg)
	key := c.device("a")
	var answered, refused atomic.Uint64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // the sidecar: delivers the same again until it is answered
		defer close(ended)
		for seq := uint64(1); ; {
			select {
			case <-stop:
				return
			default:
			}
			if status := c.deliver(frame(t, "a", telemetry.Epoch{Ordinal: 1}, readings(seq, []byte("x")), key)); status != http.StatusOK {
				refused.Add(1)
				time.Sleep(20 * time.Millisecond)
				continue
			}
			answered.Store(seq)
			seq++
		}
	}()
	await := func(what string, f func() bool) {
		t.Helper()
		for range 600 {
			if f() {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s does not happen", what)
	}
	ready := func() bool {
		status, _ := c.do(http.MethodGet, c.public+"/readyz", nil)
		return status == http.StatusOK
	}
	for range 2 {
		before := answered.Load()
		await("progress", func() bool { return answered.Load() > before+20 && ready() })
		if err := pg.Kill(); err != nil {
			t.Fatal(err)
		}
		lost := refused.Load()
		await("a refusal", func() bool { return refused.Load() > lost })
		if ready() {
			t.Error("ready without a database")
		}
		if err := pg.Run(); err != nil {
			t.Fatal(err)
		}
	}
	before := answered.Load()
	await("progress after the last crash", func() bool { return answered.Load() > before+20 && ready() })
	close(stop)
	<-ended
	var a struct{ Watermark, Held, Readings uint64 }
	c.get("/v1/agents/a", &a)
	if n := answered.Load(); a.Watermark < n || a.Held != a.Watermark || a.Readings != a.Held {
		t.Errorf("%d answered, %+v", n, a)
	}
}
