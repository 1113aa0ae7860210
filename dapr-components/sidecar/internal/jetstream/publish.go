package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Publish returns nil only after the server said that the stream has the message. Without a connection it returns ErrNotConnected at
// once, and when the connection is lost while it waits; otherwise it waits for ctx, or publishTimeout when ctx has no deadline.
func (c *Component) Publish(ctx context.Context, req *pubsub.PublishRequest) error {
	if c.link == nil {
		return ErrNotConnected
	}
	cn, err := c.link.current()
	if err != nil {
		return err
	}
	ctx, cancel := c.publishContext(ctx, cn.session)
	defer cancel()
	var opts []jetstream.PublishOpt
	if id := eventID(req); id != "" {
		opts = append(opts, jetstream.WithMsgID(id))
	}
	_, err = cn.js.PublishMsg(ctx, &nats.Msg{Subject: req.Topic, Data: req.Data}, opts...)
	switch {
	case err == nil:
		return nil
	case cn.session.Err() != nil:
		return fmt.Errorf("%w: lost while waiting for the server's answer", ErrNotConnected)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		c.keeper.wake() // no stream takes this subject: perhaps it was wiped and may be made again
	}
	return fmt.Errorf("publish to %s: %w", req.Topic, err)
}

// publishContext ends with the caller's, with the session, or after publishTimeout when the caller set no deadline.
func (c *Component) publishContext(ctx, session context.Context) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, c.meta.PublishTimeout)
	}
	stop := context.AfterFunc(session, cancel)
	return ctx, func() { stop(); cancel() }
}

// eventID is the CloudEvent's id, by which the server drops copies. A raw payload has none on purpose: an agent that sends a frame
// again does so because it wants it to arrive again.
func eventID(req *pubsub.PublishRequest) string {
	if len(req.Data) == 0 || req.Data[0] != '{' || req.Metadata["rawPayload"] == "true" {
		return ""
	}
	event, err := pubsub.FromCloudEvent(req.Data, "", "", "", "")
	if err != nil || event["specversion"] == nil {
		return ""
	}
	id, _ := event["id"].(string)
	return id
}
