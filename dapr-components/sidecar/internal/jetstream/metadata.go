package jetstream

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dapr/components-contrib/pubsub"
	kitmd "github.com/dapr/kit/metadata"
	"github.com/nats-io/nats.go/jetstream"
)

// metadata is what a component file may set. The first block has the names and meanings of Dapr's component, the second is ours.
type metadata struct {
	NatsURL        string          `mapstructure:"natsURL"` // one or several, separated by commas
	Jwt            string          `mapstructure:"jwt"`
	SeedKey        string          `mapstructure:"seedKey"`
	Token          string          `mapstructure:"token"`
	TLSClientCert  string          `mapstructure:"tls_client_cert"` // file, or PEM text
	TLSClientKey   string          `mapstructure:"tls_client_key"`  // file, or PEM text
	Name           string          `mapstructure:"name"`
	StreamName     string          `mapstructure:"streamName"` // empty: by topic, from upStream and downStream
	DurableName    string          `mapstructure:"durableName"`
	QueueGroupName string          `mapstructure:"queueGroupName"`
	StartSequence  uint64          `mapstructure:"startSequence"`
	StartTime      uint64          `mapstructure:"startTime"` // Unix seconds
	FlowControl    bool            `mapstructure:"flowControl"`
	AckWait        time.Duration   `mapstructure:"ackWait"`
	MaxDeliver     int             `mapstructure:"maxDeliver"` // 0: for ever
	BackOff        []time.Duration `mapstructure:"backOff"`
	MaxAckPending  int             `mapstructure:"maxAckPending"`
	Replicas       int             `mapstructure:"replicas"`
	MemoryStorage  bool            `mapstructure:"memoryStorage"`
	RateLimit      uint64          `mapstructure:"rateLimit"`
	Heartbeat      time.Duration   `mapstructure:"heartbeat"`
	DeliverPolicy  string          `mapstructure:"deliverPolicy"`
	AckPolicy      string          `mapstructure:"ackPolicy"`
	Domain         string          `mapstructure:"domain"`
	APIPrefix      string          `mapstructure:"apiPrefix"`
	Concurrency    string          `mapstructure:"concurrency"`

	ConsumerID       string         `mapstructure:"consumerID"` // set by the runtime: the app id
	User             string         `mapstructure:"user"`
	Password         string         `mapstructure:"password"`
	TLSCACert        string         `mapstructure:"tls_ca_cert"` // file, or PEM text
	InboxPrefix      string         `mapstructure:"inboxPrefix"`
	CheckInterval    time.Duration  `mapstructure:"checkInterval"`
	PublishTimeout   time.Duration  `mapstructure:"publishTimeout"`
	MaxReconnectWait time.Duration  `mapstructure:"maxReconnectWait"`
	Announce         bool           `mapstructure:"announce"` // an empty message to each subscriber when it stands on a new connection
	CreateStreams    bool           `mapstructure:"createStreams"`
	UpStream         string         `mapstructure:"upStream"`
	UpSubjects       []string       `mapstructure:"upSubjects"`
	UpMaxAge         time.Duration  `mapstructure:"upMaxAge"`
	UpMaxBytes       kitmd.ByteSize `mapstructure:"upMaxBytes"`
	DownStream       string         `mapstructure:"downStream"`
	DownSubjects     []string       `mapstructure:"downSubjects"`
	DownMaxAge       time.Duration  `mapstructure:"downMaxAge"`
	DownMaxBytes     kitmd.ByteSize `mapstructure:"downMaxBytes"`
	StreamReplicas   int            `mapstructure:"streamReplicas"`
	StreamStorage    string         `mapstructure:"streamStorage"` // file or memory
}

// Names that the runtime reads from the same list, and which therefore are not ours to complain about.
var runtimeNames = []string{
	"publishingscopes", "subscriptionscopes", "allowedtopics", "protectedtopics", strings.ToLower(pubsub.ConcurrencyKey),
}

func defaultMetadata() metadata {
	return metadata{
		Name:             "holdfast pubsub.jetstream",
		AckWait:          30 * time.Second,
		MaxAckPending:    64, // of at most 1 MiB: what a daprd may hold in memory
		Concurrency:      string(pubsub.Single),
		InboxPrefix:      "_INBOX",
		CheckInterval:    30 * time.Second,
		PublishTimeout:   30 * time.Second,
		MaxReconnectWait: 5 * time.Second, // people wait for the end of an outage; a thousand edges are then 400 attempts a second
		UpStream:         "holdfast-up",
		UpSubjects:       []string{"up.live", "up.backlog"},
		UpMaxAge:         24 * time.Hour,
		UpMaxBytes:       kitmd.NewByteSize(1 << 30),
		DownStream:       "holdfast-down",
		DownSubjects:     []string{"down.>"},
		DownMaxAge:       0, // a receipt is worth keeping for as long as its agent may be away
		DownMaxBytes:     kitmd.NewByteSize(256 << 20),
		StreamReplicas:   1,
		StreamStorage:    "file",
	}
}

