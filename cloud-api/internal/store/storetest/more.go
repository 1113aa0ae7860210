package storetest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// more returns the tests of what happens seldom, or at the limits.
func more() map[string]func(*testing.T, Database) {
	return map[string]func(*testing.T, Database){
		"OneAgentFromManyCallers":      oneAgentFromManyCallers,
		"LargestFrame":                 largestFrame,
		"LossOfThousandsOfEpochs":      lossOfThousandsOfEpochs,
		"AnchorOfTheSameBootServes":    anchorOfTheSameBootServes,
		"BootKnownLaterCorrects":       bootKnownLaterCorrects,
		"ClockFrom1970IsBounded":       clockFrom1970IsBounded,
		"DriftChangesNoStoredTime":     driftChangesNoStoredTime,
		"ReceiptKeepsTheOrderAskedFor": receiptKeepsTheOrderAskedFor,
		"AgentsAndEpochsComeInPages":   agentsAndEpochsComeInPages,
		"LastUseOfATokenGoesToOne":     lastUseOfATokenGoesToOne,
		"NewKeyKeepsWhatIsStored":      newKeyKeepsWhatIsStored,
		"CancelledCallsAreUnavailable": cancelledCallsAreUnavailable,
		"TopicsOfAgentsAreApart":       topicsOfAgentsAreApart,
		"ExpiredHoleStaysExplained":    expiredHoleStaysExplained,
		"FailedFrameHarmsNoOther":      failedFrameHarmsNoOther,
		"RetentionExpiresTheRest":      retentionExpiresTheRest,
		"NeededAnchorStays":            neededAnchorStays,
		"OldTokensGo":                  oldTokensGo,
		"RevokedAgentStoresNothing":    revokedAgentStoresNothing,
		"NewTokenEndsARevocation":      newTokenEndsARevocation,
	}
}

// Many callers with the same frames of one agent at once: each record once, and
// each caller is told that it is there.
func oneAgentFromManyCallers(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	const frames, size = 20, 50
	var inserted atomic.Int64
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range frames {
				n := uint64((i*7 + c*3) % frames) // each in an order of its own
				r, err := st.Commit(context.Background(), frame("a", epoch(1), n*size+1, (n+1)*size))
				if err != nil {
					t.Error(err)
					return
				}
				inserted.Add(int64(r.Records))
			}
		})
	}
	wg.Wait()
	a := find(t, st, "a")
	if inserted.Load() != frames*size || a.Held != frames*size || a.Readings != frames*size || a.LeadMark != 0 {
		t.Errorf("%d inserted, %+v", inserted.Load(), a)
	}
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != frames*size {
		t.Errorf("%d readings", len(got))
	}
}

// The largest frame there can be is one transaction like any other.
func largestFrame(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	f := frame("a", epoch(1), 1, telemetry.MaxRecords)
	for range 2 {
		commit(t, st, f)
	}
	if a := find(t, st, "a"); a.Readings != telemetry.MaxRecords || a.Held != telemetry.MaxRecords {
		t.Errorf("%+v", a)
	}
	p, err := st.Readings(t.Context(), store.Query{Agent: "a", Desc: true, Limit: 1})
	if err != nil || p.Readings[0].Seq != telemetry.MaxRecords || string(p.Readings[0].Payload) != fmt.Sprint(telemetry.MaxRecords) {
		t.Errorf("%+v, %v", p, err)
	}
}

// A device that gave up a year of restarts says so in one frame.
func lossOfThousandsOfEpochs(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	const lost = 3000
	f := store.Frame{Agent: "a", Epoch: telemetry.Epoch{Ordinal: lost + 1}, First: 1, Last: lost, Received: sent}
	for i := range uint64(lost) {
		f.Records = append(f.Records, telemetry.Record{Seq: i + 1, Kind: telemetry.KindLoss, Loss: &telemetry.Loss{
			Epoch: telemetry.Epoch{Ordinal: i + 1}, Seqs: telemetry.Range{First: 1, Last: 10}, Reason: telemetry.ReasonDropped, Count: 10,
		}})
	}
	commit(t, st, f)
	if a := find(t, st, "a"); a.Lost != 10*lost || a.Held != lost || len(a.Alarms) != 0 {
		t.Errorf("%+v", a.Totals)
	}
}

// start is the first record of an epoch in a boot.
func start(boot byte) telemetry.Record {
	return telemetry.Record{Seq: 1, Kind: telemetry.KindStart, At: telemetry.Instant{Boot: time.Second}, Start: &telemetry.Start{Boot: [16]byte{boot}, Version: "1"}}
}

// at1970 is a reading so many seconds after boot, by a clock that was never set.
func at1970(seq uint64, seconds int) telemetry.Record {
	r := reading(seq, "t", nil)
	boot := time.Duration(seconds) * time.Second
	r.At = telemetry.Instant{Boot: boot, Wall: int64(boot)}
	return r
}

