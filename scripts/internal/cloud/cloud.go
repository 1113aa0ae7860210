// Package cloud reads from a cloud-api as any user would, over its public HTTP
// listener.
package cloud

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Agent is what the cloud says about one agent, as of its last frame.
type Agent struct {
	ID          string  `json:"id"`
	Epoch       string  `json:"epoch"`       // the newest
	Watermark   uint64  `json:"watermark"`   // of that epoch
	Held        uint64  `json:"held"`        // records
	OnDevice    uint64  `json:"on_device"`   // records that are still to come
	Lost        uint64  `json:"lost"`        // records given up, and why is known
	Expired     uint64  `json:"expired"`     // by the cloud's own retention
	Unexplained uint64  `json:"unexplained"` // records that nobody accounts for
	Redelivered uint64  `json:"redelivered"` // readings that a publisher sent with DUP
	Alarms      []Alarm `json:"alarms"`

	LastSeen time.Time `json:"last_seen"` // when its last frame came
}

// Alarm is something about an agent that should never be.
type Alarm struct {
	Kind   string `json:"kind"`
	Epoch  string `json:"epoch"`
	Detail string `json:"detail"`
	Count  uint64 `json:"count"`
}

// Reading is one reading as the API shows it.
type Reading struct {
	Agent      string    `json:"agent"`
	Epoch      string    `json:"epoch"`
	Seq        uint64    `json:"seq"`
	Topic      string    `json:"topic"`
	QoS        int       `json:"qos"`
	DUP        bool      `json:"dup"`
	Payload    string    `json:"payload"`
	Encoding   string    `json:"payload_encoding"`
	RecordedAt time.Time `json:"recorded_at"`
	ReceivedAt time.Time `json:"received_at"`
}

// Bytes returns the payload as it was published.
func (r Reading) Bytes() ([]byte, error) {
	switch r.Encoding {
	case "utf-8":
		return []byte(r.Payload), nil
	case "base64":
		return base64.StdEncoding.DecodeString(r.Payload)
	}
	return nil, fmt.Errorf("reading %s/%s/%d: payload encoding %q", r.Agent, r.Epoch, r.Seq, r.Encoding)
}

// pageSize is the largest page that the API gives.
const pageSize = 10000

// Client talks to one cloud-api. The zero value of HTTP uses a default client.
type Client struct {
	URL  string // such as http://127.0.0.1:8080
	HTTP *http.Client
}

// Agent returns one agent.
func (c Client) Agent(ctx context.Context, id string) (Agent, error) {
	var a Agent
	err := c.get(ctx, "/v1/agents/"+url.PathEscape(id), &a)
	return a, err
}

// Readings calls f with every reading of an agent, page by page, in the API's
// own order. It ends early with f's error.
func (c Client) Readings(ctx context.Context, agent string, f func(Reading) error) error {
	return c.ReadingsOf(ctx, agent, "", f)
}

// ReadingsOf is Readings of the topics that an MQTT filter matches; an empty
// one matches all.
func (c Client) ReadingsOf(ctx context.Context, agent, filter string, f func(Reading) error) error {
	query := url.Values{"agent": {agent}, "limit": {strconv.Itoa(pageSize)}}
	if filter != "" {
		query.Set("topic", filter)
	}
	for {
		var page struct {
			Readings []Reading `json:"readings"`
			Next     string    `json:"next"`
		}
		if err := c.get(ctx, "/v1/readings?"+query.Encode(), &page); err != nil {
			return err
		}
		for _, r := range page.Readings {
			if err := f(r); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		if page.Next == query.Get("cursor") {
			return fmt.Errorf("read readings: the cursor %q leads to itself", page.Next)
		}
		query.Set("cursor", page.Next)
	}
}

func (c Client) get(ctx context.Context, path string, into any) error {
	// A page of 10 000 readings of 256 KiB would take longer; nothing here
	// sends such.
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("read %s: %s: %s", path, resp.Status, text)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
