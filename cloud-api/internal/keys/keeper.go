package keys

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lookInterval is how soon a key that was put into the folder is used: by another
// replica, by `cloud-api keys`, or by whoever fills a mounted Secret.
const lookInterval = 10 * time.Second

// Keeper has the keys in use and follows the folder. It is safe for concurrent
// use.
type Keeper struct {
	dir  string
	log  *slog.Logger
	ring atomic.Pointer[Ring]
}

// Keep opens the keys in dir as Open does; Run follows what happens there.
func Keep(dir string, log *slog.Logger, reg prometheus.Registerer) (*Keeper, error) {
	r, err := Open(dir, time.Now())
	if err != nil {
		return nil, err
	}
	k := &Keeper{dir: dir, log: log}
	k.ring.Store(r)
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cloud_keys_receipt_expiry_timestamp_seconds", Help: "When devices begin to refuse the receipt key in use.",
		}, func() float64 { return float64(k.Ring().Receipt.Chain[0].NotAfter.Unix()) }))
	}
	return k, nil
}

// Ring returns the keys in use now.
func (k *Keeper) Ring() *Ring { return k.ring.Load() }

// Run looks at the folder until ctx ends, and renews the receipt key when it is
// time. While the folder cannot be read the keys stay as they were. It returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	t := time.NewTicker(lookInterval)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		err := k.look(time.Now())
		switch {
		case err != nil && !failing:
			k.log.Warn("keys: cannot be read, going on with those in use", "error", err)
		case err == nil && failing:
			k.log.Info("keys: can be read again")
		}
		failing = err != nil
	}
}

func (k *Keeper) look(now time.Time) error {
	next, err := Open(k.dir, now)
	if err != nil {
		return err
	}
	before := k.ring.Swap(next)
	if !before.Root.Equal(next.Root) {
		k.log.Info("keys: root replaced", "root", next.Fingerprint(), "before", before.Fingerprint())
	}
	if !before.Receipt.Key.Equal(next.Receipt.Key) {
		k.log.Info("keys: receipt key renewed", "until", next.Receipt.Chain[0].NotAfter)
	}
	return nil
}
