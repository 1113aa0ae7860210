package outbox

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/edge-agent/telemetry"
)

// metrics are the outbox's own; what Stats knows is read at each scrape.
type metrics struct {
	reg     prometheus.Registerer
	commits prometheus.Histogram
	batch   prometheus.Histogram
	outbox  *Outbox
}

func newMetrics(reg prometheus.Registerer, o *Outbox) *metrics {
	m := &metrics{
		reg: reg, outbox: o,
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "edge_outbox_commit_seconds", Help: "Time of a commit, its fsyncs included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "edge_outbox_commit_records", Help: "Records a commit.", Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
	}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg != nil {
		m.reg.Unregister(m)
	}
}

func (m *metrics) commit(records int, d time.Duration) {
	m.commits.Observe(d.Seconds())
	m.batch.Observe(float64(records))
}

type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Stats) float64
}

func newGauge(name, help string, kind prometheus.ValueType, value func(*Stats) float64) gauge {
	return gauge{prometheus.NewDesc("edge_outbox_"+name, help, nil, nil), kind, value}
}

func gauges() []gauge {
	g, c := prometheus.GaugeValue, prometheus.CounterValue
	return []gauge{
		newGauge("records", "Records that no receipt covers.", g, func(s *Stats) float64 { return float64(s.Records) }),
		newGauge("bytes", "Bytes the folder takes, reservations included.", g, func(s *Stats) float64 { return float64(s.Bytes) }),
		newGauge("unreceipted_bytes", "Bytes of segments that no receipt covers.", g, func(s *Stats) float64 { return float64(s.Unreceipted) }),
		newGauge("max_bytes", "The limit of the folder.", g, func(s *Stats) float64 { return float64(s.MaxBytes) }),
		newGauge("free_bytes", "Free on the file system; -1 unknown.", g, func(s *Stats) float64 { return float64(s.FreeBytes) }),
		newGauge("segments", "Files of the outbox.", g, func(s *Stats) float64 { return float64(s.Segments) }),
		newGauge("epochs", "Epochs with records on the device.", g, func(s *Stats) float64 { return float64(s.Epochs) }),
		newGauge("queued_records", "Drafts that wait for a commit.", g, func(s *Stats) float64 { return float64(s.Queued) }),
		newGauge("quarantined_segments", "Damaged files that were set aside.", g, func(s *Stats) float64 { return float64(s.Quarantined) }),
		newGauge("full", "1 while the outbox is full.", g, func(s *Stats) float64 { return float64(boolByte(!s.FullSince.IsZero())) }),
		newGauge("time_to_full_seconds", "Time until the outbox is full at the present rate; absent when nothing comes in.", g, timeToFull),
		newGauge("appended_records_total", "Records made durable.", c, func(s *Stats) float64 { return float64(s.Appended) }),
		newGauge("appended_bytes_total", "Bytes of topics and payloads made durable.", c, func(s *Stats) float64 { return float64(s.AppendedBytes) }),
		newGauge("foreign_receipts_total", "Receipts for another agent; nothing was deleted.", c, func(s *Stats) float64 { return float64(s.Foreign) }),
		newGauge("never_made_total", "Receipts and requests for seqs never made here; nothing was deleted.", c, func(s *Stats) float64 { return float64(s.NeverMade) }),
		newGauge("unknown_epochs_total", "Receipts of epochs that are not here.", c, func(s *Stats) float64 { return float64(s.UnknownEpochs) }),
	}
}

func timeToFull(s *Stats) float64 {
	if s.TimeToFull < 0 {
		return math.NaN()
	}
	return s.TimeToFull.Seconds()
}

var lostDesc = prometheus.NewDesc("edge_outbox_lost_readings_total", "Readings given up, each with a loss record.", []string{"reason"}, nil)

// Describe is prometheus.Collector's.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.commits.Describe(ch)
	m.batch.Describe(ch)
	for _, g := range gauges() {
		ch <- g.desc
	}
	ch <- lostDesc
}

// Collect is prometheus.Collector's.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.commits.Collect(ch)
	m.batch.Collect(ch)
	s := m.outbox.Stats()
	for _, g := range gauges() {
		if v := g.value(&s); !math.IsNaN(v) { // what is not known is absent
			ch <- prometheus.MustNewConstMetric(g.desc, g.kind, v)
		}
	}
	for r := telemetry.ReasonDropped; r <= telemetry.ReasonReceipted; r++ {
		ch <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(s.Lost[r]), r.String())
	}
}
