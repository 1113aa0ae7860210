package server_test

import (
	"errors"
	"net/http"
	"os"
	"testing"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// asksAgain checks a cloud that lost what it had answered of a sender's epoch up to
// told: as soon as the device sends the next frame, which says what it was told, the
// loss is an alarm, and what the device sends again closes it.
func (c *cloud) asksAgain(s *sender, told uint64) {
	c.t.Helper()
	e := telemetry.Epoch{Ordinal: 1}
	next, err := telemetry.EncodeFrame(telemetry.Header{
		Agent: s.agent, Epoch: e, First: told + 1, Last: told + 1, OpenTotal: 1, Open: []telemetry.OpenEpoch{{Epoch: e, Lowest: 1, Durable: told + 1, Trimmed: told}},
	}, readings(told+1, []byte("x")), s.key)
	if err != nil {
		c.t.Fatal(err)
	}
	await(c.t, "the next frame", func() bool { return c.deliver(next) == http.StatusOK })
	var a struct {
		Held, Watermark uint64
		Alarms          []struct{ Kind string }
	}
	c.get("/v1/agents/"+s.agent, &a)
	if a.Held > told || len(a.Alarms) != 1 || a.Alarms[0].Kind != "restored" {
		c.t.Fatalf("%d were answered before, and yet: %+v", told, a)
	}
	if status := c.deliver(frame(c.t, s.agent, e, readings(1, make([][]byte, told)...), s.key)); status != http.StatusOK {
		c.t.Fatal(status)
	}
	if c.get("/v1/agents/"+s.agent, &a); a.Held != told+1 || a.Watermark != told+1 {
		c.t.Errorf("after the device sent it again: %+v", a)
	}
}

// A file that is restored from an older backup says so, and takes from the device
// what it still has.
func TestFileRestoredFromABackup(t *testing.T) {
	cfg := settings(t)
	path := cfg.Store.SQLite.Path
	c := start(t, cfg)
	s := c.sender("a", false)
	some := func() {
		before, end := s.answered.Load(), s.goOn(t)
		await(t, "progress", func() bool { return s.answered.Load() > before+5 })
		end()
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
	}
	some()
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c = start(t, cfg)
	s.cloud = c
	some()
	err = os.WriteFile(path, backup, 0o600)
	for _, beside := range []string{"-wal", "-shm"} {
		if gone := os.Remove(path + beside); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	start(t, cfg).asksAgain(s, s.answered.Load())
}
