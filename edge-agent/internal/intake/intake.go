// Package intake takes MQTT messages in: as a broker that sensors connect to
// (Server) and as a client of a broker that stands in front (Subscriber). A
// message is acknowledged only after the store has said that it is durable, in
// the order in which it came; when the store says that it is not, the session
// ends without an acknowledgement, so that the publisher sends again.
package intake

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// Store keeps what came in.
type Store interface {
	// Submit hands over one message, either r or, for one above the size
	// limit, what is known of it. It blocks while the store's queue is full
	// and returns an error when the store takes nothing; done is then never
	// called. Otherwise done is called once, in the order of the calls to
	// Submit, with a nil error when the message is durable. done does not
	// block.
	Submit(ctx context.Context, r *telemetry.Reading, o *telemetry.Oversized, done func(seq uint64, err error)) error
}

// flusher is a Store that can be asked not to wait for company before the next
// commit.
type flusher interface{ Flush() }

// Metrics counts what comes in, for both ways together. Share one among them.
type Metrics struct {
	messages, bytes, acked, ended *prometheus.CounterVec
	oversized, skipped, dup       prometheus.Counter
	sessions, held                prometheus.Gauge
	connected                     prometheus.Gauge
}

// NewMetrics registers the metrics of intake with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edge_intake_messages_total", Help: "Messages taken in, by source and QoS.",
		}, []string{"source", "qos"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edge_intake_bytes_total", Help: "Bytes of topic and payload taken in, by source.",
		}, []string{"source"}),
		acked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edge_intake_acknowledged_total", Help: "Messages acknowledged after their commit, by source.",
		}, []string{"source"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edge_intake_sessions_ended_total", Help: "Sessions that the agent ended or refused, by reason.",
		}, []string{"reason"}),
		oversized: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edge_intake_oversized_total", Help: "Messages above the size limit; from a broker each became a loss record.",
		}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edge_intake_retained_skipped_total", Help: "Retained messages that a broker replayed and that were not stored.",
		}),
		dup: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edge_intake_dup_total", Help: "Messages that came with the DUP flag.",
		}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "edge_intake_sessions", Help: "Clients connected to the agent's own listener.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "edge_intake_unacknowledged", Help: "Messages taken in and not yet acknowledged.",
		}),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "edge_intake_broker_connected", Help: "1 while subscribed to the broker in front, else 0.",
		}),
	}
	reg.MustRegister(m.messages, m.bytes, m.acked, m.ended, m.oversized, m.skipped, m.dup, m.sessions, m.held, m.connected)
	return m
}

// source is the metrics of one way in, looked up once.
type source struct {
	*Metrics
	qos          [3]prometheus.Counter
	bytes, acked prometheus.Counter
}

func (m *Metrics) source(name string) source {
	s := source{Metrics: m, bytes: m.bytes.WithLabelValues(name), acked: m.acked.WithLabelValues(name)}
	for i, qos := range []string{"0", "1", "2"} {
		s.qos[i] = m.messages.WithLabelValues(name, qos)
	}
	return s
}

func (s *source) count(r *telemetry.Reading) {
	s.qos[r.QoS].Inc()
	s.bytes.Add(float64(len(r.Topic) + len(r.Payload)))
	if r.Dup {
		s.dup.Inc()
	}
}
