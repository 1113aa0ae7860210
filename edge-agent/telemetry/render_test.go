package telemetry_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// render writes a record out so that a person can read it, with everything that
// is in it.
func render(r telemetry.Record) string {
	at := fmt.Sprintf("seq=%d boot=%d wall=%d ", r.Seq, int64(r.At.Boot), r.At.Wall)
	switch {
	case r.Reading != nil:
		return at + fmt.Sprintf("reading topic=%q qos=%d dup=%t retained=%t payload=%q",
			r.Reading.Topic, r.Reading.QoS, r.Reading.Dup, r.Reading.Retained, r.Reading.Payload)
	case r.Loss != nil:
		l := r.Loss
		s := at + fmt.Sprintf("loss epoch=%s seqs=%d-%d reason=%d count=%d bytes=%d first=%d/%d last=%d/%d",
			l.Epoch, l.Seqs.First, l.Seqs.Last, l.Reason, l.Count, l.Bytes, int64(l.First.Boot), l.First.Wall, int64(l.Last.Boot), l.Last.Wall)
		if o := l.Oversized; o != nil {
			s += fmt.Sprintf(" oversized topic=%q size=%d sha256=%x", o.Topic, o.Size, o.SHA256)
		}
		return s
	case r.Anchor != nil:
		return at + fmt.Sprintf("anchor synchronised=%t moved=%d max_error=%d", r.Anchor.Synchronised, int64(r.Anchor.Moved), int64(r.Anchor.MaxError))
	case r.Start != nil:
		s := r.Start
		return at + fmt.Sprintf("start previous=%s previous_last=%d previous_clean=%t boot=%x version=%q",
			s.Previous, s.PreviousLast, s.PreviousClean, s.Boot, s.Version)
	}
	return at + "nothing"
}

func renderHeader(h telemetry.Header) string {
	var b strings.Builder
	fmt.Fprintf(&b, "agent=%s epoch=%s first=%d last=%d traceparent=%q open_total=%d sent=%d/%d\n",
		h.Agent, h.Epoch, h.First, h.Last, h.Traceparent, h.OpenTotal, int64(h.Sent.Boot), h.Sent.Wall)
	for _, o := range h.Open {
		fmt.Fprintf(&b, "open %s lowest=%d durable=%d trimmed=%d\n", o.Epoch, o.Lowest, o.Durable, o.Trimmed)
	}
	return b.String()
}

func renderFrame(h telemetry.Header, recs []telemetry.Record) string {
	var b strings.Builder
	b.WriteString(renderHeader(h))
	for _, r := range recs {
		b.WriteString(render(r) + "\n")
	}
	return b.String()
}

func renderReceipt(r telemetry.Receipt) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cloud=%s agent=%s revision=%d issued=%s window=%d retry_after=%s revoked=%t\n",
		r.Cloud, r.Agent, r.Revision, r.Issued.Format(time.RFC3339Nano), r.Window, r.RetryAfter, r.Revoked)
	for _, e := range r.Epochs {
		fmt.Fprintf(&b, "epoch %s watermark=%d held=%v\n", e.Epoch, e.Watermark, e.Held)
	}
	for _, a := range r.Again {
		fmt.Fprintf(&b, "again %s %d-%d\n", a.Epoch, a.Seqs.First, a.Seqs.Last)
	}
	for _, j := range r.Rejected {
		fmt.Fprintf(&b, "rejected %s %d-%d %q\n", j.Epoch, j.Seqs.First, j.Seqs.Last, j.Reason)
	}
	return b.String()
}