// synchronised is an anchor so many seconds after a boot that was at sent.
func synchronised(seq uint64, seconds int) telemetry.Record {
	boot := time.Duration(seconds) * time.Second
	return telemetry.Record{
		Seq: seq, Kind: telemetry.KindAnchor, At: telemetry.Instant{Boot: boot, Wall: sent.UnixNano() + int64(boot)}, Anchor: &telemetry.Anchor{Synchronised: true},
	}
}

func of(e telemetry.Epoch, recs ...telemetry.Record) store.Frame {
	return store.Frame{Agent: "a", Epoch: e, First: recs[0].Seq, Last: recs[len(recs)-1].Seq, Records: recs, Received: sent.Add(time.Hour)}
}

// corrected returns the corrected times of the agent's readings, in seconds
// after sent.
func corrected(t *testing.T, st store.Store) (out []float64) {
	t.Helper()
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range all(t, st, store.Query{Agent: "a"}) {
		out = append(out, time.Duration(r.Corrected-sent.UnixNano()).Seconds())
	}
	return out
}

// An agent that is started again in the same boot needs no anchor of its own.
func anchorOfTheSameBootServes(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, of(epoch(1), start(7), synchronised(2, 10)))
	commit(t, st, of(epoch(2), start(7), at1970(2, 60)))
	another := reading(2, "t", nil)
	another.At.Wall = sent.Add(1800 * time.Second).UnixNano()
	commit(t, st, of(epoch(3), start(8), another))              // another boot, whose clock seems right
	commit(t, st, of(epoch(4), start(9), reading(2, "t", nil))) // and one whose clock went back behind it
	if got := corrected(t, st); !slices.Equal(got, []float64{60, 1800, 1800}) {
		t.Errorf("%v", got)
	}
}

// When the start record comes last, what its boot's clock said elsewhere counts
// for the readings that are stored already.
func bootKnownLaterCorrects(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, of(epoch(2), at1970(2, 60), at1970(3, 61)))
	commit(t, st, of(epoch(1), start(7), synchronised(2, 10)))
	commit(t, st, of(epoch(2), start(7)))
	if got := corrected(t, st); !slices.Equal(got, []float64{60, 61}) {
		t.Errorf("%v", got)
	}
}

// Without any anchor a time of 1970 becomes the latest that is possible: the
// frame was sent so long after its boot and received then.
func clockFrom1970IsBounded(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	f := of(epoch(1), start(7), at1970(2, 60))
	f.Sent = telemetry.Instant{Boot: 100 * time.Second}
	f.Received = sent.Add(100 * time.Second)
	commit(t, st, f)
	if got := corrected(t, st); !slices.Equal(got, []float64{60}) {
		t.Errorf("%v", got)
	}
}

// A later anchor that only drifted rewrites nothing: the recorded times stand.
func driftChangesNoStoredTime(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	r := reading(3, "t", nil)
	r.At = telemetry.Instant{Boot: 20 * time.Second, Wall: sent.Add(20*time.Second + 300*time.Millisecond).UnixNano()}
	commit(t, st, of(epoch(1), start(7), synchronised(2, 10), r))
	late := synchronised(4, 30)
	late.At.Wall += int64(200 * time.Millisecond)
	commit(t, st, of(epoch(1), late))
	if got := corrected(t, st); !slices.Equal(got, []float64{20.3}) {
		t.Errorf("%v", got)
	}
}

