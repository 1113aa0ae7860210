package sqlite

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// The environment that makes the test binary a writer: the file, and whether it
// answers before it commits, as a store must not.
const (
	writerFile = "HOLDFAST_TEST_WRITER"
	writerLies = "HOLDFAST_TEST_WRITER_LIES"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(writerFile); path != "" {
		if err := write(path, os.Getenv(writerLies) != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// write commits frames of ten readings for ever and prints the last seq of each
// that was answered.
func write(path string, lies bool) error {
	ctx := context.Background()
	st, err := Open(ctx, Options{Path: path})
	if err != nil {
		return err
	}
	a, err := st.Agent(ctx, "a")
	if err != nil {
		return err
	}
	for first := a.LeadMark + 1; ; first += 10 {
		if lies {
			fmt.Println(first + 9)
		}
		if _, err := st.Commit(ctx, ten(first)); err != nil {
			return err
		}
		if !lies {
			fmt.Println(first + 9)
		}
	}
}

func ten(first uint64) store.Frame {
	e := telemetry.Epoch{Ordinal: 1}
	f := store.Frame{Agent: "a", Epoch: e, First: first, Last: first + 9, Received: time.Now(), Open: []telemetry.OpenEpoch{{Epoch: e, Lowest: 1, Durable: first + 9}}}
	for seq := first; seq <= f.Last; seq++ {
		f.Records = append(f.Records, telemetry.Record{Seq: seq, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", Payload: []byte("payload of some length")}})
	}
	return f
}

// kill lets a writer work for a moment, ends it with SIGKILL and returns the
// last seq that it answered.
func kill(t *testing.T, path string, lies bool) (answered uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerFile+"="+path)
	if lies {
		cmd.Env = append(cmd.Env, writerLies+"=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, after := bufio.NewScanner(out), 1+rand.IntN(60)
	for n := 0; lines.Scan(); n++ {
		if answered, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatalf("%q", lines.Text())
		}
		if n == after {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	return answered
}

// What was answered before a SIGKILL is there, whole and once; so is nothing
// beside whole frames. The control answers before it commits, and is caught.
func TestKilledWriterLosesNothingAnswered(t *testing.T) {
	for lies, rounds := range map[bool]int{false: 25, true: 25} {
		path := filepath.Join(t.TempDir(), "cloud.db")
		st, err := Open(t.Context(), Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		tok := store.Token{ID: "t", Agent: "a", Uses: 1, Expires: time.Now().Add(time.Hour)}
		if err := errors.Join(st.CreateToken(t.Context(), tok), st.Enrol(t.Context(), "t", "a", make(ed25519.PublicKey, 32), time.Now()), st.Close()); err != nil {
			t.Fatal(err)
		}
		missing := 0
		for range rounds {
			answered := kill(t, path, lies)
			if held := look(t, path); held < answered {
				missing++
			}
		}
		if lies && missing == 0 {
			t.Error("a writer that answers too early is not caught: this test proves nothing")
		}
		if !lies && missing > 0 {
			t.Errorf("after %d of %d kills something answered was missing", missing, rounds)
		}
	}
}

// look opens the file and checks that rows and ledger say the same.
func look(t *testing.T, path string) (held uint64) {
	t.Helper()
	st, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	a, err := st.Agent(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var rows uint64
	if err := st.read.QueryRow("SELECT count(*) FROM readings").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows != a.Held || a.Held != a.LeadMark || rows%10 != 0 {
		t.Fatalf("%d rows, %d held, watermark %d", rows, a.Held, a.LeadMark)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// The connection that writes syncs at each commit.
func TestWriterSyncs(t *testing.T) {
	st, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "cloud.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var journal string
	var sync int
	err = st.write.do(t.Context(), func(s *session) error {
		return errors.Join(s.row("PRAGMA journal_mode", nil, &journal), s.row("PRAGMA synchronous", nil, &sync))
	})
	if err != nil || journal != "wal" || sync != 2 {
		t.Errorf("journal_mode %s, synchronous %d (want 2: FULL), %v", journal, sync, err)
	}
}

// One job that fails harms none of those that share its transaction.
func TestFailingJobHarmsNoOther(t *testing.T) {
	st, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "cloud.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	wrong := errors.New("wrong")
	insert := func(id string) func(*session) error {
		return func(s *session) error {
			_, err := s.exec("INSERT INTO tokens (id, secret_hash, agent, prefix, uses, expires, created) VALUES (?, x'', '', '', 1, 0, 0)", id)
			return err
		}
	}
	jobs := []job{
		{insert("one"), make(chan error, 1)},
		{func(s *session) error { return errors.Join(insert("never")(s), wrong) }, make(chan error, 1)},
		{insert("two"), make(chan error, 1)},
	}
	for _, j := range jobs {
		st.write.jobs <- j
	}
	for i, j := range jobs {
		if err := <-j.done; (i == 1) != errors.Is(err, wrong) || i != 1 && err != nil {
			t.Errorf("job %d: %v", i, err)
		}
	}
	for id, want := range map[string]bool{"one": true, "two": true, "never": false} {
		if _, err := st.Token(t.Context(), id); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A disk that is full makes commits unavailable, and the same store goes on when
// there is room again.
func TestFullDiskIsUnavailable(t *testing.T) {
	st, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "cloud.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	tok := store.Token{ID: "t", Agent: "a", Uses: 1, Expires: time.Now().Add(time.Hour)}
	if err := errors.Join(st.CreateToken(t.Context(), tok), st.Enrol(t.Context(), "t", "a", make(ed25519.PublicKey, 32), time.Now())); err != nil {
		t.Fatal(err)
	}
	pages := func(n int) {
		t.Helper()
		err := st.write.do(t.Context(), func(s *session) error {
			var got int
			return s.conn.QueryRowContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count=%d", n)).Scan(&got)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pages(60)
	first := uint64(1)
	for ; err == nil && first < 1e6; first += 10 {
		_, err = st.Commit(t.Context(), ten(first))
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("after seq %d: %v", first, err)
	}
	pages(1 << 30)
	if _, err := st.Commit(t.Context(), ten(first-10)); err != nil {
		t.Error(err)
	}
	if a, err := st.Agent(t.Context(), "a"); err != nil || a.LeadMark != first-1 {
		t.Errorf("watermark %d of %d, %v", a.LeadMark, first-1, err)
	}
}

// A file of a newer version is refused and not touched.
func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloud.db")
	st, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	err = st.write.do(t.Context(), func(s *session) error {
		_, err := s.conn.ExecContext(t.Context(), "PRAGMA user_version=99")
		return err
	})
	if err := errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: path}); err == nil {
		t.Error("opened")
	}
}
