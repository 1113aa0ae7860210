package peers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-edge/holdfast/scripts/internal/broker"
	"github.com/holdfast-edge/holdfast/scripts/internal/loopback"
)

// Of what a subscriber wrote, lines with a topic of ours are messages, and what it says about itself is not.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arrived")
	text := "Connection refused\npeers/cut/s-001 {\"a\": 1}\nother/s-001 x\npeers/cut/s-002 two words\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := lines(path, func(topic string, payload []byte) { got[topic] = string(payload) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["peers/cut/s-001"] != `{"a": 1}` || got["peers/cut/s-002"] != "two words" {
		t.Errorf("%q", got)
	}
}

// A bridge that is installed takes messages on the device, survives a restart there, and ends when it is told to.
func TestMosquittoStarts(t *testing.T) {
	dir := t.TempDir()
	p, err := Mosquitto(context.Background(), Place{Dir: filepath.Join(dir, "run"), Card: filepath.Join(dir, "card")}, &loopback.Ports{}, true)
	if errors.Is(err, broker.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		if p != nil {
			_ = p.Stop()
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := Sync(filepath.Join(dir, "card")); err != nil {
		t.Error(err)
	}
	if err := p.Edge.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Edge.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(context.Background()); err != nil {
		t.Error(err)
	}
}
