package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

type metrics struct {
	frames     *prometheus.CounterVec
	bytes      prometheus.Counter
	seconds    prometheus.Histogram
	commit     prometheus.Histogram
	records    prometheus.Counter
	duplicates prometheus.Counter
	alarms     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		frames: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cloud_ingest_frames_total", Help: "Frames taken, by result.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cloud_ingest_bytes_total", Help: "Bytes of frames as they came.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cloud_ingest_frame_seconds", Help: "Time from a free slot to the commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cloud_ingest_commit_seconds", Help: "Of it, the time that the database took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cloud_ingest_records_total", Help: "Records stored.",
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cloud_ingest_duplicate_records_total", Help: "Records that came again and changed nothing.",
		}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cloud_ingest_alarms_total", Help: "Alarms raised by frames, by kind.",
		}, []string{"kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.frames, m.bytes, m.seconds, m.commit, m.records, m.duplicates, m.alarms)
	}
	return m
}

func (m *metrics) frame(result string, d time.Duration, size int) {
	m.frames.WithLabelValues(result).Inc()
	m.seconds.Observe(d.Seconds())
	m.bytes.Add(float64(size))
}

func (m *metrics) committed(r store.Result) {
	m.records.Add(float64(r.Records))
	m.duplicates.Add(float64(r.Duplicate))
	for _, a := range r.Alarms {
		m.alarms.WithLabelValues(a.Kind).Inc()
	}
}
