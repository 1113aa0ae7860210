package cloud

import (
	"context"
	"net/url"
)

// Range is a run of seqs, both ends included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Loss is a run of seqs that the device gave up, and why.
type Loss struct {
	Range
	Reason string `json:"reason"`
}

// Epoch is the cloud's ledger of one epoch.
type Epoch struct {
	Epoch       string  `json:"epoch"`
	Durable     uint64  `json:"durable"` // the last seq that the device spoke of
	Held        []Range `json:"held"`
	Lost        []Loss  `json:"lost"`
	Expired     []Range `json:"expired"`
	Unexplained []Range `json:"unexplained"`
	Truncated   bool    `json:"truncated"` // some list has more than is here
}

// Ledger returns every epoch of an agent.
func (c Client) Ledger(ctx context.Context, id string) ([]Epoch, error) {
	var all []Epoch
	query := url.Values{"limit": {"1000"}}
	for {
		var page struct {
			Epochs []Epoch `json:"epochs"`
			Next   string  `json:"next"`
		}
		if err := c.get(ctx, "/v1/agents/"+url.PathEscape(id)+"?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Epochs...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("below", page.Next)
	}
}
