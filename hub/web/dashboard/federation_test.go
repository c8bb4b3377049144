package dashboard_test

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// dead is the cluster that died, stale the one whose API server is lost, draining and cordoned what operators want.
const (
	dead     = "us-west-2"
	stale    = "ap-northeast-1"
	draining = "eu-central-1"
)

var regions = map[federation.ClusterID]string{
	"ap-northeast-1": "Asia Pacific", "ap-south-1": "Asia Pacific", "eu-central-1": "Europe", "eu-west-1": "Europe", "us-east-1": "America", "us-west-2": "America",
}

var clusterNames = []federation.ClusterID{"ap-northeast-1", "ap-south-1", "eu-central-1", "eu-west-1", "us-east-1", "us-west-2"}

// newHub returns a federation of six clusters in three regions with 40 services. One cluster is dead, one stale, one
// drained by half; one VIP is pending; the journal is long.
func newHub() *hub {
	h := &hub{now: start, change: 7, moved: make(chan struct{})}
	h.status = operator.Status{Version: "v0.9.3", Epoch: 7, VIPs: map[string]int{}, Tasks: 2}
	for i, id := range clusterNames {
		h.status.Clusters = append(h.status.Clusters, member(id, i))
	}
	for i, o := range clusterNames {
		for j, t := range clusterNames {
			if p, ok := probe(o, t, i, j); ok {
				h.status.Probes = append(h.status.Probes, p)
			}
		}
	}
	h.addServices()
	h.addRecords()
	h.wishes = []operator.Operation{
		{Wish: operator.Wish{Cluster: draining, Mode: failover.Drain, Ramp: 5 * time.Minute}, Since: start.Add(-3 * time.Minute), Share: 40, By: "ada@example.com"},
		{Wish: operator.Wish{Cluster: "eu-west-1", Service: serviceID(federation.Service("shop", "search")), Mode: failover.Pin}, Since: start.Add(-26 * time.Hour), Share: 100, Done: true, By: "grace@example.com"},
		{Wish: operator.Wish{Cluster: "us-east-1", Service: serviceID(federation.Service("media", "encoder")), Mode: failover.Cordon}, Since: start.Add(-4 * 24 * time.Hour), Share: 100, Done: true},
	}
	return h
}

func member(id federation.ClusterID, i int) operator.Cluster {
	c := operator.Cluster{
		ID: id, Region: regions[id], Zone: string(id) + "a",
		Link:    operator.Signal{Up: true, Since: start.Add(-time.Duration(i+2) * 31 * time.Hour)},
		API:     operator.Signal{Up: true, Since: start.Add(-time.Duration(i+2) * 29 * time.Hour)},
		Applied: operator.Position{Epoch: 7, Version: 4182}, Newest: operator.Position{Epoch: 7, Version: 4182},
		Ingress:  []string{fmt.Sprintf("100.64.9.%d:9901", 10+i), fmt.Sprintf("100.64.9.%d:9901", 40+i)},
		Versions: operator.Versions{Spoke: "v0.9.3", Kubernetes: "v1.36.2", EnvoyGateway: "v1.9.1"},
		Verdict:  operator.Verdict{Health: federation.Healthy, Reason: failover.Serving, Share: 100, Since: start.Add(-time.Duration(i+1) * 40 * time.Hour)},
	}
	switch id {
	case dead:
		c.Link = operator.Signal{Since: start.Add(-95 * time.Second), Reason: "no heartbeat for 15 s"}
		c.API = operator.Signal{Since: start.Add(-92 * time.Second), Reason: "dial 100.64.9.15:6443: i/o timeout"}
		c.Applied.Version = 4177
		c.Verdict = operator.Verdict{Health: federation.Unhealthy, Reason: failover.ControlLostUnreachable, Share: 100, Since: start.Add(-90 * time.Second)}
	case stale:
		c.API = operator.Signal{Since: start.Add(-12 * time.Minute), Reason: "kube-apiserver answers 503"}
		c.Verdict.Stale, c.Verdict.Reason = true, failover.ServingStale
		c.Versions.Spoke = "v0.9.2"
	case draining:
		c.Mode, c.ModeSince = failover.Drain, start.Add(-3*time.Minute)
		c.Verdict.Share, c.Verdict.Reason = 40, failover.Draining
	case "ap-south-1":
		c.Applied.Version = 4179
		c.Zone = ""
	}
	return c
}

