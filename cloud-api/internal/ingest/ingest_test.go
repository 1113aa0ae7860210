package ingest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// database is a store that keeps what it was given.
type database struct {
	mu       sync.Mutex
	keys     map[string]ed25519.PublicKey
	revoked  bool
	asked    int
	frames   []store.Frame
	rejected []store.Rejected
	result   store.Result
	commit   func(f store.Frame) (store.Result, error)
}

func (d *database) Agent(_ context.Context, name string) (store.Agent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	k, ok := d.keys[name]
	if !ok {
		return store.Agent{}, store.ErrNotFound
	}
	a := store.Agent{Name: name, Key: k}
	if d.revoked {
		a.RevokedAt = time.Now()
	}
	return a, nil
}

func (d *database) Commit(_ context.Context, f store.Frame) (store.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.commit != nil {
		if r, err := d.commit(f); err != nil {
			return r, err
		}
	}
	d.frames = append(d.frames, f)
	r := d.result
	r.Records = len(f.Records)
	return r, nil
}

func (d *database) Reject(_ context.Context, r store.Rejected) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Raw = bytes.Clone(r.Raw)
	d.rejected = append(d.rejected, r)
	return nil
}

type due struct {
	agent    string
	epochs   []telemetry.Epoch
	rejected []telemetry.Rejection
}

type receipts struct {
	mu  sync.Mutex
	due []due
}

func (r *receipts) Due(agent string, epochs []telemetry.Epoch, rejected []telemetry.Rejection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = append(r.due, due{agent, epochs, rejected})
}

type bench struct {
	*Service
	db       *database
	receipts *receipts
	key      ed25519.PrivateKey
	reg      *prometheus.Registry
}

func setUp(t testing.TB) *bench {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{db: &database{keys: map[string]ed25519.PublicKey{"a": pub}}, receipts: &receipts{}, key: key, reg: prometheus.NewRegistry()}
	b.Service = New(Options{Store: b.db, Receipts: b.receipts, InHand: 4, Logger: slog.New(slog.DiscardHandler), Registerer: b.reg})
	return b
}

var epoch = telemetry.Epoch{Ordinal: 3, ID: [8]byte{1}}

