package patient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/pubsub/kafka"
	mqtt3 "github.com/dapr/components-contrib/pubsub/mqtt3"
	"github.com/dapr/components-contrib/pubsub/rabbitmq"
	"github.com/dapr/components-contrib/pubsub/redis"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	amqp "github.com/rabbitmq/amqp091-go"
)

const dialTimeout = 10 * time.Second

// MQTT is Dapr's mqtt3. Its client never says that it lost the broker, waits up to ten minutes before it connects again, promises
// publishes that it only holds in memory, and is not given an unacknowledged message again before it reconnects. So a second
// connection stands watch, and the component lives only as long as that one.
func MQTT() Broker {
	return Broker{New: mqtt3.NewMQTTPubSub, Required: []string{"url"}, Prepare: freshClientID, Watch: watchMQTT, Renew: true, Insist: true}
}

// Redis is Dapr's redis. It can be pinged, and must not be left alone without its server: it logs an error at every turn.
func Redis() Broker {
	return Broker{New: redis.NewRedisStreams, Required: []string{"redisHost"}}
}

// RabbitMQ is Dapr's rabbitmq. It reconnects by itself, but writes three lines about it every three seconds, which is a lot in a week; so
// it is not left alone either. Two subscriptions that begin at the same time write to one map without a lock, which ends the process, and one
// that ended keeps its consumer on the channel, with whatever is sent to it: so each has a component of its own. It says "published" when
// its caller's time is over, which Publish here corrects.
func RabbitMQ() Broker {
	return Broker{New: rabbitmq.NewRabbitMQ, Required: []string{"connectionString"}, Watch: watchRabbitMQ, Alone: true}
}

// Kafka is Dapr's kafka. It reconnects by itself, and writes a line every second while it cannot. A subscription that ends may take a newer
// one of its topic with it.
func Kafka() Broker {
	return Broker{New: kafka.NewKafka, Required: []string{"brokers"}, Ping: dialKafka, Renew: true}
}

// freshClientID gives each connection without a session an id of its own: a client left behind by a failed Init would otherwise take
// turns with its successor in throwing each other out. With a session the id is the session and stays.
func freshClientID(props map[string]string) {
	if clean, _ := strconv.ParseBool(props["cleanSession"]); clean {
		props["consumerID"] += "-" + strconv.FormatUint(rand.Uint64(), 36)
	}
}

// watchMQTT connects a client that does nothing but notice the loss of its connection.
func watchMQTT(ctx context.Context, props map[string]string) (<-chan struct{}, func(), error) {
	u, err := url.Parse(props["url"])
	if err != nil {
		return nil, nil, errors.New("url is not a URL") // the library's error would quote a password
	}
	conf, err := tlsConfig(props)
	if err != nil {
		return nil, nil, err
	}
	lost := make(chan struct{})
	var once sync.Once
	opts := mqtt.NewClientOptions().
		AddBroker(mqttScheme(u) + "://" + u.Host).
		SetClientID(props["consumerID"] + "-watch").
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectTimeout(dialTimeout).
		SetKeepAlive(15 * time.Second).
		SetPingTimeout(10 * time.Second).
		SetTLSConfig(conf).
		SetConnectionLostHandler(func(mqtt.Client, error) { once.Do(func() { close(lost) }) })
	opts.SetUsername(u.User.Username())
	if p, ok := u.User.Password(); ok {
		opts.SetPassword(p)
	}
	client := mqtt.NewClient(opts)
	stop := func() { client.Disconnect(0) }
	token := client.Connect()
	select {
	case <-token.Done():
		err = token.Error()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	return lost, stop, nil
}

// watchRabbitMQ opens a connection without a channel; its heartbeats find a loss within half a minute.
func watchRabbitMQ(ctx context.Context, props map[string]string) (<-chan struct{}, func(), error) {
	uri, err := amqp.ParseURI(props["connectionString"])
	if err != nil {
		return nil, nil, errors.New("connectionString is not an AMQP URI") // the library's error would quote a password
	}
	conf, err := tlsConfig(props)
	if err != nil {
		return nil, nil, err
	}
	cfg := amqp.Config{
		Heartbeat: 10 * time.Second, Locale: "en_US", TLSClientConfig: conf,
		Properties: amqp.Table{"connection_name": props["consumerID"] + " watch"},
		Dial: func(network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return impatient{c}, nil
		},
	}
	if external, _ := strconv.ParseBool(props["saslExternal"]); external {
		cfg.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	conn, err := amqp.DialConfig(props["connectionString"], cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), err)
	}
	lost := make(chan struct{})
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		_ = <-closed // whatever the reason
		close(lost)
	}()
	// It is idle: there is nothing to lose in closing it, and a server that is silent is not waited for.
	return lost, func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }, nil
}

// silence is three heartbeats of RabbitMQ.
const silence = 30 * time.Second

// impatient is a connection on which nothing may be heard for longer than silence. AMQP's client library sees to that itself, but only
// after it has heard a first heartbeat: a server that falls silent before it would never be found dead.
type impatient struct{ net.Conn }

func (c impatient) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c impatient) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline never takes the deadline away.
func (c impatient) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		t = time.Now().Add(silence)
	}
	return c.Conn.SetReadDeadline(t)
}

// dial connects within ten seconds, for the handshake as well: the client library takes the deadline away when that is done.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dialKafka reports whether any of the brokers accepts a connection.
func dialKafka(ctx context.Context, props map[string]string) error {
	var errs error
	for addr := range strings.SplitSeq(props["brokers"], ",") {
		c, err := dial(ctx, "tcp", strings.TrimSpace(addr))
		if err == nil {
			return c.Close()
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

func tlsConfig(props map[string]string) (*tls.Config, error) {
	p, err := pubsub.TLS(props)
	if err != nil {
		return nil, err
	}
	return pubsub.ConvertTLSPropertiesToTLSConfig(p)
}

// mqttScheme is what Dapr's component makes of the URL's.
func mqttScheme(u *url.URL) string {
	switch strings.ToLower(u.Scheme) {
	case "mqtts", "tcps", "tls":
		return "ssl"
	case "mqtt":
		return "tcp"
	}
	return u.Scheme
}
