package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/scripts/internal/process"
	"github.com/holdfast-edge/holdfast/scripts/internal/stack"
)

// footprint is what a round took: a soak is one whose rounds take no more each.
type footprint struct {
	Memory map[string]int64 `json:"rss_anon_max_bytes"` // of each program
	Files  int              `json:"files"`              // in the round's folder, at its end
	Bytes  int64            `json:"bytes"`
}

// self is this program's name among the others.
const self = "failover"

// memory is the most that programs took, by name.
type memory struct {
	mu   sync.Mutex
	anon map[string]int64
}

// watch looks once a second: a peak between two looks is missed.
func (m *memory) watch(ctx context.Context, s *stack.Stack) {
	for pause(ctx, time.Second) == nil {
		for _, p := range s.Processes() {
			m.note(p.Name())(p.Memory())
		}
		m.note(self)(process.Own())
	}
}

// note returns what takes a program's memory; one that is away has none.
func (m *memory) note(name string) func(process.Memory, error) {
	return func(now process.Memory, err error) {
		if err != nil {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.anon == nil {
			m.anon = map[string]int64{}
		}
		m.anon[name] = max(m.anon[name], now.Anon)
	}
}

func (m *memory) most() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.anon
}

// measure fills in what a folder holds now; what is gone by the time it is looked
// at does not count.
func (f *footprint) measure(dir string) error {
	f.Files, f.Bytes = 0, 0
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			f.Files++
			f.Bytes += info.Size()
		}
		return nil
	})
}