func (b *bench) frame(t testing.TB, first uint64, payloads ...string) []byte {
	var recs []telemetry.Record
	for i, p := range payloads {
		recs = append(recs, telemetry.Record{
			Seq: first + uint64(i), Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: "t", QoS: 1, Payload: []byte(p)},
		})
	}
	h := telemetry.Header{Agent: "a", Epoch: epoch, OpenTotal: 2, Open: []telemetry.OpenEpoch{
		{Epoch: epoch, Lowest: 1, Durable: 100}, {Epoch: telemetry.Epoch{Ordinal: 2, ID: [8]byte{2}}, Lowest: 5, Durable: 9},
	}}
	if len(recs) > 0 {
		h.First, h.Last = first, recs[len(recs)-1].Seq
	}
	raw, err := telemetry.EncodeFrame(h, recs, b.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (b *bench) results(t *testing.T, result string) float64 {
	t.Helper()
	return testutil.ToFloat64(b.metrics.frames.WithLabelValues(result))
}

// A good frame is committed with all it says, and the agent gets a receipt for
// every epoch that the frame names.
func TestFrameIsCommittedAndAnswered(t *testing.T) {
	b := setUp(t)
	if err := b.Take(t.Context(), b.frame(t, 7, "x", "y")); err != nil {
		t.Fatal(err)
	}
	f := b.db.frames[0]
	if f.Agent != "a" || f.Epoch != epoch || f.First != 7 || f.Last != 8 || len(f.Records) != 2 || string(f.Records[1].Reading.Payload) != "y" || len(f.Open) != 2 || f.OpenTotal != 2 {
		t.Errorf("%+v", f)
	}
	if want := []telemetry.Epoch{epoch, {Ordinal: 2, ID: [8]byte{2}}}; len(b.receipts.due) != 1 || !slices.Equal(b.receipts.due[0].epochs, want) {
		t.Errorf("receipts %+v", b.receipts.due)
	}
	if b.results(t, resultStored) != 1 {
		t.Error("not counted")
	}
}

// An empty frame and one that is there already are answered too: an agent that
// heard no receipt asks that way.
func TestEmptyAndRepeatedFramesAreAnswered(t *testing.T) {
	b := setUp(t)
	if err := b.Take(t.Context(), b.frame(t, 0)); err != nil {
		t.Fatal(err)
	}
	b.db.commit = func(store.Frame) (store.Result, error) { return store.Result{}, nil }
	if err := b.Take(t.Context(), b.frame(t, 1, "x")); err != nil {
		t.Fatal(err)
	}
	if len(b.receipts.due) != 2 || b.results(t, resultEmpty) != 1 {
		t.Errorf("receipts %+v", b.receipts.due)
	}
}

// A store that is not available makes the frame come again, and nobody is
// answered.
func TestUnavailableStoreMeansAgain(t *testing.T) {
	b := setUp(t)
	b.db.commit = func(store.Frame) (store.Result, error) {
		return store.Result{}, fmt.Errorf("%w: disk full", store.ErrUnavailable)
	}
	if err := b.Take(t.Context(), b.frame(t, 1, "x")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if len(b.receipts.due) != 0 || len(b.db.frames) != 0 || b.results(t, resultRetry) != 1 {
		t.Error("answered, or stored")
	}
}

// What nobody's key vouches for stores nothing, is answered to nobody, and is
// taken off the broker.
func TestUnsignedEventsAreDropped(t *testing.T) {
	b := setUp(t)
	good := b.frame(t, 1, "x")
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged := (&bench{key: other}).frame(t, 1, "x")
	stranger, err := telemetry.EncodeFrame(telemetry.Header{Agent: "stranger", Epoch: epoch}, nil, other)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, raw := range map[string][]byte{
		"nothing": nil, "noise": []byte("not a frame"), "forged": forged, "stranger": stranger, "flipped": flipped,
		"truncated": good[:len(good)-1], "lengthened": append(bytes.Clone(good), 0), "too large": make([]byte, telemetry.MaxFrame+1),
	} {
		if err := b.Take(t.Context(), raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(b.db.frames) != 0 || len(b.receipts.due) != 0 {
		t.Errorf("%d frames, %d receipts", len(b.db.frames), len(b.receipts.due))
	}
	if got := b.results(t, resultRejected); got != 8 {
		t.Errorf("%v rejected", got)
	}
}

// Truncation at every byte, and a flip of every bit of a small frame, end in a
// rejection and never in a stored record.
func TestDamageNeverStores(t *testing.T) {
	b := setUp(t)
	good := b.frame(t, 1, "payload")
	for n := range good {
		cut := good[:n]
		flip := bytes.Clone(good)
		flip[n] ^= 1 << (n % 8)
		for _, raw := range [][]byte{cut, flip} {
			if err := b.Take(t.Context(), raw); err != nil {
				t.Fatalf("byte %d: %v", n, err)
			}
		}
	}
	if len(b.db.frames) != 0 {
		t.Errorf("%d stored", len(b.db.frames))
	}
}

// What a revoked agent sends stores nothing and is taken off the broker; the agent
// is answered each time, and only what has readings leaves a sample. One that was
// revoked a moment ago is found out by the store.
func TestRevokedAgentIsToldAndStoresNothing(t *testing.T) {
	b := setUp(t)
	b.db.commit = func(store.Frame) (store.Result, error) { return store.Result{}, store.ErrRevoked }
	if err := b.Take(t.Context(), b.frame(t, 1, "x")); err != nil {
		t.Fatal(err)
	}
	b.db.revoked, b.db.commit = true, nil
	clear(b.keys)
	for range 3 {
		if err := b.Take(t.Context(), b.frame(t, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.db.frames) != 0 || len(b.receipts.due) != 4 || b.results(t, resultRevoked) != 4 {
		t.Errorf("%d stored, %d answered, %v counted", len(b.db.frames), len(b.receipts.due), b.results(t, resultRevoked))
	}
	if len(b.db.rejected) != 1 || b.db.rejected[0].Agent != "a" || b.db.rejected[0].Why != "the agent is revoked" {
		t.Errorf("samples %+v", b.db.rejected)
	}
}

// A frame that explains what is missing of another epoch is answered for that one
// too, so that the device can let go of it, as far as a receipt has room.
func TestExplainedEpochsAreAnswered(t *testing.T) {
	b := setUp(t)
	other := telemetry.Epoch{Ordinal: 1, ID: [8]byte{7}}
	many := []telemetry.Epoch{other, epoch}
	b.db.result.Epochs = many
	if err := b.Take(t.Context(), b.frame(t, 1, "x")); err != nil {
		t.Fatal(err)
	}
	if got := b.receipts.due[0].epochs; len(got) != 3 || !slices.Contains(got, other) {
		t.Errorf("%v", got)
	}
	for i := range uint64(10_000) {
		many = append(many, telemetry.Epoch{Ordinal: i + 10, ID: [8]byte{1}})
	}
	b.db.result.Epochs = many
	if err := b.Take(t.Context(), b.frame(t, 2, "x")); err != nil {
		t.Fatal(err)
	}
	if got := b.receipts.due[1].epochs; len(got) != telemetry.MaxEpochs || got[0] != epoch {
		t.Errorf("%d epochs", len(got))
	}
}

// A flood of rejected events leaves a sample now and then, not a write for each.
func TestSamplesAreRare(t *testing.T) {
	b := setUp(t)
	start := time.Now()
	for range 2000 {
		if err := b.Take(t.Context(), []byte("noise")); err != nil {
			t.Fatal(err)
		}
	}
	if most := 1 + int(time.Since(start)/sampleGap); len(b.db.rejected) == 0 || len(b.db.rejected) > most {
		t.Errorf("%d samples, want 1 to %d", len(b.db.rejected), most)
	}
	if b.results(t, resultRejected) != 2000 {
		t.Error("not all counted")
	}
}

// A signed frame whose body does not open is quarantined whole: its seqs count
// as held, since sending it again would not help.
func TestSignedNonsenseIsQuarantined(t *testing.T) {
	b := setUp(t)
	for _, topic := range []string{"a\x00b", "a\xff"} {
		raw, err := telemetry.EncodeFrame(telemetry.Header{Agent: "a", Epoch: epoch, First: 4, Last: 4},
			[]telemetry.Record{{Seq: 4, Kind: telemetry.KindReading, Reading: &telemetry.Reading{Topic: topic}}}, b.key)
		if err != nil {
			continue // the encoder refuses it already
		}
		if err := b.Take(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		f := b.db.frames[len(b.db.frames)-1]
		if !bytes.Equal(f.Raw, raw) || f.Records != nil || f.First != 4 || f.Last != 4 || f.Why == "" {
			t.Errorf("%+v", f)
		}
	}
	if n := len(b.db.frames); float64(n) != b.results(t, resultQuarantined) || len(b.receipts.due) != n {
		t.Errorf("%d frames, %d receipts", n, len(b.receipts.due))
	}
}

// What the store can never take is quarantined, and what it cannot even
// quarantine is rejected to the agent, which cuts it anew.
func TestUnstorableIsQuarantinedThenRejected(t *testing.T) {
	b := setUp(t)
	b.db.commit = func(f store.Frame) (store.Result, error) {
		if f.Raw == nil {
			return store.Result{}, errors.New("constraint")
		}
		return store.Result{}, nil
	}
	if err := b.Take(t.Context(), b.frame(t, 1, "x")); err != nil {
		t.Fatal(err)
	}
	if len(b.db.frames) != 1 || b.db.frames[0].Why != "constraint" {
		t.Errorf("%+v", b.db.frames)
	}
	b.db.commit = func(store.Frame) (store.Result, error) { return store.Result{}, store.ErrUnstorable }
	if err := b.Take(t.Context(), b.frame(t, 2, "x")); err != nil {
		t.Fatal(err)
	}
	last := b.receipts.due[len(b.receipts.due)-1]
	if len(last.rejected) != 1 || last.rejected[0].Seqs != (telemetry.Range{First: 2, Last: 2}) || last.rejected[0].Reason == "" {
		t.Errorf("%+v", last)
	}
}

// A key is asked for once in a while, and at once when an agent signs with a new
// one.
func TestNewKeyIsHeardAtOnce(t *testing.T) {
	b := setUp(t)
	for range 5 {
		if err := b.Take(t.Context(), b.frame(t, 1, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if b.db.asked != 1 {
		t.Errorf("asked %d times", b.db.asked)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.db.keys["a"], b.key = pub, key
	if err := b.Take(t.Context(), b.frame(t, 2, "x")); err != nil || len(b.db.frames) != 6 {
		t.Errorf("%d frames, %v", len(b.db.frames), err)
	}
}

// A flood of frames that somebody else signed in an agent's name asks the store
// once in a while, and neither keeps the agent's own frames from being stored nor
// a new key from being heard.
func TestForgeriesAskSparingly(t *testing.T) {
	b := setUp(t)
	own := b.key
	_, forger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.key = forger
	forged := b.frame(t, 1, "x")
	b.key = own
	start := time.Now()
	for seq := range uint64(200) {
		for range 5 {
			if err := b.Take(t.Context(), forged); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Take(t.Context(), b.frame(t, seq+1, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if most := 3 + int(time.Since(start)/doubtGap); b.db.asked > most || len(b.db.frames) != 200 || b.results(t, resultRejected) != 1000 {
		t.Errorf("asked %d times, at most %d; %d frames", b.db.asked, most, len(b.db.frames))
	}
	b.db.keys["a"], b.key = forger.Public().(ed25519.PublicKey), forger
	for deadline := time.Now().Add(time.Minute); len(b.db.frames) == 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new key is not heard")
		}
		if err := b.Take(t.Context(), forged); err != nil {
			t.Fatal(err)
		}
	}
}

// No more frames are worked on than there are slots, and one that waits too long
// for a slot comes again.
func TestSlotsBoundTheWork(t *testing.T) {
	b := setUp(t)
	hold, entered := make(chan struct{}), make(chan struct{}, 10)
	b.opt.Store = slow{b.db, hold, entered}
	raw := b.frame(t, 1, "x")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.Take(context.Background(), raw); err != nil {
				t.Error(err)
			}
		})
	}
	for range 4 {
		<-entered
	}
	if b.Load() != 1 {
		t.Errorf("load %v", b.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Take(ctx, raw); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("fifth frame: %v", err)
	}
	close(hold)
	wg.Wait()
	if b.Load() != 0 {
		t.Errorf("load %v", b.Load())
	}
}

// slow commits when it is let.
type slow struct {
	*database
	hold    chan struct{}
	entered chan struct{}
}

func (s slow) Commit(ctx context.Context, f store.Frame) (store.Result, error) {
	s.entered <- struct{}{}
	<-s.hold
	return s.database.Commit(ctx, f)
}

// A signed frame whose body opens to far more than a frame holds is quarantined
// in bounded memory: the agent's key does not make it trusted with ours.
func TestBombTakesBoundedMemory(t *testing.T) {
	b := setUp(t)
	var before, after runtime.MemStats
	for _, claim := range []bool{true, false} {
		bomb := b.bomb(t, claim)
		runtime.ReadMemStats(&before)
		for range 10 {
			if err := b.Take(t.Context(), bomb); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 10*3*telemetry.MaxBody {
			t.Errorf("10 bombs of 512 MiB (size declared: %t) allocated %d MiB", claim, grown>>20)
		}
	}
	if len(b.db.frames) != 20 || b.results(t, resultQuarantined) != 20 {
		t.Fatalf("%d frames", len(b.db.frames))
	}
	for _, f := range b.db.frames {
		if f.Records != nil || f.Raw == nil {
			t.Error("a bomb was opened")
		}
	}
}

// bomb is a frame, signed as it should be, whose body opens to 512 MiB.
func (b *bench) bomb(t *testing.T, declared bool) []byte {
	t.Helper()
	good, err := telemetry.ParseFrame(b.frame(t, 1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	enc, err := zstd.NewWriter(&z, zstd.WithWindowSize(256<<10))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 512<<20)
	body := enc.EncodeAll(zeros, nil)
	if !declared {
		if _, err := enc.Write(zeros); err != nil {
			t.Fatal(err)
		}
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		body = z.Bytes()
	}
	_, _, n := protowire.ConsumeField(good.Bytes())
	header, _ := protowire.ConsumeBytes(good.Bytes()[1:n])
	d := sha256.New()
	d.Write([]byte("holdfast/frame/1\x00"))
	d.Write(binary.BigEndian.AppendUint32(nil, uint32(len(header))))
	d.Write(header)
	d.Write(body)
	var out []byte
	for i, part := range [][]byte{header, body, ed25519.Sign(b.key, d.Sum(nil))} {
		out = protowire.AppendTag(out, protowire.Number(i+1), protowire.BytesType)
		out = protowire.AppendBytes(out, part)
	}
	return out
}

// Take under noise costs little: this is what a flood of forged frames costs.
func BenchmarkReject(b *testing.B) {
	s := setUp(b)
	raw := s.frame(b, 1, "x")
	raw[len(raw)-1] ^= 1
	for b.Loop() {
		if err := s.Take(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}
