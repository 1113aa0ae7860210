package intake

import (
	"context"
	"log/slog"
	"slices"
)

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