// probe is what a cluster finds of another. The dead one's own results are old.
func probe(o, t federation.ClusterID, i, j int) (operator.Probe, bool) {
	p := operator.Probe{Observer: o, Target: t, Reachable: true, At: start.Add(-time.Duration(300+70*i+11*j) * time.Millisecond)}
	p.RTT = time.Duration(75+19*abs(i-j)+7*j) * time.Millisecond
	if regions[o] == regions[t] {
		p.RTT = time.Duration(3100+900*i+377*j) * time.Microsecond
	}
	switch {
	case o == t, o == "ap-south-1" && t == "us-east-1":
		return p, false
	case o == dead:
		p.At = start.Add(-97 * time.Second)
	case t == dead:
		p.Reachable, p.RTT, p.Error = false, 0, "dial tcp 100.64.9.15:9901: i/o timeout"
	}
	return p, true
}

func abs(n int) int { return max(n, -n) }

var names = map[string][]string{
	"shop":     {"cart", "catalog", "checkout", "prices", "recommendations", "search", "storefront", "wishlist"},
	"payments": {"fraud", "gateway", "invoices", "ledger", "payouts"},
	"media":    {"encoder", "images", "thumbnails", "uploads", "video-transcoding-high-priority-worker"},
	"platform": {"auth", "config", "events", "feature-flags", "mail", "metrics-ingest", "notifications", "sessions", "webhooks"},
	"data":     {"clickstream", "export", "features", "reports", "warehouse"},
}

func (h *hub) addServices() {
	var ids []federation.ServiceID
	for ns, all := range names {
		for _, n := range all {
			ids = append(ids, federation.Service(ns, n))
		}
	}
	for _, gw := range []string{"edge", "internal"} {
		for _, l := range []string{"http", "https", "grpc", "metrics"} {
			ids = append(ids, federation.Listener("infra", gw, l))
		}
	}
	slices.SortFunc(ids, federation.ServiceID.Compare)
	for i, id := range ids {
		h.addService(i, id)
	}
}

func (h *hub) addService(i int, id federation.ServiceID) {
	svc := operator.Service{ID: serviceID(id), Policy: map[federation.ClusterID]string{}}
	ports := []operator.Port{{Name: "http", Port: 8080, Protocol: federation.TCP, App: "http"}}
	if i%4 == 0 {
		ports = append(ports, operator.Port{Name: "grpc", Port: 9090, Protocol: federation.TCP, App: "h2c"})
	}
	for j, c := range clusterNames {
		if (i+j)%3 == 2 && i%5 != 0 && id.Namespace != "shop" && id.Name != "encoder" {
			continue
		}
		x := operator.Export{Cluster: c, Ready: 3 + (i+j)%4, Desired: 3 + (i+j)%4, Ports: ports, Addresses: []netip.Addr{address(i*16 + j + 1)}, Verdict: h.status.Clusters[j].Verdict}
		x.Federated = i%7 == 0
		switch {
		case id.Name == "cart" && c == "eu-west-1":
			x.Ready, x.Verdict = 0, operator.Verdict{Health: federation.Unhealthy, Reason: failover.NoReadyEndpoints, Share: 100, Since: start.Add(-40 * time.Second)}
		case id.Name == "search" && c == "eu-west-1":
			x.Mode, x.ModeSince, x.Weight = failover.Pin, start.Add(-26*time.Hour), 3
			x.Verdict.Reason = failover.Pinned
		case id.Name == "payouts" && c == draining:
			x.Addresses = nil
		case id.Name == "encoder" && c == "us-east-1":
			x.Mode, x.ModeSince, x.ClusterPinned = failover.Cordon, start.Add(-4*24*time.Hour), true
			x.Verdict.Reason = failover.Cordoned
		}
		svc.Exports = append(svc.Exports, x)
		h.addVIP(id, x)
	}
	if id.Namespace == "payments" {
		for _, c := range clusterNames {
			svc.Policy[c] = "payments-stay-in-region"
		}
	}
	if svc.Exports[0].Federated {
		h.vips = append(h.vips, operator.VIP{ServiceName: "federated-" + id.Namespace + "-" + flat(id.Name), Name: "federated-" + flat(id.Name), Service: svc.ID, Federated: true,
			Tailnet: "production", TailnetRef: "production", Addresses: []netip.Addr{address(40_000 + i)}, Ports: ports, State: "assigned", Advertisers: []federation.ClusterID{svc.Exports[0].Cluster, "eu-west-1"}})
		h.status.VIPs["assigned"]++
	}
	h.services = append(h.services, svc)
}

