package storetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/ledger"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// maintained opens the database so many days after sent, with a retention of two
// days, and lets it remove what is old.
func maintained(t *testing.T, db Database, days int) store.Store {
	t.Helper()
	st := db.Open(t, sent.Add(time.Duration(days)*24*time.Hour), 48*time.Hour)
	if err := st.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	return st
}

// Losses, anchors and quarantined frames go as readings do, and the ledger calls
// them expired: what is explained stays explained, and coming again it stores
// nothing. Samples of what nobody signed have a bound of their own.
func retentionExpiresTheRest(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	loss := telemetry.Record{Seq: 3, Kind: telemetry.KindLoss, Loss: &telemetry.Loss{Epoch: epoch(9), Seqs: telemetry.Range{First: 1, Last: 7}, Reason: telemetry.ReasonDropped, Count: 7}}
	never := synchronised(4, 4)
	never.Anchor.Synchronised = false
	old := of(epoch(1), synchronised(1, 1), synchronised(2, 2), loss, never)
	commit(t, st, old)
	raw := store.Frame{Agent: "a", Epoch: epoch(2), First: 5, Last: 6, Raw: []byte("raw"), Why: "broken", Received: sent}
	commit(t, st, raw)
	if err := st.Reject(t.Context(), store.Rejected{Agent: "a", Why: "no", Received: sent}); err != nil {
		t.Fatal(err)
	}
	late := raw
	late.First, late.Last, late.Received = 8, 8, sent.Add(4*24*time.Hour)
	for _, step := range []struct {
		day                        int
		held, expired, quarantined uint64
		frames                     int
	}{
		{1, 4, 0, 2, 2},
		{3, 3, 3, 0, 1}, // the loss and the frame; anchors a day later, but the last
		{4, 1, 5, 1, 2},
	} {
		st = maintained(t, db, step.day)
		if step.day == 4 {
			commit(t, st, late)
			st = maintained(t, db, step.day)
		}
		a := find(t, st, "a")
		list, err := st.Quarantine(t.Context(), 0, 10)
		if err != nil || a.Held != step.held || a.Expired != step.expired || a.Quarantined != step.quarantined || a.Lost != 7 || len(list) != step.frames {
			t.Errorf("after %d days: %+v, %d frames, %v", step.day, a.Totals, len(list), err)
		}
	}
	old.Received, raw.Received = sent.Add(4*24*time.Hour), sent.Add(4*24*time.Hour)
	for _, f := range []store.Frame{old, raw} {
		if r := commit(t, st, f); r.Records != 0 {
			t.Errorf("%s: %d records stored again", f.Epoch, r.Records)
		}
	}
	e, err := st.Epochs(t.Context(), "a", telemetry.Epoch{}, 9)
	if err != nil || len(e) != 3 {
		t.Fatalf("%d epochs, %v", len(e), err)
	}
	if l := e[2].Ledger; l.Watermark() != 4 || !slices.Equal(l.Expired, ledger.Set{{First: 1, Last: 1}, {First: 3, Last: 4}}) {
		t.Errorf("epoch 1: %+v", l)
	}
	if l := e[1].Ledger; !slices.Equal(l.Expired, ledger.Set{{First: 5, Last: 6}}) || !slices.Equal(l.Quarantined, ledger.Set{{First: 8, Last: 8}}) {
		t.Errorf("epoch 2: %+v", l)
	}
}

// The last anchor of an epoch stays however old it is, since readings that were
// recorded without a network come much later; the ones before it go.
func neededAnchorStays(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	commit(t, st, of(epoch(1), start(1), synchronised(2, 1), synchronised(3, 2)))
	f := of(epoch(1), at1970(4, 100))
	f.Received = sent.Add(9 * 24 * time.Hour)
	commit(t, maintained(t, db, 9), f)
	st = maintained(t, db, 10)
	if a := find(t, st, "a"); a.Expired != 1 || a.Held != 3 {
		t.Errorf("%+v", a.Totals)
	}
	f = of(epoch(1), at1970(5, 200))
	f.Received = sent.Add(10 * 24 * time.Hour)
	commit(t, st, f)
	if got := corrected(t, st); !slices.Equal(got, []float64{100, 200}) {
		t.Errorf("corrected %v", got)
	}
}

// Tokens that expired more than a month ago are forgotten, with who used them.
func oldTokensGo(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	for _, day := range []int{30, 40} {
		_, err := maintained(t, db, day).Token(t.Context(), "for-a")
		there := day == 30
		if there && err != nil || !there && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after %d days: %v", day, err)
		}
	}
	if a := find(t, st, "a"); a.Name != "a" {
		t.Errorf("%+v", a)
	}
}
