package dapr

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	good, bad prometheus.Counter
	seconds   prometheus.Histogram
	received  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Client) *metrics {
	results := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "edge_dapr_publishes_total", Help: "Frames handed to the sidecar, by result.",
	}, []string{"result"})
	m := &metrics{
		good: results.WithLabelValues("ok"),
		bad:  results.WithLabelValues("error"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "edge_dapr_publish_seconds", Help: "Time until the sidecar answered, good or bad.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8), // 1 ms to 16 s
		}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "edge_dapr_received_total", Help: "Messages that came in by subscription.",
		}),
	}
	subscribed := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "edge_dapr_subscribed", Help: "1 while receipts can come in, else 0.",
	}, func() float64 {
		if c.State().Subscribed {
			return 1
		}
		return 0
	})
	reg.MustRegister(results, m.seconds, m.received, subscribed)
	return m
}

func (m *metrics) published(d time.Duration, err error) {
	m.seconds.Observe(d.Seconds())
	if err != nil {
		m.bad.Inc()
		return
	}
	m.good.Inc()
}