func flat(name string) string {
	return string(slices.DeleteFunc([]byte(name), func(b byte) bool { return b == '/' }))
}

func (h *hub) addVIP(id federation.ServiceID, x operator.Export) {
	v := operator.VIP{Name: "local-production-" + flat(id.Name), Service: serviceID(id), Cluster: x.Cluster, Tailnet: "production", TailnetRef: "production", Ports: x.Ports, State: "assigned"}
	if gw, l := id.Gateway(); id.Kind == federation.KindListener {
		v.Name = "gateway-" + gw + "-" + l + "-8080"
	}
	v.ServiceName = v.Name + "-" + string(x.Cluster)
	v.Addresses = append(slices.Clone(x.Addresses), netip.MustParseAddr("fd7a:115c:a1e0::"+fmt.Sprintf("%x", len(h.vips)+4096)))
	switch {
	case id.Name == "payouts" && x.Cluster == draining:
		v.State, v.Addresses = "pending", nil
	case id.Name == "reports" && x.Cluster == draining:
		v.State, v.ReleasedAt = "released", start.Add(-2*time.Hour)
	}
	h.status.VIPs[v.State]++
	for i := range h.status.Clusters {
		if h.status.Clusters[i].ID == x.Cluster {
			h.status.Clusters[i].Exports++
		}
	}
	h.vips = append(h.vips, v)
}

