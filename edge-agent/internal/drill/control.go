package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
	"github.com/holdfast-edge/holdfast/edge-agent/telemetry/ranges"
)

// SocketFile is where a running agent takes orders, in its data folder. Who may
// write there may do worse than a drill.
const SocketFile = "drill.sock"

// ErrRestart is returned by Run when the agent is to start again.
var ErrRestart = errors.New("restart for a drill")

// Options are what a Control works with.
type Options struct {
	Dir    string // data folder
	Gate   *Gate
	Store  Store
	Health func() Health
	Logger *slog.Logger
}

// Health is what decides whether a drill is safe.
type Health struct {
	Epoch     string        `json:"epoch"`      // the current one
	Waiting   uint64        `json:"waiting"`    // records without a receipt
	Oldest    time.Duration `json:"oldest_ns"`  // age of the oldest of them
	Online    bool          `json:"online"`     // receipts come
	Full      bool          `json:"full"`       // nothing more is taken
	Damaged   int           `json:"damaged"`    // files that gave back wrong bytes
	FreeBytes int64         `json:"free_bytes"` // on the disk; negative: unknown
	RoomBytes int64         `json:"room_bytes"` // until outbox.max_bytes
	Lost      uint64        `json:"lost"`       // readings given up since the start
}

const (
	safeWaiting = 10_000
	safeAge     = 2 * time.Minute
	safeRoom    = 64 << 20
)

// Unsafe returns why no drill should begin now, or nil.
func (h Health) Unsafe() error {
	switch {
	case !h.Online:
		return errors.New("no receipts come from the cloud: there is an outage already, and nothing could be proven")
	case h.Full:
		return errors.New("the outbox is full")
	case h.Damaged > 0:
		return fmt.Errorf("%d damaged files were set aside: replace the card first", h.Damaged)
	case h.Waiting > safeWaiting || h.Oldest > safeAge:
		return fmt.Errorf("%d records wait, the oldest for %v: let the device catch up first", h.Waiting, h.Oldest.Round(time.Second))
	case h.RoomBytes < safeRoom || h.FreeBytes >= 0 && h.FreeBytes < safeRoom:
		return fmt.Errorf("%d MiB are left in the outbox and %d MiB on the disk: want %d MiB of each", h.RoomBytes>>20, h.FreeBytes>>20, safeRoom>>20)
	}
	return nil
}

// Control takes the orders of `edge-agent drill`, which only this machine's users
// with access to the data folder can give.
type Control struct {
	o        Options
	receipts receipts
	listener net.Listener
	restart  chan struct{}
}

// Listen opens the socket. A path too long for one is an error that says so.
func Listen(o Options) (*Control, error) {
	c := &Control{o: o, restart: make(chan struct{}, 1)}
	path := filepath.Join(o.Dir, SocketFile)
	// The outbox's lock has shown that no other agent uses the folder.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open drill socket: %w", err)
	}
	var err error
	if c.listener, err = net.Listen("unix", path); err != nil {
		return nil, fmt.Errorf("open drill socket (a path has at most 107 bytes): %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open drill socket: %w", err), c.Close())
	}
	return c, nil
}

// Close closes the socket; Run does, too.
func (c *Control) Close() error { return c.listener.Close() }

// Receipt takes note of a receipt that was verified.
func (c *Control) Receipt(r telemetry.Receipt, raw []byte) { c.receipts.note(r, raw) }

// Run answers until ctx ends, which returns nil, or somebody orders a restart,
// which returns ErrRestart.
func (c *Control) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.o.Health(), nil) })
	mux.HandleFunc("POST /store", c.store)
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{}, nil)
		select {
		case c.restart <- struct{}{}:
		default:
		}
	})
	mux.HandleFunc("POST /proof", c.proof)
	server := http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: MaxCut}
	served := make(chan error, 1)
	go func() { served <- server.Serve(c.listener) }()
	var err error
	select {
	case <-ctx.Done():
	case <-c.restart:
		err = ErrRestart
	case failed := <-served:
		// The device is worth more than its drill: it goes on without.
		c.o.Logger.Warn("drill: the socket is gone; no drill until the next start", "error", failed)
		<-ctx.Done()
		return nil
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = server.Shutdown(ending) // who still waits for an answer asks the next process
	return err
}

// order is what store and proof are asked.
type order struct {
	Topic    string        `json:"topic"`
	Messages int           `json:"messages"`
	Cut      time.Duration `json:"cut_ns"` // of the uplink, beforehand
	Epoch    string        `json:"epoch"`
}

// store cuts the uplink, if it is asked to, and stores messages.
func (c *Control) store(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil {
		answer(w, nil, err)
		return
	}
	if o.Messages < 1 || o.Messages > MaxMessages || o.Cut < 0 || o.Cut > MaxCut || len(o.Topic) <= len(Prefix) || o.Topic[:len(Prefix)] != Prefix {
		answer(w, nil, fmt.Errorf("want 1 to %d messages under %s…, and a cut of at most %v", MaxMessages, Prefix, MaxCut))
		return
	}
	if err := c.o.Health().Unsafe(); err != nil {
		answer(w, nil, fmt.Errorf("refused: %w", err))
		return
	}
	c.o.Logger.Info("drill: storing messages", "topic", o.Topic, "messages", o.Messages, "cut", o.Cut)
	if o.Cut > 0 {
		c.o.Gate.Cut(o.Cut)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	seqs, err := fill(ctx, c.o.Store, o.Topic, o.Messages)
	answer(w, Stored{Epoch: c.o.Health().Epoch, Seqs: seqs}, err)
}

// Stored is where messages are.
type Stored struct {
	Epoch string            `json:"epoch"`
	Seqs  []telemetry.Range `json:"seqs"`
}

// proof answers with the newest receipt that speaks of an epoch, or with none.
func (c *Control) proof(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&o); err != nil {
		answer(w, nil, err)
		return
	}
	e, err := telemetry.ParseEpoch(o.Epoch)
	if err != nil {
		answer(w, nil, err)
		return
	}
	answer(w, proven{c.receipts.of(e)}, nil)
}

type proven struct {
	Receipt []byte `json:"receipt"` // null: none yet
}

func answer(w http.ResponseWriter, what any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what) // a caller that went away asks again
}

// set makes ranges of what came as JSON.
func set(list []telemetry.Range) (s ranges.Set) {
	for _, r := range list {
		s = s.Add(r)
	}
	return s
}
