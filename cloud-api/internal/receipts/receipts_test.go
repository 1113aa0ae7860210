package receipts

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// cloud is a ledger and a broker that can be away, and the device that reads.
type cloud struct {
	t    *testing.T
	root ed25519.PublicKey

	mu       sync.Mutex
	revision uint64
	away     bool
	revoked  bool
	epochs   []store.Epoch
	got      []telemetry.Receipt
	attempts int
	at       []time.Time
}

func (c *cloud) Receipt(_ context.Context, _ string, epochs []telemetry.Epoch) (store.Receipt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := store.Receipt{Revision: c.revision, Revoked: c.revoked}
	for _, e := range c.epochs {
		if slices.Contains(epochs, e.Epoch) {
			r.Epochs = append(r.Epochs, e)
		}
	}
	return r, nil
}

func (c *cloud) Publish(_ context.Context, topic string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts++
	if c.away {
		return errors.New("no sidecar")
	}
	agent := topic[len("down."):]
	r, err := telemetry.OpenReceipt(data, agent, c.root, time.Now())
	if err != nil {
		c.t.Errorf("receipt on %s: %v", topic, err)
	}
	c.got, c.at = append(c.got, r), append(c.at, time.Now())
	return nil
}

func epoch(n uint64) telemetry.Epoch { return telemetry.Epoch{Ordinal: n, ID: [8]byte{1}} }

// held is an epoch with seqs 1..n.
func held(e, n uint64) store.Epoch {
	l := &ledger.Epoch{}
	l.Hold(telemetry.Range{First: 1, Last: n})
	return store.Epoch{Epoch: epoch(e), Ledger: l}
}

// run lets a service work inside a bubble of fake time until f returns.
func run(t *testing.T, f func(c *cloud, s *Service)) {
	synctest.Test(t, func(t *testing.T) {
		pub, root, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		rpub, rkey, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, rpub, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), root)
		if err != nil {
			t.Fatal(err)
		}
		c := &cloud{t: t, root: pub, revision: 1, epochs: []store.Epoch{held(1, 10), held(2, 5)}}
		signer := telemetry.ReceiptSigner{Key: rkey, Chain: []telemetry.Certificate{cert}}
		s := New(Options{
			Cloud: "test", Ledger: c, Publisher: c, Signer: func() telemetry.ReceiptSigner { return signer },
			Load: func() float64 { return 0 }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		f(c, s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A revoked agent is told so, signed, even when there is nothing else to say.
func TestRevocationIsSaid(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		c.revoked = true
		s.Due("a", nil, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(c.got) != 1 || !c.got[0].Revoked {
			t.Errorf("%+v", c.got)
		}
	})
}

// Many commits within a moment make one receipt, soon, with every epoch.
func TestReceiptsAreCoalesced(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		start := time.Now()
		for i := range 20 {
			s.Due("a", []telemetry.Epoch{epoch(1 + uint64(i)%2)}, nil)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(c.got) != 1 || len(c.got[0].Epochs) != 2 || c.at[0].Sub(start) > Coalesce {
			t.Fatalf("%d receipts after %v: %+v", len(c.got), c.at, c.got)
		}
		r := c.got[0]
		if r.Cloud != "test" || r.Agent != "a" || r.Revision != 1 || r.Epochs[0].Watermark != 10 || r.Window != fullWindow || r.RetryAfter != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// A commit while a receipt is on its way gets a receipt of its own.
func TestLaterCommitGetsAnotherReceipt(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		for range 3 {
			s.Due("a", []telemetry.Epoch{epoch(1)}, nil)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(c.got) != 3 {
			t.Errorf("%d receipts", len(c.got))
		}
	})
}

// While the sidecar is away one receipt an agent waits; what is sent when it is
// back says what holds then.
func TestSidecarAwayKeepsTheLatest(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		c.away = true
		for i := range 100 {
			c.mu.Lock()
			c.revision, c.epochs = uint64(i), []store.Epoch{held(1, uint64(i))}
			c.mu.Unlock()
			s.Due("a", []telemetry.Epoch{epoch(1)}, nil)
			s.Due("b", []telemetry.Epoch{epoch(1)}, nil)
			time.Sleep(time.Second)
		}
		if n := testutil.ToFloat64(s.metrics.pending); n != 2 {
			t.Errorf("%v pending", n)
		}
		if c.attempts > 80 {
			t.Errorf("%d attempts in 100 s: no backing off", c.attempts)
		}
		c.mu.Lock()
		c.away = false
		c.mu.Unlock()
		time.Sleep(lastRetry + time.Second)
		synctest.Wait()
		if len(c.got) != 2 || c.got[0].Epochs[0].Watermark != 99 || c.got[1].Epochs[0].Watermark != 99 {
			t.Errorf("%+v", c.got)
		}
		if n := testutil.ToFloat64(s.metrics.pending); n != 0 {
			t.Errorf("%v pending after", n)
		}
	})
}

// An answer without an epoch that is known is an answer all the same, and a
// rejection is told once.
func TestRejectionIsTold(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		j := telemetry.Rejection{Epoch: epoch(9), Seqs: telemetry.Range{First: 1, Last: 2}, Reason: "no"}
		s.Due("a", nil, []telemetry.Rejection{j})
		time.Sleep(time.Second)
		s.Due("a", nil, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(c.got) != 2 || len(c.got[0].Rejected) != 1 || c.got[0].Rejected[0] != j || len(c.got[1].Rejected) != 0 {
			t.Errorf("%+v", c.got)
		}
	})
}

// At the end what is pending is sent at once, so that a restart makes no agent
// send again.
func TestEndSendsWhatIsPending(t *testing.T) {
	var c *cloud
	run(t, func(cl *cloud, s *Service) {
		c = cl
		s.Due("a", []telemetry.Epoch{epoch(1)}, nil)
	})
	if len(c.got) != 1 {
		t.Errorf("%d receipts", len(c.got))
	}
}

// Agents beyond the bound are not kept waiting in memory.
func TestPendingIsBounded(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		c.away = true
		for i := range maxPending + 10 {
			s.Due(fmt.Sprintf("agent-%d", i), nil, nil)
		}
		if n := testutil.ToFloat64(s.metrics.dropped); n != 10 {
			t.Errorf("%v dropped", n)
		}
	})
}