// parseMetadata decodes over the defaults. Empty values count as absent, so that an optional secret may be named in a file and be unset.
func parseMetadata(props map[string]string) (m metadata, unknown []string, err error) {
	set := make(map[string]string, len(props))
	known := metadataNames()
	for k, v := range props {
		if strings.TrimSpace(v) == "" {
			continue
		}
		set[k] = strings.TrimSpace(v)
		if low := strings.ToLower(k); !slices.Contains(known, low) && !slices.Contains(runtimeNames, low) {
			unknown = append(unknown, k)
		}
	}
	slices.Sort(unknown)
	m = defaultMetadata()
	if err := kitmd.DecodeMetadata(set, &m); err != nil {
		return metadata{}, nil, fmt.Errorf("decode metadata: %w", err)
	}
	if v, ok := set[pubsub.ConcurrencyKey]; ok {
		m.Concurrency = v
	}
	if m.Replicas > 0 && set["streamReplicas"] == "" {
		m.StreamReplicas = m.Replicas
	}
	return m, unknown, m.validate()
}

func metadataNames() []string {
	t := reflect.TypeFor[metadata]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = strings.ToLower(t.Field(i).Tag.Get("mapstructure"))
	}
	return names
}

func (m metadata) validate() error {
	if m.NatsURL == "" {
		return errors.New("natsURL is empty: set it, or the secret that it refers to, to nats://HOST:PORT")
	}
	for _, p := range []struct{ a, b, nameA, nameB string }{
		{m.Jwt, m.SeedKey, "jwt", "seedKey"},
		{m.TLSClientCert, m.TLSClientKey, "tls_client_cert", "tls_client_key"},
		{m.User, m.Password, "user", "password"},
	} {
		if (p.a == "") != (p.b == "") {
			return fmt.Errorf("%s and %s belong together: set both or none", p.nameA, p.nameB)
		}
	}
	for _, p := range []struct {
		name, value string
		allowed     []string
	}{
		{"deliverPolicy", m.DeliverPolicy, []string{"", "all", "last", "new", "sequence", "time", "lastPerSubject"}},
		{"ackPolicy", m.AckPolicy, []string{"", "explicit", "all", "none"}},
		{"concurrency", m.Concurrency, []string{string(pubsub.Single), string(pubsub.Parallel)}},
		{"streamStorage", m.StreamStorage, []string{"file", "memory"}},
	} {
		if !slices.Contains(p.allowed, p.value) {
			return fmt.Errorf("%s is %q, want one of %s", p.name, p.value, strings.TrimPrefix(strings.Join(p.allowed, ", "), ", "))
		}
	}
	if m.AckWait < time.Second {
		return fmt.Errorf("ackWait is %v, want at least 1s", m.AckWait)
	}
	if m.CheckInterval < time.Second || m.MaxReconnectWait < time.Second || m.PublishTimeout < time.Second {
		return errors.New("checkInterval, maxReconnectWait and publishTimeout want at least 1s each")
	}
	return nil
}

// deliverPolicy is what the file says; unsaid, it is the last message of each subject for receipts and everything for the rest.
func (m metadata) deliverPolicy(topic string) jetstream.DeliverPolicy {
	switch m.DeliverPolicy {
	case "all":
		return jetstream.DeliverAllPolicy
	case "last":
		return jetstream.DeliverLastPolicy
	case "new":
		return jetstream.DeliverNewPolicy
	case "sequence":
		return jetstream.DeliverByStartSequencePolicy
	case "time":
		return jetstream.DeliverByStartTimePolicy
	case "lastPerSubject":
		return jetstream.DeliverLastPerSubjectPolicy
	}
	if matchesAny(m.DownSubjects, topic) {
		return jetstream.DeliverLastPerSubjectPolicy
	}
	return jetstream.DeliverAllPolicy
}

func (m metadata) ackPolicy() jetstream.AckPolicy {
	switch m.AckPolicy {
	case "all":
		return jetstream.AckAllPolicy
	case "none":
		return jetstream.AckNonePolicy
	}
	return jetstream.AckExplicitPolicy
}

func matchesAny(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, subject) })
}

// matches reports whether a NATS subject pattern (with * and >) covers the subject.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, tok := range p {
		if tok == ">" {
			return len(s) > i
		}
		if i >= len(s) || (tok != "*" && tok != s[i]) {
			return false
		}
	}
	return len(p) == len(s)
}

// size is a quantity in bytes; zero and nonsense mean no limit.
func size(q kitmd.ByteSize) int64 {
	n, err := q.GetBytes()
	if err != nil || n <= 0 {
		return -1
	}
	return n
}
