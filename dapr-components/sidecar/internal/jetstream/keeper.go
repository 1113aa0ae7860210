package jetstream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	askTimeout = 5 * time.Second // for one question to the server
	firstRetry = time.Second     // after a check that found something wrong; doubles up to
	lastRetry  = 5 * time.Second // one question to the server: an edge waits for the stream that the cloud will make
)

// keeper makes true, again and again, that the streams and consumers exist and that every subscription hangs on its consumer.
type keeper struct {
	meta metadata
	link *link
	log  logger.Logger
	kick chan struct{}

	mu      sync.Mutex
	subs    []*subscription
	applied bool // the file's stream settings have been applied by this process
	said    string
}

func newKeeper(meta metadata, l *link, log logger.Logger) *keeper {
	return &keeper{meta: meta, link: l, log: log, kick: make(chan struct{}, 1)}
}

func (k *keeper) add(s *subscription) {
	k.mu.Lock()
	k.subs = append(k.subs, s)
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) remove(s *subscription) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.subs = slices.DeleteFunc(k.subs, func(o *subscription) bool { return o == s })
}

// wake asks for a check now.
func (k *keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// closeAll ends every subscription and waits for its handlers.
func (k *keeper) closeAll() {
	k.mu.Lock()
	subs := slices.Clone(k.subs)
	k.mu.Unlock()
	for _, s := range subs {
		s.cancel()
	}
	for _, s := range subs {
		<-s.done
	}
}

// run checks every checkInterval, after each reconnect and when woken, and sooner again after a check that failed.
func (k *keeper) run(ctx context.Context) {
	retry := firstRetry
	timer := time.NewTimer(k.meta.CheckInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.link.up:
		case <-k.kick:
		case <-timer.C:
		}
		if k.check(ctx) {
			retry = firstRetry
			timer.Reset(k.meta.CheckInterval)
			continue
		}
		timer.Reset(retry)
		retry = min(2*retry, lastRetry)
	}
}

// check reports whether everything is as it should be. Without a connection there is nothing to check: the next one wakes us.
func (k *keeper) check(ctx context.Context) bool {
	cn, err := k.link.current()
	if err != nil {
		return true
	}
	ok := k.checkStreams(ctx, cn)
	k.mu.Lock()
	subs := slices.Clone(k.subs)
	k.mu.Unlock()
	for _, s := range subs {
		if err := k.checkSubscription(ctx, cn, s); err != nil {
			s.say("waiting: "+err.Error(), k.log.Warnf)
			ok = false
		}
	}
	return ok
}

func (k *keeper) checkStreams(ctx context.Context, cn conn) bool {
	if !k.meta.CreateStreams {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	made, err := ensureStreams(ctx, cn.js, k.meta.streamConfigs(), !k.applied)
	for _, name := range made {
		k.log.Infof("jetstream: made stream %s", name)
	}
	if err == nil {
		k.applied, k.said = true, ""
		return true
	}
	if k.said != err.Error() {
		k.said = err.Error()
		k.log.Warnf("jetstream: cannot make the streams, trying again: %v", err)
	}
	return false
}

// checkSubscription finds what is silently dead: a consumer that is gone, one with other settings, or one that thinks nobody listens.
func (k *keeper) checkSubscription(ctx context.Context, cn conn, s *subscription) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	stream, err := k.meta.stream(ctx, cn.js, s.topic)
	if err != nil {
		return err
	}
	want := k.meta.consumerConfig(stream, s.topic)
	// First listen, then let the server send: it would deliver into the void for as long as ackWait.
	if err := s.bind(cn.nc, want.DeliverSubject, want.DeliverGroup); err != nil {
		return err
	}
	info, err := ensureConsumer(ctx, cn.js, stream, want)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return errors.New("stream " + stream + " does not exist yet")
	}
	if err != nil {
		return err
	}
	if !info.PushBound {
		return k.rebind(ctx, cn, s, stream, want)
	}
	k.listening(cn, s, stream, want.Durable)
	return nil
}

// rebind renews the interest of a subscription that the server does not see, as after a route or a leaf node was remade.
func (k *keeper) rebind(ctx context.Context, cn conn, s *subscription, stream string, want jetstream.ConsumerConfig) error {
	c, err := cn.js.PushConsumer(ctx, stream, want.Durable) // what a create answers is older than our interest
	if err != nil {
		return err
	}
	if !c.CachedInfo().PushBound {
		s.unbind()
		if err := s.bind(cn.nc, want.DeliverSubject, want.DeliverGroup); err != nil {
			return err
		}
		return errors.New("the server does not see this subscriber, subscribing again")
	}
	k.listening(cn, s, stream, want.Durable)
	return nil
}

func (k *keeper) listening(cn conn, s *subscription, stream, durable string) {
	s.say("listening on "+stream+"/"+durable, k.log.Infof)
	s.announce(cn.session)
}