// A receipt never names more epochs than fit, and prefers those named last.
func TestEpochsAreBounded(t *testing.T) {
	run(t, func(c *cloud, s *Service) {
		c.epochs = nil
		for i := range uint64(100) {
			c.epochs = append(c.epochs, held(i, 1))
			s.Due("a", []telemetry.Epoch{epoch(i)}, nil)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if r := c.got[0]; len(r.Epochs) != telemetry.MaxEpochs || r.Epochs[len(r.Epochs)-1].Epoch != epoch(99) {
			t.Errorf("%d epochs", len(r.Epochs))
		}
	})
}

// The receipt asks again for what the device gave back and the ledger lacks, and
// for a hole once it is one.
func TestAgainAsksForWhatWillNotCome(t *testing.T) {
	l := &ledger.Epoch{}
	l.Hold(telemetry.Range{First: 1, Last: 10})
	l.Report(telemetry.OpenEpoch{Lowest: 31, Durable: 50, Trimmed: 20}, epoch(1), 50, time.Time{})
	for hole, want := range map[bool]uint64{false: 20, true: 30} {
		r := Build(store.Receipt{Epochs: []store.Epoch{{Epoch: epoch(1), Ledger: l, Hole: hole}}}, nil)
		if len(r.Again) != 1 || r.Again[0] != (telemetry.EpochRange{Epoch: epoch(1), Seqs: telemetry.Range{First: 11, Last: want}}) {
			t.Errorf("hole %t: again %+v", hole, r.Again)
		}
	}
}

// Whatever a ledger has, its receipt is within the limits.
func TestReceiptFitsTheLimits(t *testing.T) {
	l := &ledger.Epoch{}
	for i := range uint64(5000) {
		l.Hold(telemetry.Range{First: 3*i + 2, Last: 3*i + 2})
	}
	l.Report(telemetry.OpenEpoch{Lowest: 20_000, Durable: 20_000, Trimmed: 19_999}, epoch(1), 1, time.Time{})
	var state store.Receipt
	for i := range uint64(telemetry.MaxEpochs) {
		state.Epochs = append(state.Epochs, store.Epoch{Epoch: epoch(i + 1), Ledger: l, Hole: true})
	}
	r := Build(state, nil)
	if len(r.Again) != telemetry.MaxAgain || len(r.Epochs[0].Held) != telemetry.MaxHeld {
		t.Errorf("%d again, %d held", len(r.Again), len(r.Epochs[0].Held))
	}
}

// The busier the cloud, the smaller the window; an overloaded one asks to wait.
func TestPaceFollowsTheLoad(t *testing.T) {
	var last uint64 = fullWindow + 1
	for _, load := range []float64{0, 0.25, 0.5, 1} {
		w, retry := pace(load)
		if w >= last || w < leastWindow || retry != 0 {
			t.Errorf("load %v: window %d, retry after %s", load, w, retry)
		}
		last = w
	}
	if w, retry := pace(5); w != leastWindow || retry != busyRetry {
		t.Errorf("overload: window %d, retry after %s", w, retry)
	}
}
