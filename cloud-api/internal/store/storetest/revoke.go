package storetest

import (
	"crypto/ed25519"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Of an agent that was revoked nothing is stored and nothing moves, not even what
// would be quarantined; its receipts say so, also after a restart. What was there
// stays, and once it is allowed again it goes on where it was.
func revokedAgentStoresNothing(t *testing.T, db Database) {
	st := open(t, db)
	agent(t, st, "a")
	agent(t, st, "b")
	commit(t, st, frame("a", epoch(1), 1, 5))
	if err := st.Revoke(t.Context(), "nobody", sent); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown agent: %v", err)
	}
	before := find(t, st, "a")
	if err := st.Revoke(t.Context(), "a", sent); err != nil {
		t.Fatal(err)
	}
	st = open(t, db)
	raw := store.Frame{Agent: "a", Epoch: epoch(1), First: 8, Last: 8, Received: sent.Add(time.Minute), Raw: []byte("raw"), Why: "broken"}
	idle := with(store.Frame{Agent: "a", Epoch: epoch(2), Received: sent.Add(time.Minute)}, telemetry.OpenEpoch{Epoch: epoch(2), Lowest: 1, Durable: 9})
	for _, f := range []store.Frame{frame("a", epoch(1), 1, 5), frame("a", epoch(1), 6, 7), raw, idle} {
		if _, err := st.Commit(t.Context(), f); !errors.Is(err, store.ErrRevoked) {
			t.Errorf("%d-%d: %v", f.First, f.Last, err)
		}
	}
	commit(t, st, frame("b", epoch(1), 1, 3))
	after := find(t, st, "a")
	if !after.RevokedAt.Equal(sent) {
		t.Errorf("revoked at %s", after.RevokedAt)
	}
	if after.RevokedAt = before.RevokedAt; !reflect.DeepEqual(before, after) {
		t.Errorf("moved from %+v to %+v", before, after)
	}
	if got := all(t, st, store.Query{Agent: "a"}); len(got) != 5 {
		t.Errorf("%d readings", len(got))
	}
	for name, want := range map[string]bool{"a": true, "b": false} {
		r, err := st.Receipt(t.Context(), name, []telemetry.Epoch{epoch(1)})
		if err != nil || r.Revoked != want || len(r.Epochs) != 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if err := st.Revoke(t.Context(), "a", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if r := commit(t, st, frame("a", epoch(1), 4, 7)); r.Records != 2 {
		t.Errorf("%+v", r)
	}
	if r, err := st.Receipt(t.Context(), "a", nil); err != nil || r.Revoked {
		t.Errorf("%+v, %v", r, err)
	}
}

// The token that lies on a revoked device does not let it in again, nor does the
// fleet's; one made afterwards does.
func newTokenEndsARevocation(t *testing.T, db Database) {
	st := open(t, db)
	key := ed25519.PublicKey(make([]byte, 32))
	for _, tok := range []store.Token{
		{ID: "own", Agent: "pi-1", Uses: 1, Created: sent.Add(-time.Hour), Expires: sent.Add(time.Hour)},
		{ID: "fleet", Prefix: "pi-", Uses: 9, Created: sent.Add(-time.Hour), Expires: sent.Add(time.Hour)},
		{ID: "new", Agent: "pi-1", Uses: 1, Created: sent.Add(time.Minute), Expires: sent.Add(time.Hour)},
	} {
		if err := st.CreateToken(t.Context(), tok); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Enrol(t.Context(), "own", "pi-1", key, sent); err != nil {
		t.Fatal(err)
	}
	if err := st.Revoke(t.Context(), "pi-1", sent); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"own", "fleet"} {
		if err := st.Enrol(t.Context(), id, "pi-1", key, sent.Add(2*time.Minute)); !errors.Is(err, store.ErrToken) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := st.Enrol(t.Context(), "fleet", "pi-2", key, sent.Add(2*time.Minute)); err != nil {
		t.Errorf("another agent of the fleet: %v", err)
	}
	if err := st.Enrol(t.Context(), "new", "pi-1", key, sent.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	commit(t, st, frame("pi-1", epoch(1), 1, 3))
}
