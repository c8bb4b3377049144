package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// cluster is a member with all that stands in it: pods, an API server, proxies, Envoy, and a spoke.
type cluster struct {
	w     *world
	index int
	Member
	spoke     *spoke
	workloads map[federation.ServiceID]*workload
	services  []federation.ServiceID // the keys of workloads, sorted
	hosts     []ledger.Host
	hostsMade int
	watches   []*watch
	watched   uint64 // how many watches there have been
	// envoy is what Envoy uses, hosted what the ingress proxies host, by address. Both outlive the spoke.
	envoy  map[federation.ServiceID]federation.EndpointSet
	hosted map[netip.Addr]federation.ExportKey
	prober prober
	// off, apiDown, crashed and left count the faults that hold now.
	off, apiDown, crashed, left int
	// dead is since when all of the cluster is down, referred when what it refers to last changed, joined when it
	// last left or joined.
	dead, referred, joined time.Duration
}

// workload is an export of the cluster, as it truly is.
type workload struct {
	export  federation.Export
	hidden  int // how many faults have taken it away
	changed time.Duration
}

func newCluster(w *world, m Member) *cluster {
	c := &cluster{
		w: w, index: len(w.members), Member: m, off: 1,
		workloads: map[federation.ServiceID]*workload{}, envoy: map[federation.ServiceID]federation.EndpointSet{}, hosted: map[netip.Addr]federation.ExportKey{},
	}
	for _, s := range w.scenario.Services {
		pods, ok := s.Exports[m.Cluster]
		if !ok {
			continue
		}
		c.workloads[s.ID] = &workload{export: federation.Export{
			Key: federation.ExportKey{Cluster: m.Cluster, Service: s.ID}, Tailnet: "prod", TailnetRef: "prod",
			Ports: s.Ports, Labels: s.Labels, Ready: pods.Ready, Desired: pods.Desired, Federated: pods.Federated,
		}}
	}
	c.services = sortedServices(c.workloads)
	c.changeHosts()
	c.changeHosts()
	c.spoke = newSpoke(c)
	c.prober = prober{c: c}
	return c
}

func (c *cluster) name() string { return string(c.Cluster) }

// alive reports whether the cluster has power.
func (c *cluster) alive() bool { return c.off == 0 }

func (c *cluster) powerOff() {
	if c.off++; c.off > 1 {
		return
	}
	c.dead = c.w.now
	c.spoke.crash("lost its power")
	c.watches = nil
	c.envoy = map[federation.ServiceID]federation.EndpointSet{}
	c.hosted = map[netip.Addr]federation.ExportKey{}
	c.prober.stop()
	c.w.check.pathsChanged()
}

func (c *cluster) powerOn() {
	if c.off--; c.off > 0 {
		return
	}
	c.spoke.start()
	c.prober.start()
	c.w.check.pathsChanged()
}

// served reports whether the cluster's API server can be read: it goes through the spoke.
func (c *cluster) served() bool { return c.alive() && c.spoke.up && c.apiDown == 0 }

// exported returns an export that is there now.
func (c *cluster) exported(id federation.ServiceID) (federation.Export, bool) {
	x := c.workloads[id]
	if x == nil || x.hidden > 0 {
		return federation.Export{}, false
	}
	return x.export, true
}

func (c *cluster) workload(service string) *workload {
	id, err := federation.ParseServiceID(service)
	if err != nil {
		return nil
	}
	return c.workloads[id]
}

// hide takes an export away or gives it back.
func (c *cluster) hide(service string, n int) {
	if x := c.workload(service); x != nil {
		x.hidden += n
		c.changed(x)
	}
}

func (c *cluster) setReady(service string, n int) {
	if x := c.workload(service); x != nil {
		x.export.Ready = n
		c.changed(x)
	}
}

func (c *cluster) federate(service string) {
	if x := c.workload(service); x != nil {
		x.export.Federated = !x.export.Federated
		c.changed(x)
	}
}

// changed tells of an export that changed: the watches and the spoke, which reads the API server too.
func (c *cluster) changed(x *workload) {
	x.changed = c.w.now
	c.w.note(c.name(), "export", x.export.Key.Service.String(), fmt.Sprint(x.export.Ready, "/", x.export.Desired, " hidden ", x.hidden))
	for _, wt := range c.watches {
		wt.tell(x.export, x.hidden == 0)
	}
	if c.served() {
		c.w.push(c.w.now+20*time.Millisecond, &c.spoke.party, c.spoke.readLocal)
	}
}

// changeHosts replaces the older one of the two ingress hosts.
func (c *cluster) changeHosts() {
	c.hostsMade++
	h := ledger.Host{NodeID: fmt.Sprintf("n-%s-%d", c.Cluster, c.hostsMade), Addr: fmt.Sprintf("100.64.%d.%d:4701", c.index, c.hostsMade%250+1)}
	c.hosts = append(c.hosts, h)
	if len(c.hosts) > 2 {
		c.hosts = slices.Clone(c.hosts[1:])
	}
	if c.spoke != nil {
		c.spoke.later(0, c.spoke.report)
	}
}

// refer changes what the cluster refers to.
func (c *cluster) refer(n int) {
	var i federation.Interest
	for bit, s := range c.w.scenario.Services {
		if n>>bit&1 == 1 {
			i.Services = append(i.Services, s.ID)
		}
	}
	i.All = len(i.Services) == 0
	sortServices(i.Services)
	c.Interest, c.referred = i, c.w.now
	c.spoke.later(0, c.spoke.report)
}

// answers reports whether something at the address answers a connect.
func (c *cluster) answers(t federation.Target, addrs []netip.AddrPort) bool {
	if !c.alive() {
		return false
	}
	for _, a := range addrs {
		if t.Service == (federation.ServiceID{}) {
			if slices.ContainsFunc(c.hosts, func(h ledger.Host) bool { return h.Addr == a.String() }) {
				return true
			}
		} else if _, ok := c.hosted[a.Addr()]; ok {
			return true
		}
	}
	return false
}

// watch is a hub's watch of a member's API server.
type watch struct {
	h      *hub
	c      *cluster
	stream *stream
	number uint64 // a later watch has a higher one
}

// tell sends the watcher what has become of an export.
func (wt *watch) tell(x federation.Export, there bool) {
	wt.stream.send(func() { wt.h.watched(wt, x, there) })
}

// serveWatch takes a hub's request to watch, in place of the one that it had: first all there is, then what changes.
func (c *cluster) serveWatch(h *hub) {
	c.watches = slices.DeleteFunc(c.watches, func(o *watch) bool { return o.h == h })
	c.watched++
	wt := &watch{h: h, c: c, number: c.watched, stream: c.w.net.stream(c.name(), h.name, &h.party)}
	c.watches = append(c.watches, wt)
	var all []federation.Export
	for _, id := range c.services {
		if x, ok := c.exported(id); ok {
			all = append(all, x)
		}
	}
	wt.stream.send(func() { h.listed(wt, all) })
}

// dropWatches ends all watches; the hubs are told, if they can be reached.
func (c *cluster) dropWatches() {
	for _, wt := range c.watches {
		wt.stream.kill()
		c.w.net.datagram(c.name(), wt.h.name, &wt.h.party, func() { wt.h.watchEnded(wt) })
	}
	c.watches = nil
}
