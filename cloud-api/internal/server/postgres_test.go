package server_test

import (
	"net/http"
	"testing"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres/pgtest"
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
	c := start(t, onPostgres(t, dsn))
	s := c.sender("a", false)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.run(stop, 1)
	}()
	ready := func() bool {
		status, _ := c.do(http.MethodGet, c.public+"/readyz", nil)
		return status == http.StatusOK
	}
	for range 2 {
		before := s.answered.Load()
		await(t, "progress", func() bool { return s.answered.Load() > before+20 && ready() })
		if err := pg.Kill(); err != nil {
			t.Fatal(err)
		}
		lost := s.refused.Load()
		await(t, "a refusal", func() bool { return s.refused.Load() > lost })
		if ready() {
			t.Error("ready without a database")
		}
		if err := pg.Run(); err != nil {
			t.Fatal(err)
		}
	}
	before := s.answered.Load()
	await(t, "progress after the last crash", func() bool { return s.answered.Load() > before+20 && ready() })
	close(stop)
	<-ended
	var a struct{ Watermark, Held, Readings uint64 }
	c.get("/v1/agents/a", &a)
	if n := s.answered.Load(); a.Watermark < n || a.Held != a.Watermark || a.Readings != a.Held {
		t.Errorf("%d answered, %+v", n, a)
	}
}
