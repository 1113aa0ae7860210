package uplink

import (
	"context"
	"crypto/ed25519"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var herdSize = flag.Int("herd", 60, "how many agents come back together")

// herd is many agents that lost the same broker, and one cloud that takes one
// frame at a time and paces them by window and retry_after, as the real one does.
type herd struct {
	t      testing.TB
	mu     sync.Mutex
	code   *codec
	away   bool
	queue  []arrival
	agents map[string]*member
	most   int // frames queued at a time
	busy   time.Duration
}

type member struct {
	name string
	box  *memory
	up   *Uplink
	sky  *cloud
}

type arrival struct {
	f  sealed
	at *member
}

// gate is one agent's way to the cloud.
type gate struct {
	h *herd
	m *member
}

func (g gate) Publish(_ context.Context, _ string, data []byte) error {
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	if g.h.away {
		return errCut
	}
	g.h.queue = append(g.h.queue, arrival{g.h.code.frame(data), g.m})
	g.h.most = max(g.h.most, len(g.h.queue))
	return nil
}

// serve takes frames at the speed of the database, and answers each.
func (h *herd) serve(ctx context.Context) {
	for ctx.Err() == nil {
		h.mu.Lock()
		if len(h.queue) == 0 {
			h.mu.Unlock()
			time.Sleep(time.Millisecond)
			continue
		}
		a, waiting := h.queue[0], len(h.queue)
		h.queue = h.queue[1:]
		h.mu.Unlock()
		cost := time.Millisecond + time.Duration(len(a.f.recs))*5*time.Microsecond // facts of one small database
		h.busy += cost
		time.Sleep(cost)
		h.mu.Lock()
		a.at.sky.take(a.f)
		a.at.sky.window, a.at.sky.wait = 1<<20, 0
		if waiting > 64 {
			a.at.sky.window, a.at.sky.wait = 64<<10, 2*time.Second
		}
		b := h.code.receipt(a.at.sky.receipt(a.at.name))
		h.mu.Unlock()
		if err := a.at.up.HandleReceipt(b); err != nil {
			h.t.Errorf("receipt: %v", err)
		}
	}
}

// comeBack has n agents with records each store for ten minutes with no way
// out, opens it, and returns how long it took until all was receipted.
func comeBack(t testing.TB, n, records int) (took time.Duration, h *herd) {
	h = &herd{t: t, code: &codec{ratio: 0.2}, away: true, agents: map[string]*member{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	_, key, _ := ed25519.GenerateKey(nil)
	root := key.Public().(ed25519.PublicKey)
	for i := range n {
		m := &member{name: "pi-" + string(rune('a'+i%26)), box: newMemory(), sky: newCloud()}
		m.box.begin()
		m.box.readings(records, 100)
		up, err := New(Options{
			Agent: m.name, Key: key, Root: func() ed25519.PublicKey { return root }, Outbox: m.box, Publisher: gate{h, m}, Now: m.box.now,
		})
		if err != nil {
			t.Fatal(err)
		}
		up.seal, up.open, up.rand = h.code.seal, h.code.open, rand.New(rand.NewPCG(uint64(i), 4))
		m.up = up
		h.agents[m.name+string(rune(i))] = m
		wg.Go(func() { _ = up.Run(ctx) })
	}
	time.Sleep(10 * time.Minute)
	h.mu.Lock()
	h.away = false
	h.mu.Unlock()
	start := time.Now()
	wg.Go(func() { h.serve(ctx) })
	for time.Since(start) < time.Hour && !h.done() {
		time.Sleep(time.Second)
	}
	took = time.Since(start)
	cancel()
	wg.Wait()
	return took, h
}

func (h *herd) done() bool {
	for _, m := range h.agents {
		m.box.mu.Lock()
		l := m.box.epochs[m.box.own()]
		left := l.durable - l.trimmed
		m.box.mu.Unlock()
		if left > 0 {
			return false
		}
	}
	return true
}

// Agents, sixty by default, that come back together do not all speak at once, the
// cloud's queue stays short, and it spends its time on frames it has not seen.
func TestAHerdComesBackGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const records = 2000
		n := *herdSize
		took, h := comeBack(t, n, records)
		need := time.Duration(n*records) * 5 * time.Microsecond
		t.Logf("%d agents: caught up in %s, of which the cloud worked %s; at most %d frames queued", n, took, h.busy, h.most)
		if took > need+2*time.Minute {
			t.Errorf("took %s for %s of work", took, need)
		}
		if h.most > n*firstWindow/firstTarget {
			t.Errorf("%d frames queued at a time, for %d agents", h.most, n)
		}
		if h.busy > 2*need+time.Duration(n*20)*time.Millisecond {
			t.Errorf("the cloud worked %s for %s of records", h.busy, need)
		}
	})
}