// A receipt has the epochs in the order asked for, without those not known, and
// its revision never falls.
func receiptKeepsTheOrderAskedFor(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	var last uint64
	for n := uint64(1); n <= 4; n++ {
		commit(t, st, frame("a", epoch(n), 1, n))
		r, err := st.Receipt(t.Context(), "a", []telemetry.Epoch{epoch(n), epoch(99), epoch(1)})
		if err != nil || r.Revision <= last || len(r.Epochs) != 2 || r.Epochs[0].Epoch != epoch(n) || r.Epochs[0].Ledger.Watermark() != n || r.Epochs[1].Epoch != epoch(1) {
			t.Errorf("%+v, %v", r, err)
		}
		last = r.Revision
	}
	if _, err := st.Receipt(t.Context(), "nobody", nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// Lists come in pages that cover them once.
func agentsAndEpochsComeInPages(t *testing.T, db Database) {
	st := open(t, db)
	for _, name := range []string{"b", "a-2", "a", "c", "a-10"} {
		agent(t, st, name)
	}
	var names []string
	for after := ""; ; {
		list, err := st.Agents(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			names = append(names, a.Name)
		}
		if len(list) < 2 {
			break
		}
		after = list[len(list)-1].Name
	}
	if want := []string{"a", "a-10", "a-2", "b", "c"}; !slices.Equal(names, want) { // by bytes, on every database
		t.Errorf("%v, want %v", names, want)
	}
	for n := uint64(1); n <= 7; n++ {
		commit(t, st, frame("a", epoch(n), 1, 1))
	}
	var ordinals []uint64
	for below := (telemetry.Epoch{}); ; {
		list, err := st.Epochs(t.Context(), "a", below, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			ordinals = append(ordinals, e.Epoch.Ordinal)
		}
		if len(list) < 3 {
			break
		}
		below = list[len(list)-1].Epoch
	}
	if want := []uint64{7, 6, 5, 4, 3, 2, 1}; !slices.Equal(ordinals, want) {
		t.Errorf("%v, want %v", ordinals, want)
	}
}

// Of many devices that come with a token at once, as many get in as it says.
func lastUseOfATokenGoesToOne(t *testing.T, db Database) {
	st := open(t, db)
	if err := st.CreateToken(t.Context(), store.Token{ID: "f", Uses: 3, Expires: sent.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	var in atomic.Int64
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			err := st.Enrol(context.Background(), "f", fmt.Sprintf("a-%d", i), bytes.Repeat([]byte{byte(i)}, 32), sent)
			if err == nil {
				in.Add(1)
			} else if !errors.Is(err, store.ErrToken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := st.Agents(t.Context(), "", 100)
	if err != nil || in.Load() != 3 || len(list) != 3 {
		t.Errorf("%d let in, %d agents, %v", in.Load(), len(list), err)
	}
	if tok, err := st.Token(t.Context(), "f"); err != nil || tok.Used != 3 {
		t.Errorf("%+v, %v", tok, err)
	}
}

// A token is made once; an agent that gets a new key keeps what is stored.
func newKeyKeepsWhatIsStored(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, frame("a", epoch(1), 1, 5))
	tok := store.Token{ID: "again", Agent: "a", Uses: 1, Expires: sent.Add(time.Hour)}
	if err := st.CreateToken(t.Context(), tok); err != nil {
		t.Fatal(err)
	}
	if err := st.CreateToken(t.Context(), tok); err == nil {
		t.Error("two tokens with one id")
	}
	key := ed25519.PublicKey(bytes.Repeat([]byte{9}, 32))
	if err := st.Enrol(t.Context(), "again", "a", key, sent); err != nil {
		t.Fatal(err)
	}
	if a := find(t, st, "a"); a.Held != 5 || !a.Key.Equal(key) {
		t.Errorf("%+v", a)
	}
}

// A caller that gave up stores nothing that it was told of, and harms no other.
func cancelledCallsAreUnavailable(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Commit(ctx, frame("a", epoch(1), 1, 5)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	commit(t, st, frame("a", epoch(1), 1, 5))
	if a := find(t, st, "a"); a.Held != 5 || a.Readings != 5 {
		t.Errorf("%+v", a)
	}
}

// Two agents with the same topic have two topics.
func topicsOfAgentsAreApart(t *testing.T, db Database) {
	st := open(t, db)
	for _, name := range []string{"a", "b"} {
		agent(t, st, name)
		f := frame(name, epoch(1), 1, 3)
		for i := range f.Records {
			f.Records[i].Reading.Payload = []byte(name)
		}
		commit(t, st, f)
	}
	n := 0
	err := st.Values(t.Context(), "b", "t/0", 0, sent.Add(time.Hour).UnixNano(), func(_ int64, payload []byte) error {
		if n++; string(payload) != "b" {
			t.Errorf("payload of %s", payload)
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("%d values, %v", n, err)
	}
	if list, err := st.Topics(t.Context(), "a", "", 10); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// What expired is explained: a device whose lowest is above it leaves no hole.
func expiredHoleStaysExplained(t *testing.T, db Database) {
	const days = 24 * time.Hour
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, frame("a", epoch(1), 1, 20))
	st = db.Open(t, sent.Add(3*days), days)
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := with(frame("a", epoch(1), 21, 21), telemetry.OpenEpoch{Epoch: epoch(1), Lowest: 21, Durable: 21, Trimmed: 20})
	f.Received = sent.Add(3 * days)
	commit(t, st, f)
	if a := find(t, st, "a"); a.Expired != 20 || a.Missing != 0 || len(a.Alarms) != 0 {
		t.Errorf("%+v", a)
	}
}

// Frames that fail while others are committed take none of them along.
func failedFrameHarmsNoOther(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	var wg sync.WaitGroup
	for i := range uint64(20) {
		wg.Go(func() {
			if _, err := st.Commit(context.Background(), frame("a", epoch(1), i*5+1, i*5+5)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := st.Commit(context.Background(), frame("nobody", epoch(1), 1, 5)); !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != 100 {
		t.Errorf("%d readings", len(got))
	}
}
