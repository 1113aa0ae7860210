package uplink

import "github.com/prometheus/client_golang/prometheus"

// metrics are the counters of the uplink, edge_uplink_….
type metrics struct {
	frames, bytes, resends, timeouts, receipts                            *prometheus.CounterVec
	publishErrors, confirmed, rejected, again, wentBack, jumps, explained prometheus.Counter
	inFlight, window, unconfirmed, oldest, rtt                            prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "edge", Subsystem: "uplink", Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "edge", Subsystem: "uplink", Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "edge", Subsystem: "uplink", Name: name, Help: help})
	}
	m := &metrics{
		frames:        vec("frames_total", "Frames handed to the publisher, resends and empty ones included.", "lane"),
		bytes:         vec("frame_bytes_total", "Bytes of those frames.", "lane"),
		resends:       vec("resends_total", "Frames sent once more.", "lane"),
		timeouts:      vec("timeouts_total", "Receipts that did not come in time.", "lane"),
		receipts:      vec("receipts_total", "Receipts by what became of them: good, stale, refused, impossible, dropped, unenrolled.", "fate"),
		publishErrors: counter("publish_errors_total", "Publishes that failed."),
		confirmed:     counter("records_confirmed_total", "Records that receipts newly covered."),
		rejected:      counter("rejected_total", "Frames that the cloud wanted cut anew."),
		again:         counter("again_records_total", "Records that the cloud asked for once more."),
		wentBack:      counter("cloud_went_back_total", "Times that the cloud had lost what it had confirmed."),
		jumps:         counter("live_jumps_total", "Times that the live lane left old readings to the backlog."),
		explained:     counter("explained_records_total", "Records that the cloud lacks, the device has not, and nothing gave a reason for."),
		inFlight:      gauge("in_flight_bytes", "Bytes sent and not receipted."),
		window:        gauge("window_bytes", "Bytes that may be in flight."),
		unconfirmed:   gauge("unconfirmed_records", "Records without a receipt."),
		oldest:        gauge("oldest_unsent_age_seconds", "Age of the oldest record never sent; 0 when none is."),
		rtt:           gauge("round_trip_seconds", "From the broker's acknowledgement to the receipt, smoothed."),
	}
	if reg != nil {
		reg.MustRegister(m.frames, m.bytes, m.resends, m.timeouts, m.receipts, m.publishErrors, m.confirmed, m.rejected,
			m.again, m.wentBack, m.jumps, m.explained, m.inFlight, m.window, m.unconfirmed, m.oldest, m.rtt)
	}
	return m
}
