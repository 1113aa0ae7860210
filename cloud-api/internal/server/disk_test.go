package server_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store/postgres/pgtest"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// smallDisk mounts a file system of so many bytes, a part of which is taken up by
// a file that somebody else left there: what removing it gives back is room.
func smallDisk(t *testing.T, size, ballast int64) (dir string, makeRoom func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "disk")
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755) // the database's user has to get through
	}
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size))
	}
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "root") {
			t.Fatalf("%v, but HOLDFAST_TEST_REQUIRE names root", err)
		}
		t.Skipf("a disk of its own needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	left := filepath.Join(dir, "left-there")
	f, err := os.Create(left)
	if err == nil {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, ballast)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return dir, func() {
		if err := os.Remove(left); err != nil {
			t.Error(err)
		}
	}
}

// sender delivers frames of one reading as a sidecar does: the same until it is
// answered. One that is careless goes on whatever the answer.
type sender struct {
	cloud             *cloud
	agent             string
	key               ed25519.PrivateKey
	careless          bool
	answered, refused atomic.Uint64
}

func (c *cloud) sender(agent string, careless bool) *sender {
	c.t.Helper()
	return &sender{cloud: c, agent: agent, key: c.device(agent), careless: careless}
}

// run delivers until stop is closed, from where it was.
func (s *sender) run(stop <-chan struct{}, size int) {
	payload := make([]byte, size)
	rand.Read(payload) // what cannot be compressed fills a disk
	for seq := s.answered.Load() + 1; ; {
		select {
		case <-stop:
			return
		default:
		}
		f := frame(s.cloud.t, s.agent, telemetry.Epoch{Ordinal: 1}, readings(seq, payload), s.key)
		good := s.cloud.deliver(f) == http.StatusOK
		if !good {
			s.refused.Add(1)
			time.Sleep(20 * time.Millisecond) // as a sidecar waits
		}
		if good || s.careless {
			s.answered.Store(seq)
			seq++
		}
	}
}

// goOn delivers small frames until the function it returns is called, or the test
// ends.
func (s *sender) goOn(t *testing.T) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.run(stop, 1)
	}()
	end = sync.OnceFunc(func() { close(stop); <-ended })
	t.Cleanup(end)
	return end
}

// await waits for what happens by itself.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for began := time.Now(); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%s does not happen", what)
		}
	}
}

// A database whose disk fills while frames arrive: what cannot be stored is not
// answered, what was answered is there, and when there is room again everything
// goes on by itself. The control takes a refusal for an answer, and lacks readings.
func TestDatabaseThatFillsItsDisk(t *testing.T) {
	const mb = 1 << 20
	t.Run("SQLite", func(t *testing.T) {
		dir, makeRoom := smallDisk(t, 96*mb, 80*mb)
		cfg := settings(t)
		cfg.Store.SQLite.Path = filepath.Join(dir, "cloud.db")
		fillAndGoOn(t, cfg, makeRoom, func() {})
	})
	t.Run("PostgreSQL, its tables", func(t *testing.T) {
		dir, makeRoom := smallDisk(t, 128*mb, 96*mb)
		pg := pgtest.Require(t)
		space := filepath.Join(dir, "space")
		if err := os.Mkdir(space, 0o700); err != nil {
			t.Fatal(err)
		}
		dsn, err := pg.DatabaseIn(space)
		if err != nil {
			t.Fatal(err)
		}
		fillAndGoOn(t, onPostgres(t, dsn), makeRoom, func() {})
	})
	// The server ends itself when it cannot write its log; whoever looks after it
	// starts it again.
	t.Run("PostgreSQL, its log", func(t *testing.T) {
		dir, makeRoom := smallDisk(t, 192*mb, 128*mb)
		pg := pgtest.Require(t, "max_wal_size=4GB", "checkpoint_timeout=1h")
		if err := pg.MoveLog(dir); err != nil {
			t.Fatal(err)
		}
		dsn, err := pg.Database()
		if err != nil {
			t.Fatal(err)
		}
		fillAndGoOn(t, onPostgres(t, dsn), makeRoom, func() {
			if pg.Ended() {
				_ = pg.Run() // without room it ends again
			}
		})
	})
}

func onPostgres(t *testing.T, dsn string) config.Config {
	t.Helper()
	cfg := settings(t)
	cfg.Store.Postgres.DSNFile = filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(cfg.Store.Postgres.DSNFile, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// fillAndGoOn delivers frames until the disk is full, makes room, and sees that
// everything goes on. lookAfter is called now and then.
func fillAndGoOn(t *testing.T, cfg config.Config, makeRoom, lookAfter func()) {
	c := start(t, cfg)
	careful, careless := c.sender("careful", false), c.sender("careless", true)
	stop, all := make(chan struct{}), sync.WaitGroup{}
	for _, s := range []*sender{careful, careless} {
		all.Go(func() { s.run(stop, 64<<10) })
	}
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				lookAfter()
			}
		}
	})
	end := sync.OnceFunc(func() { close(stop); all.Wait() })
	defer end()
	await(t, "a full disk", func() bool { return careful.refused.Load() > 3 && careless.refused.Load() > 3 })
	if careful.answered.Load() == 0 {
		t.Error("nothing was stored before")
	}
	makeRoom()
	before := careful.answered.Load()
	await(t, "progress", func() bool { return careful.answered.Load() > before+20 })
	end()
	t.Logf("%d answered, %d refused meanwhile", careful.answered.Load(), careful.refused.Load())
	if err := c.stop(); err != nil {
		t.Error(err)
	}

	c = start(t, cfg) // what counts is on the disk
	held := func(s *sender) uint64 {
		var a struct{ Held, Readings, Unexplained uint64 }
		c.get("/v1/agents/"+s.agent, &a)
		if a.Held != a.Readings {
			t.Errorf("%s: %+v", s.agent, a)
		}
		return a.Held
	}
	if n, want := held(careful), careful.answered.Load(); n < want || n > want+1 {
		t.Errorf("%d were answered, %d are there", want, n)
	}
	if n := held(careless); n >= careless.answered.Load() {
		t.Error("the control lacks nothing: this test proves nothing")
	}
}
