package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// shape is a federation to be measured.
type shape struct {
	name string
	// clusters export so many services each, and refer to so many.
	clusters, exports, interest int
	// copies is how many clusters export the same service.
	copies int
	// referred is how many of the services are referred to at all.
	referred int
}

// spread is a federation in which every service runs in five clusters, and five refer to each that is referred to.
func spread(clusters, exports int) shape {
	return shape{name: "spread", clusters: clusters, exports: exports, interest: 50, copies: 5, referred: 10 * clusters}
}

// sameness is the other extreme: every cluster runs every service. What an event costs then grows with the clusters,
// because the endpoint sets do. A tenth of the services is enough to show it, and a tenth of the interest keeps as many
// consumers for each.
func sameness(clusters, exports int) shape {
	return shape{name: "sameness", clusters: clusters, exports: exports / 10, interest: 5, copies: clusters, referred: exports / 10}
}

func (s shape) services() int { return s.clusters * s.exports / s.copies }

func (s shape) String() string {
	return fmt.Sprintf("%s: %d clusters x %d exports, a service in %d clusters, %d referred to by each", s.name, s.clusters, s.exports, s.copies, s.interest)
}

func cluster(i int) federation.ClusterID { return federation.ClusterID(fmt.Sprintf("cluster-%03d", i)) }

func service(i int) federation.ServiceID {
	return federation.Service(fmt.Sprintf("team-%02d", i%20), fmt.Sprintf("service-%06d", i))
}

// exporter returns the j-th cluster that exports a service.
func (s shape) exporter(service, j int) federation.ClusterID {
	return cluster((service + j*s.clusters/s.copies) % s.clusters)
}

// live is a federation that runs: the core, and the views that the members are told.
type live struct {
	shape
	core  *coordinator.Coordinator
	views map[federation.ClusterID]*linkstate.View
	now   time.Time
	// stored is called with what a hub would store.
	stored func(ledger.Batch)
}

func newLive(s shape) *live {
	l := &live{
		shape: s, views: map[federation.ClusterID]*linkstate.View{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		stored: func(ledger.Batch) {},
	}
	core, err := coordinator.New(coordinator.Config{}, ledger.State{}, l.now)
	if err != nil {
		panic(err) // an empty state is sound
	}
	l.core = core
	l.do(coordinator.MembersExpected{}) // there is nothing to be learned first
	l.do(coordinator.VIPsListed{})
	return l
}

// do takes an event through the core, as the hub's loop does.
func (l *live) do(e coordinator.Event) {
	s := l.core.Plan(e, l.now)
	l.stored(s.Batch)
	effects := l.core.Apply(s)
	for c, changes := range effects.Views {
		l.view(c).Edit(changes)
	}
}

func (l *live) view(c federation.ClusterID) *linkstate.View {
	if l.views[c] == nil {
		l.views[c] = linkstate.NewView()
	}
	return l.views[c]
}

func (l *live) decide(e failover.Event) { l.do(coordinator.Failover{Event: e}) }

// fill makes the federation: members that are linked, see one another and refer to services, and exports with VIPs.
func (l *live) fill() {
	for i := range l.clusters {
		l.join(i)
	}
	for i := range l.services() {
		for j := range l.copies {
			l.decide(failover.ExportChanged{Export: l.export(i, j, 2)})
		}
	}
	next := netip.MustParseAddr("100.64.0.1")
	for e := range l.core.Registry().All() {
		l.do(coordinator.VIPAssigned{Service: e.ServiceName, Addrs: []netip.Addr{next}})
		next = next.Next()
	}
}

func (l *live) join(i int) {
	c := cluster(i)
	l.do(coordinator.MemberSeen{Cluster: c, Locality: federation.Locality{Region: fmt.Sprintf("region-%d", i%5), Zone: fmt.Sprintf("zone-%d", i%3)}})
	l.do(coordinator.MemberHosts{Cluster: c, Hosts: []ledger.Host{{NodeID: string(c), Addr: "100.127.0.1:9440"}}})
	var interest federation.Interest
	for k := range l.interest {
		interest.Services = append(interest.Services, service((i*l.interest+k)%l.referred))
	}
	sortServices(interest.Services)
	l.do(coordinator.MemberInterest{Cluster: c, Interest: interest})
	l.decide(failover.LinkChanged{Cluster: c, Up: true})
	l.decide(failover.APIChanged{Cluster: c, Up: true})
	for other := range i {
		l.decide(failover.Observed{Observer: c, Target: federation.Target{Cluster: cluster(other)}, Reachable: true, At: l.now})
		l.decide(failover.Observed{Observer: cluster(other), Target: federation.Target{Cluster: c}, Reachable: true, At: l.now})
	}
}

func (l *live) export(i, j, ready int) federation.Export {
	return federation.Export{
		Key:     federation.ExportKey{Cluster: l.exporter(i, j), Service: service(i)},
		Tailnet: "production", TailnetRef: "production", Ports: []federation.Port{{Name: "http", Port: 8080, Protocol: federation.TCP}}, Ready: ready, Desired: 2,
	}
}

// consumer returns a cluster that refers to the service.
func (l *live) consumer(id federation.ServiceID) federation.ClusterID {
	for _, c := range l.core.Members() {
		if m, _ := l.core.Member(c); m.Interest.Wants(id) {
			return c
		}
	}
	return ""
}
