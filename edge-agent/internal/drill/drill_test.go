package drill

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// A cut fails every publication, ends by itself, and is never longer than a minute.
func TestCutEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed := 0
		g := Gate{Publisher: publisher(func() { passed++ })}
		g.Cut(time.Hour)
		if err := g.Publish(t.Context(), "up.live", nil); !errors.Is(err, ErrCut) || passed != 0 {
			t.Fatalf("during a cut: %v, %d passed", err, passed)
		}
		time.Sleep(MaxCut)
		if err := g.Publish(t.Context(), "up.live", nil); err != nil || passed != 1 {
			t.Fatalf("after it: %v, %d passed", err, passed)
		}
	})
}

// No drill begins on a device that has trouble, or too little room for more.
func TestRefusesWhatIsUnsafe(t *testing.T) {
	good := Health{Online: true, Waiting: 10, FreeBytes: 1 << 30, RoomBytes: 1 << 30}
	if err := good.Unsafe(); err != nil {
		t.Fatal(err)
	}
	for word, spoil := range map[string]func(*Health){
		"outage":         func(h *Health) { h.Online = false },
		"outbox is full": func(h *Health) { h.Full = true },
		"damaged":        func(h *Health) { h.Damaged = 1 },
		"50000 records":  func(h *Health) { h.Waiting = 50_000 },
		"for 10m":        func(h *Health) { h.Oldest = 10 * time.Minute },
		"on the disk":    func(h *Health) { h.FreeBytes = 1 << 20 },
		"in the outbox":  func(h *Health) { h.RoomBytes = 1 << 20 },
	} {
		h := good
		spoil(&h)
		if err := h.Unsafe(); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", word, err)
		}
	}
}

// A report is proven by receipts that cover every number; by no less, by no other agent's, and by nobody else's signature.
func TestVerify(t *testing.T) {
	cloud, e := newSigner(t), telemetry.Epoch{Ordinal: 7, ID: [8]byte{1}}
	r := Report{
		Agent: "pi-1", Messages: 5, Stored: []Stored{{Epoch: e.String(), Seqs: []telemetry.Range{{First: 3, Last: 5}, {First: 9, Last: 10}}}},
		Receipts: [][]byte{cloud.receipt(t, "pi-1", telemetry.EpochReceipt{Epoch: e, Watermark: 5, Held: []telemetry.Range{{First: 8, Last: 12}}})},
	}
	if name, err := Verify(r, cloud.root); err != nil || name != "cloud" {
		t.Fatalf("%q, %v", name, err)
	}
	f := func(what string, spoil func(*Report)) {
		t.Helper()
		bad := r
		bad.Receipts = [][]byte{r.Receipts[0]}
		spoil(&bad)
		if _, err := Verify(bad, cloud.root); err == nil {
			t.Errorf("%s: proven", what)
		}
	}
	f("a number that is not held", func(r *Report) {
		r.Receipts[0] = cloud.receipt(t, "pi-1", telemetry.EpochReceipt{Epoch: e, Watermark: 5, Held: []telemetry.Range{{First: 10, Last: 12}}})
	})
	f("another agent's", func(r *Report) {
		r.Receipts[0] = cloud.receipt(t, "pi-2", telemetry.EpochReceipt{Epoch: e, Watermark: 99})
	})
	f("another cloud's", func(r *Report) {
		r.Receipts[0] = newSigner(t).receipt(t, "pi-1", telemetry.EpochReceipt{Epoch: e, Watermark: 99})
	})
	f("two messages under one number", func(r *Report) { r.Messages = 6 })
	f("no receipt", func(r *Report) { r.Receipts = nil })
}