// addRecords fills the journal: long ago one service goes and comes, and at last a cluster dies.
func (h *hub) addRecords() {
	add := func(at time.Time, r operator.Record) {
		r.Seq, r.At = uint64(len(h.records))+1, at
		h.records = append(h.records, r)
	}
	times := policy.Times{Grace: 5 * time.Second, FailbackDelay: 10 * time.Second}
	for i := range 1200 {
		svc := h.services[i/2%len(h.services)]
		x := svc.Exports[i/2%len(svc.Exports)]
		r := operator.Record{Cluster: x.Cluster, Service: svc.ID, From: federation.Healthy, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
			Because: "its API server calls 0 of 3 endpoints ready", Inputs: failover.Inputs{LinkLost: -1, APILost: -1, Times: times}}
		if i%2 == 1 {
			r.From, r.To, r.Reason, r.Because = r.To, r.From, failover.Serving, "3 of 3 endpoints have been ready for 10 s"
			r.Inputs.Ready = 3
		}
		add(start.Add(-27*time.Hour-time.Duration(1200-i)*37*time.Minute), r)
	}
	add(start.Add(-26*time.Hour), operator.Record{Cluster: "eu-west-1", Service: serviceID(federation.Service("shop", "search")), From: federation.Healthy, To: federation.Healthy, Reason: failover.Pinned,
		Because: "an operator pinned the service to it", Inputs: failover.Inputs{Ready: 4, LinkLost: -1, APILost: -1, Mode: failover.Pin, Operated: true, Times: times}})
	add(start.Add(-12*time.Minute), operator.Record{Cluster: stale, From: federation.Healthy, To: federation.Healthy, Reason: failover.ServingStale,
		Because: "its API server has been lost for 5 s, but 4 of 4 observers reach it", Inputs: failover.Inputs{Ready: -1, LinkLost: -1, APILost: 5 * time.Second, Votes: failover.Votes{Reach: 4}, Times: times}})
	add(start.Add(-3*time.Minute), operator.Record{Cluster: draining, From: federation.Healthy, To: federation.Healthy, Reason: failover.Draining,
		Because: "an operator drains it over 5m0s", Inputs: failover.Inputs{Ready: -1, LinkLost: -1, APILost: -1, Mode: failover.Drain, Ramp: 5 * time.Minute, Operated: true, Times: times}})
	lost := failover.Inputs{Ready: -1, LinkLost: 5 * time.Second, APILost: 2 * time.Second, Votes: failover.Votes{Fail: 4, Failing: []federation.ClusterID{"ap-northeast-1", "ap-south-1", "eu-central-1", "eu-west-1"}}, Times: times}
	add(start.Add(-90*time.Second), operator.Record{Cluster: dead, From: federation.Healthy, To: federation.Unhealthy, Reason: failover.ControlLostUnreachable,
		Because: "its link has been lost for 5 s, and 4 of 4 observers do not reach it", Inputs: lost})
	for _, svc := range h.services[8:13] {
		add(start.Add(-90*time.Second+300*time.Millisecond), operator.Record{Cluster: dead, Service: svc.ID, From: federation.Healthy, To: federation.Unhealthy, Reason: failover.ControlLostUnreachable,
			Because: "its link has been lost for 5 s, and 4 of 4 observers do not reach its cluster", Inputs: lost})
	}
	add(start.Add(-40*time.Second), operator.Record{Cluster: "eu-west-1", Service: serviceID(federation.Service("shop", "cart")), From: federation.Healthy, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
		Because: "its API server calls 0 of 5 endpoints ready", Inputs: failover.Inputs{LinkLost: -1, APILost: -1, Votes: failover.Votes{Reach: 3}, Reached: true, Times: times}})
	add(start.Add(-22*time.Second), operator.Record{Cluster: "us-east-1", Service: serviceID(federation.Listener("infra", "edge", "https")), Consumer: "ap-south-1", From: federation.Healthy, To: federation.Unhealthy,
		Reason: failover.UnreachableByObserver, Because: "ap-south-1 does not reach it, 3 of 4 observers do", Inputs: failover.Inputs{Ready: 3, LinkLost: -1, APILost: -1, Votes: failover.Votes{Reach: 3, Fail: 1, Failing: []federation.ClusterID{"ap-south-1"}}, Blind: true, Times: times}})
}

// grow makes the federation larger by clusters in five regions.
func (h *hub) grow(n int) {
	for i := range n {
		c := member(federation.ClusterID(fmt.Sprintf("cluster-%02d", i)), i)
		c.Region = []string{"Africa", "America", "Asia Pacific", "Europe", "Middle East"}[i%5]
		h.status.Clusters = append(h.status.Clusters, c)
	}
	h.status.Probes = nil
	for i, o := range h.status.Clusters {
		for j, t := range h.status.Clusters {
			if i == j || (i+j)%3 == 0 && i%7 != 0 {
				continue
			}
			p := operator.Probe{Observer: o.ID, Target: t.ID, Reachable: t.ID != dead, At: start.Add(-time.Second), RTT: time.Duration(2+abs(i%5-j%5)*38+j%11) * time.Millisecond}
			if !p.Reachable {
				p.RTT, p.Error = 0, "dial tcp 100.64.9.15:9901: i/o timeout"
			}
			h.status.Probes = append(h.status.Probes, p)
		}
	}
}
