package telemetry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/internal/wire"
)

// ErrReceipt is returned, wrapped with what is wrong, for bytes that are no
// receipt of a version known here, and for what no receipt can hold.
var ErrReceipt = errors.New("receipt")

// ErrOtherAgent is returned by OpenReceipt for a good receipt that the cloud made
// for another agent. Nothing may be deleted by it.
var ErrOtherAgent = errors.New("receipt for another agent")

// receiptDomain keeps a receipt's signature from being taken for anything else's.
const receiptDomain = "holdfast/receipt/1"

// Receipt is the cloud's statement of what it holds of one agent.
type Receipt struct {
	Cloud      string    // id of the cloud, 1 to MaxCloud bytes
	Agent      string    // for whom it is
	Revision   uint64    // of the ledger: grows with every statement
	Issued     time.Time // by the cloud's clock, UTC; zero: not said
	Epochs     []EpochReceipt
	Again      []EpochRange  // the cloud wants these once more
	Rejected   []Rejection   // frames to be cut anew
	Window     uint64        // bytes in flight that the cloud will take
	RetryAfter time.Duration // send nothing for so long; 0: no wait
	Revoked    bool          // the cloud takes nothing more from this agent
}

// EpochReceipt says what the cloud holds of one epoch. Everything up to Watermark is
// held or explained.
type EpochReceipt struct {
	Epoch     Epoch
	Watermark uint64
	Held      []Range // above the watermark, ascending, apart, at most MaxHeld
}

// EpochRange is a run of seqs of one epoch.
type EpochRange struct {
	Epoch Epoch
	Seqs  Range
}

// Rejection is a frame that the cloud could not take, and why.
type Rejection struct {
	Epoch  Epoch
	Seqs   Range
	Reason string // EncodeReceipt cuts it to MaxReason bytes
}

// ReceiptSigner is a receipt key with the certificates that lead from it to a
// root: its own first, then that of each issuer.
type ReceiptSigner struct {
	Key   ed25519.PrivateKey
	Chain []Certificate // 1 to MaxChain
}

// EncodeReceipt returns the signed receipt. It returns ErrReceipt for what is
// above the limits; a receipt within them fits into MaxReceipt.
func EncodeReceipt(r Receipt, signer ReceiptSigner) ([]byte, error) {
	if len(signer.Chain) == 0 || len(signer.Chain) > MaxChain {
		return nil, fmt.Errorf("%w: %d certificates, want 1 to %d", ErrReceipt, len(signer.Chain), MaxChain)
	}
	if !signer.Chain[0].Key.Equal(public(signer.Key)) {
		return nil, fmt.Errorf("%w: the first certificate is not the signer's", ErrReceipt)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	content, err := proto.Marshal(r.wire())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	w := &wire.SealedReceipt{Receipt: content, Signature: sign(signer.Key, receiptDomain, content)}
	for _, c := range signer.Chain {
		w.Chain = append(w.Chain, c.wire())
	}
	b, err := proto.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if len(b) > MaxReceipt {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrReceipt, len(b), MaxReceipt)
	}
	return b, nil
}

// OpenReceipt returns the receipt in b when it is for agent and signed by a key
// that root certified, directly or through the roots that followed it. A zero now
// means that the clock is not to be trusted: no time is looked at. It
// returns ErrReceipt, ErrCertificate, ErrSignature or ErrOtherAgent.
func OpenReceipt(b []byte, agent string, root ed25519.PublicKey, now time.Time) (Receipt, error) {
	content, signature, chain, err := splitReceipt(b)
	if err != nil {
		return Receipt{}, err
	}
	key, err := verifyChain(chain, root, now)
	if err != nil {
		return Receipt{}, fmt.Errorf("receipt: %w", err)
	}
	if !verify(key, signature, receiptDomain, content) {
		return Receipt{}, fmt.Errorf("receipt: %w", ErrSignature)
	}
	r, err := receiptOf(content)
	if err != nil {
		return Receipt{}, err
	}
	if r.Agent != agent {
		return Receipt{}, fmt.Errorf("%w: %s", ErrOtherAgent, r.Agent)
	}
	return r, nil
}

// splitReceipt reads the outside of a receipt.
func splitReceipt(b []byte) (content, signature []byte, chain []Certificate, err error) {
	if len(b) > MaxReceipt {
		return nil, nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrReceipt, len(b), MaxReceipt)
	}
	var w wire.SealedReceipt
	if err := unmarshalStrict(b, &w); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if len(w.Chain) > MaxChain {
		return nil, nil, nil, fmt.Errorf("%w: %d certificates, at most %d", ErrReceipt, len(w.Chain), MaxChain)
	}
	for _, c := range w.Chain {
		cert, err := certificateOf(c)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("%w: %w", ErrReceipt, err)
		}
		chain = append(chain, cert)
	}
	return w.Receipt, w.Signature, chain, nil
}

