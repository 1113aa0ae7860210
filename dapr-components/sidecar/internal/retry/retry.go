// Package retry is what those have in common that try to reach a broker for ever.
package retry

import (
	"context"
	"strings"
	"time"
)

// Sleep returns after d, or when ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Reason is an error's text without its digits: the ports in it differ from one attempt to the next, and a week of lines that differ in
// nothing else fills a card.
func Reason(err error) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
}
