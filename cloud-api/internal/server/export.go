package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/config"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/format"
	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// exportPage is how many readings are in memory at once.
const exportPage = 10_000

// Export writes every reading that q selects, in its order, to w as the media
// type given. It reads the database of a server that may be running; what is
// stored meanwhile may be in it or not.
func Export(ctx context.Context, c config.Config, q store.Query, mediaType string, w io.Writer, log *slog.Logger) (n int, err error) {
	out, err := format.NewWriter(w, mediaType)
	if err != nil {
		return 0, err
	}
	st, err := OpenStore(ctx, c.Store, log)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	q.Limit = exportPage
	for {
		page, err := st.Readings(ctx, q)
		if err != nil {
			return n, fmt.Errorf("export: %w", err)
		}
		for i := range page.Readings {
			if err := out.Write(&page.Readings[i]); err != nil {
				return n, fmt.Errorf("export: %w", err)
			}
		}
		n += len(page.Readings)
		if q.Cursor = page.Next; q.Cursor == "" {
			return n, out.Close()
		}
	}
}
