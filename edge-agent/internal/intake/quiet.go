package intake

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// warnEvery bounds what clients can make the agent write to its log, which
	// is often on the same card as the readings.
	warnEvery = 10 * time.Second
	// shownID is how much of a client id, which may have 64 KiB, is logged.
	shownID = 64
)

// warner logs what clients bring about: a line now and then, and how many more
// there would have been.
type warner struct {
	log *slog.Logger

	mu    sync.Mutex
	last  time.Time
	muted int
}

func (w *warner) warn(message string, attrs ...any) {
	w.mu.Lock()
	if !w.last.IsZero() && time.Since(w.last) < warnEvery {
		w.muted++
		w.mu.Unlock()
		w.log.Debug(message, attrs...)
		return
	}
	muted := w.muted
	w.last, w.muted = time.Now(), 0
	w.mu.Unlock()
	if muted > 0 {
		attrs = append(attrs, "muted", muted)
	}
	w.log.Warn(message, attrs...)
}

func shortID(id string) string { return id[:min(len(id), shownID)] }

// quiet lets mochi's log through without what people sent: mochi attaches whole
// packets, payloads included, to its records. Only attributes that are known to
// be harmless pass, and its chatter is for those who debug.
type quiet struct{ slog.Handler }

var harmless = []string{"error", "client", "remote", "listener", "id", "address", "keepalive"}

func quietLogger(l *slog.Logger) *slog.Logger { return slog.New(quiet{l.Handler()}) }

func (q quiet) level(l slog.Level) slog.Level {
	if l < slog.LevelError {
		return slog.LevelDebug
	}
	return l
}

// Enabled reports whether a record of mochi's level would be logged.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, q.level(l))
}

// Handle logs the record without packets.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, q.level(r.Level), "mqtt: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(harmless, a.Key) {
			out.AddAttrs(a)
		}
		return true
	})
	return q.Handler.Handle(ctx, out)
}

// WithAttrs keeps what mochi adds for good, the names of hook and listener.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs)}
}

// WithGroup is not used by mochi; a group would hide keys from the filter.
func (q quiet) WithGroup(string) slog.Handler { return q }
