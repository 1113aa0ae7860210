package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/hostile"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// megabytes is what the server may have resident under any load.
const megabytes = 150

// watcher is one connection that asks for live readings.
type watcher struct {
	conn   net.Conn
	r      *bufio.Reader
	status int
}

// watch opens a connection from an address of this machine, asks for live readings
// and reads the head of the answer; of one that refuses all of it.
func watch(server, from string) (w watcher, err error) {
	d := net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	if w.conn, err = d.Dial("tcp", server); err != nil {
		return w, err
	}
	if err := w.conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return w, err
	}
	if _, err := fmt.Fprintf(w.conn, "GET /v1/live HTTP/1.1\r\nHost: %s\r\n\r\n", server); err != nil {
		return w, err
	}
	w.r = bufio.NewReaderSize(w.conn, 1024)
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return w, err
	}
	w.status = resp.StatusCode
	if w.status == http.StatusOK {
		w.r = bufio.NewReaderSize(resp.Body, 1024)
		return w, nil
	}
	var p struct{ Status int }
	err = json.NewDecoder(resp.Body).Decode(&p)
	if err != nil || resp.Header.Get("Content-Type") != "application/problem+json" || p.Status != w.status || resp.Header.Get("Retry-After") == "" {
		return w, fmt.Errorf("%d %v, status %d in the body, %w", w.status, resp.Header, p.Status, err)
	}
	// The server ends the connection by itself: it keeps nothing of the crowd.
	if _, err := w.r.ReadByte(); err != io.EOF {
		return w, fmt.Errorf("the connection stays: %w", err)
	}
	return w, nil
}

// gather opens so many connections, from a hundred addresses: what one may ask for
// a second is bounded too.
func gather(t *testing.T, server string, n int) []watcher {
	t.Helper()
	crowd := make([]watcher, n)
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				w, err := watch(server, fmt.Sprintf("127.0.1.%d", 1+i%100))
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				crowd[i] = w
			}
		})
	}
	all.Wait()
	t.Cleanup(func() {
		for _, w := range crowd {
			if w.conn != nil {
				w.conn.Close()
			}
		}
	})
	return crowd
}

// mayOpen lets this process open so many files, or skips the test.
func mayOpen(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	if err == nil && limit.Cur < n {
		limit.Cur, limit.Max = n, max(n, limit.Max)
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if err != nil && slices.Contains(strings.Split(os.Getenv("HOLDFAST_TEST_REQUIRE"), ","), "root") {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("the test opens %d files: %v", n, err)
	}
}

// Of ten thousand connections that want to watch as many do as may; each of the
// others is told in a problem document when to come back. Ordinary requests are
// answered meanwhile, frames are stored and shown to all who watch, the server
// stays small, and who goes makes room.
func TestTenThousandWatchers(t *testing.T) {
	const connections, may = 10_000, 500
	mayOpen(t, connections+1000)
	c, p := process(t, settings(t))
	key := c.device("a")
	stop, ordinary := make(chan struct{}), sync.WaitGroup{}
	var asked atomic.Int64
	ordinary.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond): // one caller is not a flood
			}
			if status, b := c.do(http.MethodGet, c.public+"/v1/agents", nil); status != http.StatusOK {
				t.Errorf("an ordinary request: %d %s", status, b)
			}
			asked.Add(1)
		}
	})
	began := time.Now()
	crowd := gather(t, strings.TrimPrefix(c.public, "http://"), connections)
	took := time.Since(began)
	var watching []watcher
	for _, w := range crowd {
		switch w.status {
		case http.StatusOK:
			watching = append(watching, w)
		case http.StatusServiceUnavailable:
		default:
			t.Fatalf("status %d", w.status)
		}
	}
	if len(watching) != may {
		t.Fatalf("%d watch, want %d", len(watching), may)
	}
	if n := files(t, p); n > may+200 {
		t.Errorf("the server has %d files open", n)
	}
	e := telemetry.Epoch{Ordinal: 1}
	if status := c.deliver(frame(t, "a", e, readings(1, []byte("seen")), key)); status != http.StatusOK {
		t.Fatalf("a frame: %d", status)
	}
	for i, w := range watching {
		if err := awaitEvent(w.r, `"payload":"seen"`); err != nil {
			t.Fatalf("watcher %d: %v", i, err)
		}
	}
	close(stop)
	ordinary.Wait()
	mb := peak(t, p) >> 20
	t.Logf("%d connections in %.1f s, %d watch, %d ordinary requests answered meanwhile, at most %d MiB resident", connections, took.Seconds(), may, asked.Load(), mb)
	if mb > megabytes {
		t.Errorf("%d MiB resident", mb)
	}

	for _, w := range watching[:100] {
		w.conn.Close()
	}
	for seq := uint64(2); ; seq++ { // the server notices who is gone when it writes
		if status := c.deliver(frame(t, "a", e, readings(seq, []byte("more")), key)); status != http.StatusOK {
			t.Fatalf("a frame: %d", status)
		}
		w, err := watch(strings.TrimPrefix(c.public, "http://"), "127.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		w.conn.Close()
		if w.status == http.StatusOK {
			break
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatal("who went makes no room")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// awaitEvent reads until a line of data has the text.
func awaitEvent(r *bufio.Reader, text string) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "data: ") && strings.Contains(line, text) {
			return nil
		}
	}
}

// Broken and forged events of every kind come at a thousand a second while good
// frames flow. Each good one is stored once, each bad one is taken off the broker
// and stores nothing, of all of them a bounded number of samples is kept, and the
// server stays small.
func TestFloodOfBadFramesHarmsNoGoodOne(t *testing.T) {
	const rate, bad = 1000, 10_000
	c, p := process(t, settings(t))
	key := c.device("a")
	e := telemetry.Epoch{Ordinal: 1}
	events, err := hostile.Events("a", frame(t, "a", e, readings(1, []byte("one")), key))
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		hostile.Flood
		err error
	}
	ended := make(chan outcome, 1)
	began := time.Now()
	go func() {
		f, err := hostile.Send(t.Context(), strings.TrimPrefix(c.app, "http://"), events, rate, bad)
		ended <- outcome{f, err}
	}()
	good := uint64(0)
	var got outcome
	for over := false; !over || good < 20; {
		f := frame(t, "a", e, readings(good*10+1, make([][]byte, 10)...), key)
		for range 2 {
			if status := c.deliver(f); status != http.StatusOK {
				t.Errorf("good frame: %d", status)
			}
		}
		good++
		select {
		case got = <-ended:
			over = true
		default:
		}
	}
	if got.err != nil || got.Taken != bad {
		t.Errorf("%d of %d bad events were taken, %v", got.Taken, bad, got.err)
	}
	mb := peak(t, p) >> 20
	t.Logf("%.0f bad events a second beside %.0f good frames, at most %d MiB resident", got.Rate(), 2*float64(good)/time.Since(began).Seconds(), mb)
	if mb > megabytes {
		t.Errorf("%d MiB resident", mb)
	}
	var a struct{ Watermark, Held, Readings, Quarantined uint64 }
	c.get("/v1/agents/a", &a)
	if a.Watermark != good*10 || a.Held != good*10 || a.Readings != good*10 || a.Quarantined != 0 {
		t.Errorf("%d good frames, %+v", good, a)
	}
	var kept struct {
		Frames []struct{ Trusted bool }
	}
	c.get("/v1/quarantine?limit=1000", &kept)
	if most := 1 + int(time.Since(began)/(100*time.Millisecond)); len(kept.Frames) == 0 || len(kept.Frames) > most {
		t.Errorf("%d samples, want 1 to %d", len(kept.Frames), most)
	}
}
