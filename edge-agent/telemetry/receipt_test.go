package telemetry_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

var (
	issued     = time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC)
	rootKey    = keyOf("root")
	newRootKey = keyOf("new root")
	receiptKey = keyOf("receipt")
)

// keyOf returns the same key for the same name.
func keyOf(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func pub(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// certify vouches with issuer for key, for an hour on either side of issued.
func certify(t testing.TB, role telemetry.Role, key, issuer ed25519.PrivateKey) telemetry.Certificate {
	t.Helper()
	c, err := telemetry.NewCertificate(role, pub(key), issued.Add(-time.Hour), issued.Add(time.Hour), issuer)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func signer(t testing.TB) telemetry.ReceiptSigner {
	return telemetry.ReceiptSigner{Key: receiptKey, Chain: []telemetry.Certificate{certify(t, telemetry.RoleReceipt, receiptKey, rootKey)}}
}

func fullReceipt() telemetry.Receipt {
	return telemetry.Receipt{
		Cloud: "cloud.example.org", Agent: "greenhouse-pi-7", Revision: 812, Issued: issued,
		Epochs: []telemetry.EpochReceipt{
			{Epoch: testEpoch, Watermark: 4000, Held: []telemetry.Range{{First: 4002, Last: 4002}, {First: 4010, Last: 4999}}},
			{Epoch: telemetry.Epoch{Ordinal: 11, ID: [8]byte{1}}, Watermark: 81_234},
		},
		Again:      []telemetry.EpochRange{{Epoch: testEpoch, Seqs: telemetry.Range{First: 17, Last: 20}}},
		Rejected:   []telemetry.Rejection{{Epoch: testEpoch, Seqs: telemetry.Range{First: 4001, Last: 4001}, Reason: "body of 9000000 bytes"}},
		Window:     512 << 10,
		RetryAfter: 1500 * time.Millisecond,
		Revoked:    true,
	}
}

func encodeReceipt(t testing.TB, r telemetry.Receipt) []byte {
	t.Helper()
	b, err := telemetry.EncodeReceipt(r, signer(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A receipt comes out as it went in, the full one and the empty one.
func TestReceiptsRoundTrip(t *testing.T) {
	for _, want := range []telemetry.Receipt{fullReceipt(), {Cloud: "c", Agent: "a"}, {Cloud: "c", Agent: "a", RetryAfter: math.MaxInt64, Window: math.MaxUint64}} {
		got, err := telemetry.OpenReceipt(encodeReceipt(t, want), want.Agent, pub(rootKey), issued)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v (%v)", got, want, err)
		}
	}
}

// Whatever ranges are held, they come out as they went in.
func TestHeldRangesRoundTrip(t *testing.T) {
	for range 200 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		want := fullReceipt()
		want.Epochs = nil
		for i := range rng.IntN(telemetry.MaxEpochs) + 1 {
			e := telemetry.EpochReceipt{Epoch: telemetry.Epoch{Ordinal: uint64(i), ID: [8]byte{1}}, Watermark: rng.Uint64() >> rng.IntN(64)}
			end := e.Watermark
			for range rng.IntN(telemetry.MaxHeld + 1) {
				gap, more := 1+rng.Uint64N(1<<rng.IntN(60)), rng.Uint64N(1<<rng.IntN(60))
				if gap > math.MaxUint64-end || more > math.MaxUint64-end-gap {
					break
				}
				e.Held = append(e.Held, telemetry.Range{First: end + gap, Last: end + gap + more})
				end += gap + more
			}
			want.Epochs = append(want.Epochs, e)
		}
		got, err := telemetry.OpenReceipt(encodeReceipt(t, want), want.Agent, pub(rootKey), issued)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("seed %d: got %+v, want %+v (%v)", seed, got, want, err)
		}
	}
}

// A receipt at every limit at once fits into MaxReceipt, with the longest chain.
func TestTheLargestReceiptFits(t *testing.T) {
	r := telemetry.Receipt{
		Cloud: strings.Repeat("c", telemetry.MaxCloud), Agent: strings.Repeat("a", 63), Revision: math.MaxUint64, Issued: time.Unix(1<<33, 0),
		Window: math.MaxUint64, RetryAfter: math.MaxInt64, Revoked: true,
	}
	epoch := telemetry.Epoch{Ordinal: math.MaxUint64, ID: [8]byte{255}}
	far := telemetry.Range{First: math.MaxUint64, Last: math.MaxUint64}
	for range telemetry.MaxEpochs {
		e := telemetry.EpochReceipt{Epoch: epoch, Watermark: 1 << 56}
		for i := range uint64(telemetry.MaxHeld) {
			e.Held = append(e.Held, telemetry.Range{First: (2*i + 2) << 57, Last: (2*i + 3) << 57})
		}
		r.Epochs = append(r.Epochs, e)
	}
	for range telemetry.MaxAgain {
		r.Again = append(r.Again, telemetry.EpochRange{Epoch: epoch, Seqs: far})
	}
	for range telemetry.MaxRejected {
		r.Rejected = append(r.Rejected, telemetry.Rejection{Epoch: epoch, Seqs: far, Reason: strings.Repeat("r", telemetry.MaxReason)})
	}
	s := signer(t)
	for len(s.Chain) < telemetry.MaxChain {
		s.Chain = append(s.Chain, certify(t, telemetry.RoleRoot, rootKey, rootKey))
	}
	b, err := telemetry.EncodeReceipt(r, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, at most %d", len(b), telemetry.MaxReceipt)
	if _, err := telemetry.OpenReceipt(b, r.Agent, pub(rootKey), issued); err != nil {
		t.Error(err)
	}
}

// What no receipt can hold is refused; a reason that is too long, or no UTF-8,
// is cut: it must not keep the rest from being said.
func TestEncodeReceiptRefuses(t *testing.T) {
	for name, change := range map[string]func(*telemetry.Receipt){
		"no cloud":                func(r *telemetry.Receipt) { r.Cloud = "" },
		"long cloud":              func(r *telemetry.Receipt) { r.Cloud = strings.Repeat("c", 254) },
		"cloud that is no UTF-8":  func(r *telemetry.Receipt) { r.Cloud = "\xff" },
		"bad agent":               func(r *telemetry.Receipt) { r.Agent = "A" },
		"too many epochs":         func(r *telemetry.Receipt) { r.Epochs = make([]telemetry.EpochReceipt, telemetry.MaxEpochs+1) },
		"no epoch":                func(r *telemetry.Receipt) { r.Epochs[0].Epoch = telemetry.Epoch{} },
		"too many held":           func(r *telemetry.Receipt) { r.Epochs[0].Held = make([]telemetry.Range, telemetry.MaxHeld+1) },
		"held below watermark":    func(r *telemetry.Receipt) { r.Epochs[0].Held[0].First = 4000 },
		"held backwards":          func(r *telemetry.Receipt) { r.Epochs[0].Held[1].Last = 4009 },
		"held that overlap":       func(r *telemetry.Receipt) { r.Epochs[0].Held[1].First = 4002 },
		"too many again":          func(r *telemetry.Receipt) { r.Again = make([]telemetry.EpochRange, telemetry.MaxAgain+1) },
		"again of nothing":        func(r *telemetry.Receipt) { r.Again[0].Seqs.Last = 16 },
		"again from 0":            func(r *telemetry.Receipt) { r.Again[0].Seqs.First = 0 },
		"too many rejected":       func(r *telemetry.Receipt) { r.Rejected = make([]telemetry.Rejection, telemetry.MaxRejected+1) },
		"rejected of no epoch":    func(r *telemetry.Receipt) { r.Rejected[0].Epoch = telemetry.Epoch{} },
		"retry after before then": func(r *telemetry.Receipt) { r.RetryAfter = -1 },
	} {
		r := fullReceipt()
		change(&r)
		if _, err := telemetry.EncodeReceipt(r, signer(t)); !errors.Is(err, telemetry.ErrReceipt) {
			t.Errorf("%s: %v, want ErrReceipt", name, err)
		}
	}
	r := fullReceipt()
	r.Rejected[0].Reason = strings.Repeat("é", telemetry.MaxReason)[1:]
	got, err := telemetry.OpenReceipt(encodeReceipt(t, r), r.Agent, pub(rootKey), issued)
	if want := strings.Repeat("é", telemetry.MaxReason/2-1); err != nil || got.Rejected[0].Reason != want {
		t.Errorf("reason %q (%v)", got.Rejected[0].Reason, err)
	}
	for name, s := range map[string]telemetry.ReceiptSigner{
		"no chain":       {Key: receiptKey},
		"another key":    {Key: rootKey, Chain: signer(t).Chain},
		"too long chain": {Key: receiptKey, Chain: slicesRepeat(signer(t).Chain, telemetry.MaxChain+1)},
	} {
		if _, err := telemetry.EncodeReceipt(fullReceipt(), s); !errors.Is(err, telemetry.ErrReceipt) {
			t.Errorf("%s: %v, want ErrReceipt", name, err)
		}
	}
}

func slicesRepeat[T any](s []T, n int) (out []T) {
	for range n {
		out = append(out, s...)
	}
	return out
}

// A receipt for another agent is told apart from a forged one.
func TestAReceiptIsForOneAgent(t *testing.T) {
	if _, err := telemetry.OpenReceipt(encodeReceipt(t, fullReceipt()), "other", pub(rootKey), issued); !errors.Is(err, telemetry.ErrOtherAgent) {
		t.Errorf("%v, want ErrOtherAgent", err)
	}
}

// No bit of a receipt can be changed, and no byte added or taken away, without
// OpenReceipt noticing.
func TestEveryBitOfAReceiptIsSigned(t *testing.T) {
	r := fullReceipt()
	b := encodeReceipt(t, r)
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := telemetry.OpenReceipt(b, r.Agent, pub(rootKey), issued); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	for bit := range 8 * len(b) {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d changed", bit), c)
	}
	for n := range b {
		refused(fmt.Sprintf("cut at %d", n), b[:n])
	}
	refused("a byte more", append(bytes.Clone(b), 0))
	refused("a field more", append(bytes.Clone(b), 0x22, 0))
	refused("twice", append(bytes.Clone(b), b...))
	refused("too long", make([]byte, telemetry.MaxReceipt+1))
}

// A device that pinned the old root believes the new one through the old one's
// word; a device that pinned the new one needs no more than that; a device of
// another cloud believes neither.
func TestTheRootCanBeReplaced(t *testing.T) {
	chain := []telemetry.Certificate{
		certify(t, telemetry.RoleReceipt, receiptKey, newRootKey),
		certify(t, telemetry.RoleRoot, newRootKey, rootKey),
	}
	b, err := telemetry.EncodeReceipt(fullReceipt(), telemetry.ReceiptSigner{Key: receiptKey, Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []ed25519.PrivateKey{rootKey, newRootKey} {
		if _, err := telemetry.OpenReceipt(b, "greenhouse-pi-7", pub(root), issued); err != nil {
			t.Errorf("root %s: %v", telemetry.Fingerprint(pub(root)), err)
		}
	}
	if _, err := telemetry.OpenReceipt(b, "greenhouse-pi-7", pub(keyOf("stranger")), issued); !errors.Is(err, telemetry.ErrCertificate) {
		t.Errorf("a stranger's root: %v", err)
	}
}

// A chain counts only when each link has the right role and the right issuer:
// above all, a receipt key cannot vouch for another key.
func TestChainsAreStrict(t *testing.T) {
	stranger := keyOf("stranger")
	forged := certify(t, telemetry.RoleReceipt, receiptKey, stranger)
	forged.Issuer = telemetry.Fingerprint(pub(rootKey))
	for name, chain := range map[string][]telemetry.Certificate{
		"signed by a stranger":       {certify(t, telemetry.RoleReceipt, receiptKey, stranger)},
		"issuer's name only":         {forged},
		"a root signs receipts":      {certify(t, telemetry.RoleRoot, receiptKey, rootKey)},
		"a receipt key vouches":      {certify(t, telemetry.RoleReceipt, receiptKey, stranger), certify(t, telemetry.RoleReceipt, stranger, rootKey)},
		"a link is missing":          {certify(t, telemetry.RoleReceipt, receiptKey, stranger), certify(t, telemetry.RoleRoot, newRootKey, rootKey)},
		"a link for another":         {certify(t, telemetry.RoleReceipt, receiptKey, newRootKey), certify(t, telemetry.RoleRoot, stranger, rootKey)},
		"vouched for by itself only": {certify(t, telemetry.RoleReceipt, receiptKey, stranger), certify(t, telemetry.RoleRoot, stranger, stranger)},
	} {
		b, err := telemetry.EncodeReceipt(fullReceipt(), telemetry.ReceiptSigner{Key: receiptKey, Chain: chain})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := telemetry.OpenReceipt(b, "greenhouse-pi-7", pub(rootKey), issued); !errors.Is(err, telemetry.ErrCertificate) {
			t.Errorf("%s: %v, want ErrCertificate", name, err)
		}
	}
}

// A certificate counts from its first second to its last, and always for a
// device that does not know the time.
func TestCertificatesExpire(t *testing.T) {
	b := encodeReceipt(t, fullReceipt())
	first, last := issued.Truncate(time.Second).Add(-time.Hour), issued.Truncate(time.Second).Add(time.Hour)
	for at, want := range map[time.Time]error{
		first.Add(-1): telemetry.ErrCertificate,
		first:         nil,
		last:          nil,
		last.Add(1):   telemetry.ErrCertificate,
		{}:            nil,
	} {
		if _, err := telemetry.OpenReceipt(b, "greenhouse-pi-7", pub(rootKey), at); !errors.Is(err, want) {
			t.Errorf("at %s: %v, want %v", at, err, want)
		}
	}
}

// A certificate for what is no key, or no role, cannot be made.
func TestNewCertificateRefuses(t *testing.T) {
	for name, err := range map[string]error{
		"role":      second(telemetry.NewCertificate(3, pub(receiptKey), issued, issued, rootKey)),
		"short key": second(telemetry.NewCertificate(telemetry.RoleReceipt, pub(receiptKey)[:31], issued, issued, rootKey)),
	} {
		if !errors.Is(err, telemetry.ErrCertificate) {
			t.Errorf("%s: %v, want ErrCertificate", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
