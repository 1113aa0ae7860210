package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// consumerConfig is the durable push consumer of a topic. Everything that names it follows from the settings and the topic alone, so
// that every replica, and every later start, arrives at the same one.
func (m metadata) consumerConfig(stream, topic string) jetstream.ConsumerConfig {
	durable := m.durable(topic)
	cfg := jetstream.ConsumerConfig{
		Name:           durable,
		Durable:        durable,
		DeliverSubject: m.InboxPrefix + ".holdfast." + stream + "." + durable,
		DeliverGroup:   durable,
		DeliverPolicy:  m.deliverPolicy(topic),
		AckPolicy:      m.ackPolicy(),
		AckWait:        m.AckWait,
		MaxDeliver:     -1,
		BackOff:        m.BackOff,
		FilterSubject:  topic,
		MaxAckPending:  m.MaxAckPending,
		Replicas:       m.Replicas,
		MemoryStorage:  m.MemoryStorage,
		RateLimit:      m.RateLimit,
	}
	if m.QueueGroupName != "" {
		cfg.DeliverGroup = m.QueueGroupName
	}
	if m.MaxDeliver > 0 {
		cfg.MaxDeliver = m.MaxDeliver
	}
	if cfg.AckPolicy == jetstream.AckNonePolicy {
		cfg.AckWait, cfg.MaxAckPending = 0, 0
	}
	if len(m.BackOff) > 0 {
		cfg.AckWait = m.BackOff[0] // the server wants the two to agree
	}
	switch cfg.DeliverPolicy {
	case jetstream.DeliverByStartSequencePolicy:
		cfg.OptStartSeq = m.StartSequence
	case jetstream.DeliverByStartTimePolicy:
		at := time.Unix(int64(m.StartTime), 0)
		cfg.OptStartTime = &at
	}
	return cfg
}

// durable names the consumer: the file's durableName or the app id, and the topic. Characters that a name cannot have become _ or a
// hash, so that two topics never share a consumer.
func (m metadata) durable(topic string) string {
	base := m.DurableName
	if base == "" {
		base = m.ConsumerID
	}
	name := base + "." + topic
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	if strings.ReplaceAll(name, ".", "_") == plain && !strings.Contains(name, "_") {
		return plain
	}
	sum := sha256.Sum256([]byte(name))
	return plain + "-" + hex.EncodeToString(sum[:4])
}

// stream names the stream of a topic: as the file says, else by the subjects of our two, else by asking the server.
func (m metadata) stream(ctx context.Context, js jetstream.JetStream, topic string) (string, error) {
	switch {
	case m.StreamName != "":
		return m.StreamName, nil
	case matchesAny(m.UpSubjects, topic):
		return m.UpStream, nil
	case matchesAny(m.DownSubjects, topic):
		return m.DownStream, nil
	}
	return js.StreamNameBySubject(ctx, topic)
}

// ensureConsumer makes the consumer, or brings the one that is there to the wanted settings.
func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	c, err := js.PushConsumer(ctx, stream, want.Durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return createConsumer(ctx, js, stream, want)
	case errors.Is(err, jetstream.ErrNotPushConsumer):
		return nil, fmt.Errorf("consumer %s is a pull consumer of somebody else: choose another durableName", want.Durable)
	case err != nil:
		return nil, err
	}
	info := c.CachedInfo()
	if sameConsumer(info.Config, want) {
		return info, nil
	}
	return changeConsumer(ctx, js, stream, info, want)
}

func createConsumer(ctx context.Context, js jetstream.JetStream, stream string, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	c, err := js.CreatePushConsumer(ctx, stream, want)
	if errors.Is(err, jetstream.ErrConsumerExists) { // another replica was quicker
		c, err = js.PushConsumer(ctx, stream, want.Durable)
	}
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// changeConsumer updates in place. What the server will not change is made anew behind the last message that was acknowledged.
func changeConsumer(ctx context.Context, js jetstream.JetStream, stream string, have *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	next := want
	next.DeliverPolicy, next.OptStartSeq, next.OptStartTime = have.Config.DeliverPolicy, have.Config.OptStartSeq, have.Config.OptStartTime
	c, err := js.UpdatePushConsumer(ctx, stream, next)
	if err == nil {
		return c.CachedInfo(), nil
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) {
		return nil, err
	}
	if err := js.DeleteConsumer(ctx, stream, want.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("replace consumer: %w", err)
	}
	if floor := have.AckFloor.Stream; floor > 0 {
		want.DeliverPolicy, want.OptStartSeq, want.OptStartTime = jetstream.DeliverByStartSequencePolicy, floor+1, nil
	}
	return createConsumer(ctx, js, stream, want)
}

// sameConsumer compares what we set. Where delivery began is of no interest once the consumer exists; zero means the server's default.
func sameConsumer(have, want jetstream.ConsumerConfig) bool {
	return have.DeliverSubject == want.DeliverSubject && have.DeliverGroup == want.DeliverGroup &&
		have.FilterSubject == want.FilterSubject && have.AckPolicy == want.AckPolicy &&
		(want.AckWait == 0 || have.AckWait == want.AckWait) && have.MaxDeliver == want.MaxDeliver &&
		slices.Equal(have.BackOff, want.BackOff) && (want.MaxAckPending == 0 || have.MaxAckPending == want.MaxAckPending) &&
		(want.Replicas == 0 || have.Replicas == want.Replicas) && have.MemoryStorage == want.MemoryStorage && have.RateLimit == want.RateLimit
}
