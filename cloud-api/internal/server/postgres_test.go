package server_test

import (
	"errors"
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
	end := s.goOn(t)
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
	end()
	var a struct{ Watermark, Held, Readings uint64 }
	c.get("/v1/agents/a", &a)
	if n := s.answered.Load(); a.Watermark < n || a.Held != a.Watermark || a.Readings != a.Held {
		t.Errorf("%d answered, %+v", n, a)
	}
}

// A database that fails over while frames arrive: everything goes on by itself at
// the standby. One that was waited for has all that was answered. The control was
// not, and lacks some; then the server says so, and takes from the device what it
// still has.
func TestDatabaseThatFailsOver(t *testing.T) {
	t.Run("synchronous", func(t *testing.T) {
		c, primary, standby := overTwo(t, true)
		s := c.sender("a", false)
		end := s.goOn(t)
		await(t, "progress", func() bool { return s.answered.Load() > 20 })
		if err := errors.Join(primary.Kill(), standby.Promote()); err != nil {
			t.Fatal(err)
		}
		before := s.answered.Load()
		await(t, "progress at the standby", func() bool { return s.answered.Load() > before+20 })
		end()
		var a struct {
			Held   uint64
			Alarms []struct{ Kind string }
		}
		c.get("/v1/agents/a", &a)
		if a.Held < s.answered.Load() || len(a.Alarms) > 0 {
			t.Errorf("%d answered, %+v", s.answered.Load(), a)
		}
	})
	t.Run("control", func(t *testing.T) {
		c, primary, standby := overTwo(t, false)
		s := c.sender("a", false)
		end := s.goOn(t)
		await(t, "progress", func() bool { return s.answered.Load() > 20 })
		if err := standby.Kill(); err != nil { // it follows no more
			t.Fatal(err)
		}
		alone := s.answered.Load()
		await(t, "progress without the standby", func() bool { return s.answered.Load() > alone+20 })
		end()
		told := s.answered.Load()
		if err := errors.Join(primary.Kill(), standby.Run(), standby.Promote()); err != nil {
			t.Fatal(err)
		}
		c.asksAgain(s, told)
	})
}

// overTwo starts a server over a database and its standby.
func overTwo(t *testing.T, synchronous bool) (c *cloud, primary, standby *pgtest.Server) {
	t.Helper()
	primary = pgtest.Require(t)
	standby = primary.Standby(t, synchronous)
	dsn, err := primary.Database()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, onPostgres(t, primary.Either(standby, dsn))), primary, standby
}
