package drill

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Plan says what a drill does.
type Plan struct {
	Dir      string // data folder of the running agent
	Agent    string
	Root     ed25519.PublicKey // of its cloud
	Messages int               // stored during the cut, and as many after the restart
	Cut      time.Duration
	Patience time.Duration // until the receipts must be there
	Say      func(format string, args ...any)
}

// Report is what a drill found. Receipts is the proof: the cloud signed it, and
// Verify needs nothing but the cloud's root key.
type Report struct {
	Agent    string    `json:"agent"`
	Cloud    string    `json:"cloud"`
	Topic    string    `json:"topic"`
	Begun    time.Time `json:"begun"` // by the device's clock, right or not
	Ended    time.Time `json:"ended"`
	Messages int       `json:"messages"`
	Cut      float64   `json:"cut_s"`
	Stored   []Stored  `json:"stored"`   // before the restart, and after it
	Receipts [][]byte  `json:"receipts"` // one for each
}

// Run plays the drill with the agent whose data is in p.Dir, which must run.
func Run(ctx context.Context, p Plan) (Report, error) {
	c := client{dir: p.Dir}
	report := Report{Agent: p.Agent, Topic: Prefix + strings.ToLower(rand.Text()), Begun: time.Now().UTC(), Messages: 2 * p.Messages, Cut: p.Cut.Seconds()}
	var health Health
	if err := c.call(ctx, http.MethodGet, "/health", nil, &health); err != nil {
		return report, fmt.Errorf("ask the agent (does it run, with this data folder?): %w", err)
	}
	if err := health.Unsafe(); err != nil {
		return report, fmt.Errorf("refused: %w", err)
	}
	p.Say("cutting the uplink for %v and storing %d messages under %s", p.Cut, p.Messages, report.Topic)
	before, err := c.store(ctx, order{Topic: report.Topic, Messages: p.Messages, Cut: p.Cut})
	if err != nil {
		return report, err
	}
	if err := c.outage(ctx, p); err != nil {
		return report, err
	}
	p.Say("restarting the agent: the messages are on this device alone (epoch %s)", before.Epoch)
	if err := c.call(ctx, http.MethodPost, "/restart", nil, nil); err != nil {
		return report, fmt.Errorf("restart the agent: %w", err)
	}
	after, err := c.storeAgain(ctx, order{Topic: report.Topic, Messages: p.Messages}, before.Epoch, p.Patience)
	if err != nil {
		return report, err
	}
	p.Say("it is back (epoch %s), with %d messages more; waiting for the cloud's receipts", after.Epoch, p.Messages)
	report.Stored = []Stored{before, after}
	for _, s := range report.Stored {
		raw, err := c.receipt(ctx, p, s)
		if err != nil {
			return report, err
		}
		report.Receipts = append(report.Receipts, raw)
	}
	if err := c.call(ctx, http.MethodGet, "/health", nil, &health); err != nil {
		return report, err
	}
	if health.Lost > 0 {
		return report, fmt.Errorf("the device gave up %d readings since its restart", health.Lost)
	}
	report.Ended = time.Now().UTC()
	report.Cloud, err = Verify(report, p.Root)
	return report, err
}

// Verify returns the name of the cloud whose receipts prove the report: all of
// its messages were stored, each under one number, and the cloud has them all. An
// error says what is not proven.
func Verify(r Report, root ed25519.PublicKey) (cloud string, err error) {
	if len(r.Stored) == 0 || len(r.Stored) != len(r.Receipts) {
		return "", errors.New("drill report: want a receipt for each of the parts")
	}
	numbers := uint64(0)
	for i, s := range r.Stored {
		e, err := telemetry.ParseEpoch(s.Epoch)
		if err != nil {
			return "", fmt.Errorf("drill report: %w", err)
		}
		receipt, err := telemetry.OpenReceipt(r.Receipts[i], r.Agent, root, time.Time{})
		if err != nil {
			return "", fmt.Errorf("drill report: %w", err)
		}
		if !covers(receipt, e, set(s.Seqs)) {
			return "", fmt.Errorf("drill report: the receipt does not cover epoch %s", s.Epoch)
		}
		numbers += set(s.Seqs).Len()
		cloud = receipt.Cloud
	}
	if numbers != uint64(r.Messages) {
		return "", fmt.Errorf("drill report: %d messages and %d numbers", r.Messages, numbers)
	}
	return cloud, nil
}

// client talks to the agent on this machine.
type client struct{ dir string }

func (c client) store(ctx context.Context, o order) (s Stored, err error) {
	if err := c.call(ctx, http.MethodPost, "/store", o, &s); err != nil {
		return s, fmt.Errorf("store messages: %w", err)
	}
	return s, nil
}

// storeAgain waits for the next life of the agent: one that answers for the one
// before, or cannot know yet that the cloud is there, is asked again.
func (c client) storeAgain(ctx context.Context, o order, before string, patience time.Duration) (s Stored, err error) {
	err = every(ctx, patience, func() (bool, error) {
		var h Health
		if err := c.call(ctx, http.MethodGet, "/health", nil, &h); err != nil {
			return false, err
		}
		return h.Epoch != before, h.Unsafe()
	})
	if err != nil {
		return s, fmt.Errorf("after the restart: %w", err)
	}
	return c.store(ctx, o)
}

// outage waits while the uplink is cut, and sees to it that the messages are
// still here: a cut that cuts nothing would prove nothing.
func (c client) outage(ctx context.Context, p Plan) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.Cut * 3 / 4):
	}
	var h Health
	if err := c.call(ctx, http.MethodGet, "/health", nil, &h); err != nil {
		return err
	}
	if h.Waiting < uint64(p.Messages) {
		return fmt.Errorf("only %d records wait on the device: the cut did not cut", h.Waiting)
	}
	return nil
}

func (c client) receipt(ctx context.Context, p Plan, s Stored) (raw []byte, err error) {
	e, err := telemetry.ParseEpoch(s.Epoch)
	if err != nil {
		return nil, err
	}
	err = every(ctx, p.Patience, func() (bool, error) {
		var got proven
		if err := c.call(ctx, http.MethodPost, "/proof", order{Epoch: s.Epoch}, &got); err != nil || got.Receipt == nil {
			return false, err
		}
		r, err := telemetry.OpenReceipt(got.Receipt, p.Agent, p.Root, time.Time{})
		raw = got.Receipt
		return err == nil && covers(r, e, set(s.Seqs)), err
	})
	if err != nil {
		err = fmt.Errorf("no receipt for epoch %s: %w", s.Epoch, err)
	}
	return raw, err
}

// every polls until ok, and returns the last error when that never is.
func every(ctx context.Context, patience time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		done, err := ok()
		if done && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited %v", patience), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c client) call(ctx context.Context, method, path string, ask, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(c.dir, SocketFile))
	}}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
