package patient

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/testbed"
)

// A Redis that is emptied while everybody is connected forgets the groups of its streams: what is published afterwards arrives all the
// same, within a minute.
func TestRedisIsEmptiedWhileConnected(t *testing.T) {
	t.Parallel()
	s := testbed.NewRedis(t).Start()
	host := fmt.Sprintf("127.0.0.1:%d", s.Port)
	silentDeath(t, Redis(), map[string]string{
		"redisHost": host, "consumerID": "cloud-api", "concurrency": "1", "redeliverInterval": "30s", "processingTimeout": "30s",
	}, func() {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "FLUSHALL\r\n"); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 5)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "+OK\r\n" {
			t.Fatalf("FLUSHALL: %q, %v", answer, err)
		}
	})
}

// A RabbitMQ whose queue is deleted while everybody is connected, as by an operator, gets it again: what is published afterwards arrives,
// within a minute.
func TestRabbitMQLosesItsQueueWhileConnected(t *testing.T) {
	t.Parallel()
	s := testbed.NewRabbitMQ(t).Start()
	url := fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", s.Port)
	silentDeath(t, RabbitMQ(), map[string]string{
		"connectionString": url, "consumerID": "cloud-api", "durable": "true", "deletedWhenUnused": "false", "deliveryMode": "2",
		"publisherConfirm": "true", "requeueInFailure": "true", "prefetchCount": "32", "reconnectWaitSeconds": "3",
	}, func() {
		conn, err := amqp.Dial(url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDelete("cloud-api-up.live", false, false, false); err != nil {
			t.Fatal(err)
		}
	})
}

// silentDeath lets a message through, does what kills the subscription without a word, and wants another one to come through.
func silentDeath(t *testing.T, b Broker, props map[string]string, kill func()) {
	t.Helper()
	c := beginWith(t, b, props)
	var mu sync.Mutex
	var got []string
	err := c.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "up.live"}, func(_ context.Context, m *pubsub.NewMessage) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(m.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// An agent sends what it heard no receipt of once more.
	through := func(text string, within time.Duration) {
		t.Helper()
		testbed.Eventually(t, within, text+" arrives", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_ = c.Publish(ctx, &pubsub.PublishRequest{Topic: "up.live", Data: []byte(text)})
			time.Sleep(200 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(got, text)
		})
	}
	through("before", time.Minute)
	kill()
	began := time.Now()
	through("after", time.Minute)
	t.Logf("found and mended after %.1f s", time.Since(began).Seconds())
}

// A broker that keeps its connections open and says nothing is found dead within a minute, without anybody publishing, and back within
// another when it answers again.
func TestFrozenBrokersAreFound(t *testing.T) {
	if !testbed.Long() {
		t.Skip("it takes up to a minute a broker: HOLDFAST_TEST_LONG=1 runs it")
	}
	for name, start := range map[string]func(*testing.T) (*testbed.Server, Broker, map[string]string){
		"mosquitto": func(t *testing.T) (*testbed.Server, Broker, map[string]string) {
			s := testbed.NewMosquitto(t)
			return s, MQTT(), map[string]string{"url": fmt.Sprintf("mqtt://127.0.0.1:%d", s.Port), "qos": "1", "cleanSession": "true"}
		},
		"redis": func(t *testing.T) (*testbed.Server, Broker, map[string]string) {
			s := testbed.NewRedis(t)
			return s, Redis(), map[string]string{"redisHost": fmt.Sprintf("127.0.0.1:%d", s.Port)}
		},
		"rabbitmq": func(t *testing.T) (*testbed.Server, Broker, map[string]string) {
			s := testbed.NewRabbitMQ(t)
			return s, RabbitMQ(), map[string]string{"connectionString": fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", s.Port)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b, props := start(t)
			s.Start()
			props["consumerID"] = "test"
			c := beginWith(t, b, props)
			there := func() bool { return c.Ping(t.Context()) == nil }
			testbed.Eventually(t, time.Minute, "connected", there)
			s.Freeze()
			began := time.Now()
			testbed.Eventually(t, time.Minute, "found dead", func() bool {
				_, err := c.current()
				return err != nil
			})
			t.Logf("found dead after %.1f s", time.Since(began).Seconds())
			s.Kill()
			s.Start()
			testbed.Eventually(t, time.Minute, "connected again", there)
		})
	}
}