func receiptOf(content []byte) (Receipt, error) {
	var w wire.Receipt
	if err := proto.Unmarshal(content, &w); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if w.Version != version {
		return Receipt{}, fmt.Errorf("%w: version %d, want %d", ErrReceipt, w.Version, version)
	}
	r := Receipt{
		Cloud: w.Cloud, Agent: w.Agent, Revision: w.Revision, Issued: timeOf(w.Issued),
		Window: w.Window, RetryAfter: time.Duration(min(w.RetryAfter, math.MaxInt64)), Revoked: w.Revoked,
	}
	for _, e := range w.Epochs {
		held, err := heldOf(e)
		if err != nil {
			return Receipt{}, err
		}
		r.Epochs = append(r.Epochs, EpochReceipt{Epoch: epochOf(e.Epoch), Watermark: e.Watermark, Held: held})
	}
	for _, a := range w.Again {
		r.Again = append(r.Again, EpochRange{Epoch: epochOf(a.Epoch), Seqs: Range{a.First, a.Last}})
	}
	for _, j := range w.Rejected {
		r.Rejected = append(r.Rejected, Rejection{Epoch: epochOf(j.Epoch), Seqs: Range{j.First, j.Last}, Reason: cut(j.Reason)})
	}
	return r, r.check()
}

// heldOf reads the ranges above the watermark: by the way they are written they
// ascend and do not overlap.
func heldOf(w *wire.EpochReceipt) ([]Range, error) {
	if len(w.Held)%2 != 0 || len(w.Held) > 2*MaxHeld {
		return nil, fmt.Errorf("%w: %d numbers for held ranges", ErrReceipt, len(w.Held))
	}
	var held []Range
	end := w.Watermark
	for i := 0; i < len(w.Held); i += 2 {
		gap, more := w.Held[i], w.Held[i+1]
		if gap == 0 || gap > math.MaxUint64-end || more > math.MaxUint64-end-gap {
			return nil, fmt.Errorf("%w: a held range that is out of bounds", ErrReceipt)
		}
		held = append(held, Range{end + gap, end + gap + more})
		end += gap + more
	}
	return held, nil
}

func (r Receipt) wire() *wire.Receipt {
	w := &wire.Receipt{
		Version: version, Cloud: r.Cloud, Agent: r.Agent, Revision: r.Revision, Issued: nanos(r.Issued),
		Window: r.Window, RetryAfter: uint64(r.RetryAfter), Revoked: r.Revoked,
	}
	for _, e := range r.Epochs {
		we := &wire.EpochReceipt{Epoch: e.Epoch.wire(), Watermark: e.Watermark}
		end := e.Watermark
		for _, h := range e.Held {
			we.Held = append(we.Held, h.First-end, h.Last-h.First)
			end = h.Last
		}
		w.Epochs = append(w.Epochs, we)
	}
	for _, a := range r.Again {
		w.Again = append(w.Again, &wire.EpochRange{Epoch: a.Epoch.wire(), First: a.Seqs.First, Last: a.Seqs.Last})
	}
	for _, j := range r.Rejected {
		w.Rejected = append(w.Rejected, &wire.Rejection{Epoch: j.Epoch.wire(), First: j.Seqs.First, Last: j.Seqs.Last, Reason: cut(j.Reason)})
	}
	return w
}

// cut returns valid UTF-8 of at most MaxReason bytes: an error's text is often
// longer, and must not keep a receipt from being made.
func cut(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), MaxReason)], "")
}

// check returns ErrReceipt unless the receipt is within the limits.
func (r Receipt) check() error {
	if err := ValidateAgent(r.Agent); err != nil {
		return fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	switch {
	case r.Cloud == "" || len(r.Cloud) > MaxCloud:
		return fmt.Errorf("%w: cloud id of %d bytes, want 1 to %d", ErrReceipt, len(r.Cloud), MaxCloud)
	case len(r.Epochs) > MaxEpochs:
		return fmt.Errorf("%w: %d epochs, at most %d", ErrReceipt, len(r.Epochs), MaxEpochs)
	case len(r.Again) > MaxAgain:
		return fmt.Errorf("%w: %d ranges again, at most %d", ErrReceipt, len(r.Again), MaxAgain)
	case len(r.Rejected) > MaxRejected:
		return fmt.Errorf("%w: %d rejections, at most %d", ErrReceipt, len(r.Rejected), MaxRejected)
	case r.RetryAfter < 0:
		return fmt.Errorf("%w: retry after %s", ErrReceipt, r.RetryAfter)
	}
	for _, e := range r.Epochs {
		if err := e.check(); err != nil {
			return err
		}
	}
	for _, a := range r.Again {
		if err := checkRange(a.Epoch, a.Seqs); err != nil {
			return err
		}
	}
	for _, j := range r.Rejected {
		if err := checkRange(j.Epoch, j.Seqs); err != nil {
			return err
		}
	}
	return nil
}

func (e EpochReceipt) check() error {
	if e.Epoch.IsZero() {
		return fmt.Errorf("%w: an epoch is zero", ErrReceipt)
	}
	if len(e.Held) > MaxHeld {
		return fmt.Errorf("%w: %d ranges held of epoch %s, at most %d", ErrReceipt, len(e.Held), e.Epoch, MaxHeld)
	}
	end := e.Watermark
	for _, h := range e.Held {
		if h.First <= end || h.Last < h.First {
			return fmt.Errorf("%w: held range %d-%d of epoch %s after %d", ErrReceipt, h.First, h.Last, e.Epoch, end)
		}
		end = h.Last
	}
	return nil
}

// checkRange returns ErrReceipt unless there is an epoch and a seq of it.
func checkRange(e Epoch, r Range) error {
	if e.IsZero() || r.First == 0 || r.Last < r.First {
		return fmt.Errorf("%w: range %d-%d of epoch %s", ErrReceipt, r.First, r.Last, e)
	}
	return nil
}
