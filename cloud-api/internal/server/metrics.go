package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-edge/holdfast/cloud-api/internal/store"
)

// fleet shows what the database says of all agents. Every replica says the same:
// take the highest, not the sum.
type fleet struct {
	agents      *prometheus.GaugeVec
	records     *prometheus.GaugeVec
	unexplained prometheus.Gauge
	alarms      *prometheus.GaugeVec
}

func newFleet(reg prometheus.Registerer) *fleet {
	f := &fleet{
		agents: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cloud_fleet_agents", Help: "Agents that are enrolled, by whether they are allowed or revoked.",
		}, []string{"state"}),
		records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cloud_fleet_records", Help: "Records of all agents, by where they are.",
		}, []string{"place"}),
		unexplained: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cloud_fleet_unexplained_records", Help: "Records that are gone, and nothing says why.",
		}),
		alarms: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cloud_fleet_alarms", Help: "Alarms that stand, by kind.",
		}, []string{"kind"}),
	}
	reg.MustRegister(f.agents, f.records, f.unexplained, f.alarms)
	return f
}

func (f *fleet) show(now store.Fleet) {
	f.agents.WithLabelValues("allowed").Set(float64(now.Agents - now.Revoked))
	f.agents.WithLabelValues("revoked").Set(float64(now.Revoked))
	for place, n := range map[string]uint64{
		"held": now.Held, "expired": now.Expired, "quarantined": now.Quarantined, "lost": now.Lost, "on_device": now.OnDevice, "missing": now.Missing,
	} {
		f.records.WithLabelValues(place).Set(float64(n))
	}
	f.unexplained.Set(float64(now.Unexplained))
	for _, kind := range store.AlarmKinds {
		f.alarms.WithLabelValues(kind).Set(float64(now.Alarms[kind]))
	}
}
