package receipts

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	results *prometheus.CounterVec
	seconds prometheus.Histogram
	pending prometheus.Gauge
	dropped prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cloud_receipts_total", Help: "Attempts to send a receipt, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cloud_receipts_seconds", Help: "Time to make and send one receipt.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cloud_receipts_pending", Help: "Agents that wait for a receipt.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cloud_receipts_dropped_total", Help: "Receipts not made because too many agents waited.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.results, m.seconds, m.pending, m.dropped)
	}
	return m
}

func (m *metrics) sent(err error, d time.Duration) {
	result := "sent"
	if err != nil {
		result = "failed"
	}
	m.results.WithLabelValues(result).Inc()
	m.seconds.Observe(d.Seconds())
}
