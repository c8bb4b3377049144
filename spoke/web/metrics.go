package web

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailgate-project/tailgate/spoke"
)

// The label values are roles and parts of the spoke: few, and known beforehand.
const (
	labelRole = "role"
	labelPart = "part"
)

var (
	linkUp        = desc("link_up", "Whether the link to the hub is up.")
	linkStale     = desc("link_stale_seconds", "How long the link to the hub has been down.")
	linkEpoch     = desc("link_epoch", "Epoch of the hub whose state was applied last.")
	linkVersion   = desc("link_version", "Version of the hub's state that was applied last.")
	endpointSets  = desc("endpoint_sets", "Federated services that this cluster refers to.")
	ownVIPs       = desc("vips", "VIPs of this cluster.")
	egressPorts   = desc("egress_ports", "Ports of remote VIPs that have a local address.")
	egressResets  = desc("egress_resets", "Egress ports whose cluster the own probes find unreachable.")
	probeTargets  = desc("probe_targets", "Targets of the own probes.")
	probesFailing = desc("probe_targets_unreachable", "Targets that the own probes find unreachable.")
	proxiesUp     = desc("proxies_connected", "Proxies that the spoke hears.", labelRole)
	problem       = desc("problem", "Parts of the spoke that have a problem; the status says which.", labelPart)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("tailgate", "spoke", name), help, labels, nil)
}

// collector makes metrics of a status.
type collector struct{ status spoke.Status }

// Describe tells which metrics there are.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		linkUp, linkStale, linkEpoch, linkVersion, endpointSets, ownVIPs, egressPorts, egressResets, probeTargets, probesFailing, proxiesUp, problem,
	} {
		ch <- d
	}
}

// Collect makes them.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st := c.status
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	up, stale := 1.0, 0.0
	if !st.Link.Up {
		up, stale = 0, st.Now.Sub(st.Link.Since).Seconds()
	}
	gauge(linkUp, up)
	gauge(linkStale, stale)
	gauge(linkEpoch, float64(st.Epoch))
	gauge(linkVersion, float64(st.Version))
	gauge(endpointSets, float64(len(st.Sets)))
	gauge(ownVIPs, float64(len(st.VIPs)))
	gauge(egressPorts, float64(len(st.Egress)))
	resets, failing := 0, 0
	for _, e := range st.Egress {
		if e.Reset {
			resets++
		}
	}
	for _, p := range st.Probes {
		if p.Unreachable {
			failing++
		}
	}
	gauge(egressResets, float64(resets))
	gauge(probeTargets, float64(len(st.Probes)))
	gauge(probesFailing, float64(failing))
	connected := map[spoke.Role]int{spoke.Ingress: 0, spoke.Egress: 0}
	for _, p := range st.Proxies {
		if p.Connected {
			connected[p.Role]++
		}
	}
	for role, n := range connected {
		gauge(proxiesUp, float64(n), string(role))
	}
	for part := range st.Problems {
		gauge(problem, 1, part)
	}
}
