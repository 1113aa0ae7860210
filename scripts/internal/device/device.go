// Package device reads an agent's status page, as its owner would.
package device

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Status is what an agent says about itself.
type Status struct {
	Epoch   string // the current one
	Waiting uint64 // records on its disk that no receipt covers
	Mode    string // what the uplink is doing, in a word or two
	Full    bool   // it takes no more messages
	Lost    string // what it gave up since its start, in words; "nothing" where that is so
}

// Enrolled reports whether the agent knows a cloud to send to.
func (s Status) Enrolled() bool { return s.Mode != "" && s.Mode != "unenrolled" }

// Get asks the agent whose status page is at url.
func Get(ctx context.Context, url string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/status", nil)
	if err != nil {
		return Status{}, fmt.Errorf("read agent status: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Status{}, fmt.Errorf("read agent status: %w", err)
	}
	defer resp.Body.Close()
	var page page
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return Status{}, fmt.Errorf("read agent status: %w", err)
	}
	s := Status{Epoch: page.Epoch, Full: page.failing("outbox")}
	if err := page.fact("outbox", "records", &s.Waiting); err != nil {
		return s, err
	}
	if err := page.fact("outbox", "lost", &s.Lost); err != nil {
		return s, err
	}
	return s, page.fact("uplink", "mode", &s.Mode)
}

// page is /v1/status: parts with facts.
type page struct {
	Epoch string `json:"epoch"`
	Parts []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		Facts []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		} `json:"facts"`
	} `json:"parts"`
}

func (p page) failing(part string) bool {
	for _, pt := range p.Parts {
		if pt.Name == part {
			return pt.State == "failing"
		}
	}
	return false
}

func (p page) fact(part, key string, into any) error {
	for _, pt := range p.Parts {
		for _, f := range pt.Facts {
			if pt.Name == part && f.Key == key {
				if err := json.Unmarshal(f.Value, into); err != nil {
					return fmt.Errorf("agent status %s.%s: %w", part, key, err)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("agent status: it has no %s.%s", part, key)
}