// The orders of a drill reach the agent through its socket: messages are stored while the uplink is cut, the restart ends the agent, and the receipt that came is the proof.
func TestControl(t *testing.T) {
	e := telemetry.Epoch{Ordinal: 1, ID: [8]byte{9}}
	dir, err := os.MkdirTemp("", "drill") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	gate := &Gate{Publisher: publisher(func() {})}
	healthy := Health{Epoch: e.String(), Online: true, FreeBytes: -1, RoomBytes: 1 << 30}
	c, err := Listen(Options{
		Dir: dir, Gate: gate, Store: &memory{}, Logger: slog.New(slog.DiscardHandler), Health: func() Health { return healthy },
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, SocketFile)); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&fs.ModeSocket == 0 {
		t.Fatalf("the socket is %v, %v", info.Mode(), err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	orders := client{dir}
	if _, err := orders.store(t.Context(), order{Topic: "site/temperature", Messages: 1}); err == nil {
		t.Fatal("it stored under a topic that is not a drill's")
	}
	s, err := orders.store(t.Context(), order{Topic: Prefix + "x", Messages: 20, Cut: time.Minute})
	if err != nil || set(s.Seqs).Len() != 20 || s.Epoch != e.String() {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := gate.Publish(t.Context(), "up.live", nil); !errors.Is(err, ErrCut) {
		t.Fatalf("the uplink is not cut: %v", err)
	}
	cloud := newSigner(t)
	plan := Plan{Agent: "pi-1", Root: cloud.root, Patience: time.Minute}
	for _, mark := range []uint64{19, 20} { // the first one does not cover everything
		raw := cloud.receipt(t, "pi-1", telemetry.EpochReceipt{Epoch: e, Watermark: mark})
		r, err := telemetry.OpenReceipt(raw, "pi-1", cloud.root, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		c.Receipt(r, raw)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if mark == 19 {
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		_, err = orders.receipt(ctx, plan, s)
		if (err == nil) != (mark == 20) {
			t.Fatalf("receipt up to %d: %v", mark, err)
		}
		cancel()
	}
	if err := orders.call(t.Context(), "POST", "/restart", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrRestart) {
		t.Fatalf("Run returned %v", err)
	}
}

// Receipts are kept for the epochs that were spoken of last, and for no more of them than a few.
func TestReceiptsAreBounded(t *testing.T) {
	var k receipts
	for n := range uint64(3 * maxEpochs) {
		k.note(telemetry.Receipt{Epochs: []telemetry.EpochReceipt{{Epoch: telemetry.Epoch{Ordinal: n + 1}}}}, []byte{byte(n)})
	}
	if len(k.at) != maxEpochs || k.of(telemetry.Epoch{Ordinal: 1}) != nil || k.of(telemetry.Epoch{Ordinal: 3 * maxEpochs}) == nil {
		t.Fatalf("%d are kept", len(k.at))
	}
}

type publisher func()

func (p publisher) Publish(context.Context, string, []byte) error { p(); return nil }

// memory is a store that numbers what it gets.
type memory struct {
	mu   sync.Mutex
	seqs ranges.Set
}

func (m *memory) Submit(_ context.Context, _ *telemetry.Reading, _ *telemetry.Oversized, done func(uint64, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := m.seqs.Len() + 1
	m.seqs = m.seqs.Add(telemetry.Range{First: seq, Last: seq})
	done(seq, nil)
	return nil
}

// signer is a cloud that signs receipts.
type signer struct {
	root ed25519.PublicKey
	telemetry.ReceiptSigner
}

func newSigner(t *testing.T) signer {
	t.Helper()
	root, rootKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	cert, err := telemetry.NewCertificate(telemetry.RoleReceipt, pub, now.Add(-time.Hour), now.Add(time.Hour), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return signer{root, telemetry.ReceiptSigner{Key: key, Chain: []telemetry.Certificate{cert}}}
}

func (s signer) receipt(t *testing.T, agent string, e telemetry.EpochReceipt) []byte {
	t.Helper()
	b, err := telemetry.EncodeReceipt(telemetry.Receipt{Cloud: "cloud", Agent: agent, Revision: 1, Issued: time.Now(), Epochs: []telemetry.EpochReceipt{e}}, s.ReceiptSigner)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
