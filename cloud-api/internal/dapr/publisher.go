// Package dapr is the cloud's side of its Dapr sidecar: the listener that the
// sidecar delivers events to, and the client that receipts leave through. An
// event is acknowledged only after its frame is committed, and a sidecar that is
// away keeps nothing from working.
package dapr

import (
	"context"
	"fmt"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// publishTime bounds one publish: a receipt is small and the sidecar is on this
// machine or in this pod.
const publishTime = 5 * time.Second

// Publisher sends raw payloads through the sidecar. It is safe for concurrent
// use.
type Publisher struct {
	conn   *grpc.ClientConn
	sdk    client.Client
	pubsub string
	token  string
}

// NewPublisher prepares a connection to the sidecar's gRPC port and opens none.
// token is the sidecar's API token, empty for none. It fails only for an address
// that cannot be one.
func NewPublisher(address, pubsub, token string) (*Publisher, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the sidecar is on this machine or in this pod
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare connection to sidecar %s: %w", address, err)
	}
	return &Publisher{conn: conn, sdk: client.NewClientWithConnection(conn), pubsub: pubsub, token: token}, nil
}

// Publish hands data to the sidecar. nil means that the broker has it.
func (p *Publisher) Publish(ctx context.Context, topic string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	if p.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "dapr-api-token", p.token)
	}
	err := p.sdk.PublishEvent(ctx, p.pubsub, topic, data,
		client.PublishEventWithContentType("application/octet-stream"), client.PublishEventWithRawPayload())
	if err != nil {
		return fmt.Errorf("publish to %s: %w", topic, err)
	}
	return nil
}

// Close ends the connection.
func (p *Publisher) Close() error { return p.conn.Close() }
