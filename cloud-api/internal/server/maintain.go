package server

import (
	"context"
	"time"
)

// maintainInterval is how long a time that an anchor corrected may stay as it
// was: nobody waits for it, and it costs one indexed lookup.
const maintainInterval = 5 * time.Second

// maintain lets the store do what need not be done at once, and shows what it says
// of the fleet, until ctx ends. It returns nil.
func (s *Server) maintain(ctx context.Context) error {
	t := time.NewTicker(maintainInterval)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		err := s.tend(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			s.log.Warn("server: maintenance failed, retrying", "error", err)
		case err == nil && failing:
			s.log.Info("server: maintenance works again")
		}
		failing = err != nil
	}
}

func (s *Server) tend(ctx context.Context) error {
	if err := s.store.Maintain(ctx); err != nil {
		return err
	}
	now, err := s.store.Fleet(ctx)
	if err == nil {
		s.fleet.show(now)
	}
	return err
}
