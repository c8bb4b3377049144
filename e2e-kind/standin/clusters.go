package standin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/xds"
)

// clusterEntry is a cluster with the definition in use and the one that is warming.
type clusterEntry struct {
	spec    *upstream.Spec // the newest
	active  *running
	warming *running
}

// running is a cluster that watches its endpoints until it is stopped.
type running struct {
	*upstream.Cluster
	stop context.CancelFunc
}

type endpointKey struct{ source, name string }

func keyOf(spec *upstream.Spec) endpointKey {
	return endpointKey{source: cmp.Or(spec.EDSSource, adsSource), name: spec.EDSName}
}

// applyClusters applies a CDS response. The good clusters are applied although others are refused.
func (s *Server) applyClusters(resources []*discoveryv3.Resource, removed []string) error {
	var errs refusals
	for _, r := range resources {
		var c clusterv3.Cluster
		if err := r.GetResource().UnmarshalTo(&c); err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		if e := s.clusters[c.GetName()]; e != nil && (e.spec.Bootstrapped || same(e.spec.Proto, &c)) {
			continue
		}
		spec, err := upstream.Compile(&c)
		if err == nil {
			err = s.checkSourceLocked(spec)
		}
		if err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		s.setClusterLocked(spec)
	}
	for _, name := range removed {
		if e := s.clusters[name]; e != nil && !e.spec.Bootstrapped {
			s.dropClusterLocked(name, e)
		}
	}
	s.hasCDS = true
	s.subscribeLocked()
	s.proceedLocked()
	return errs.err("cluster")
}

// checkSourceLocked refuses endpoint sources that Envoy refuses.
func (s *Server) checkSourceLocked(spec *upstream.Spec) error {
	if spec.EDSSource == "" {
		return nil
	}
	src := s.clusters[spec.EDSSource]
	if src == nil || !src.spec.Bootstrapped || src.spec.Discovery == upstream.EDS {
		return fmt.Errorf("eds_config: %s is not a statically defined, non-EDS cluster of the bootstrap", spec.EDSSource)
	}
	return nil
}

// setClusterLocked starts a new definition of a cluster. The old one serves until the new one is ready.
func (s *Server) setClusterLocked(spec *upstream.Spec) {
	e := s.clusters[spec.Name]
	if e == nil {
		e = &clusterEntry{}
		s.clusters[spec.Name] = e
	}
	e.spec = spec
	if e.warming != nil {
		e.warming.stop()
	}
	c := upstream.New(spec, upstream.Deps{
		Stats: s.stats, Secrets: s.secrets, Log: s.log, Now: time.Now, Resolver: net.DefaultResolver,
	})
	ctx, cancel := context.WithCancel(s.ctx)
	r := &running{Cluster: c, stop: cancel}
	e.warming = r
	if spec.Discovery == upstream.EDS {
		// Endpoints that are already known serve the new definition too: the control plane need not send them again.
		if known := s.endpoints[keyOf(spec)]; known != nil {
			c.Update(known)
		}
	}
	s.group.Go(func() error { return c.Run(ctx) })
	s.group.Go(func() error {
		s.warm(ctx, spec, r)
		return nil
	})
}

// warm waits until a cluster is ready, or its endpoints are overdue, and then makes it the active one.
func (s *Server) warm(ctx context.Context, spec *upstream.Spec, r *running) {
	var overdue <-chan time.Time
	if spec.Discovery == upstream.EDS && spec.EDSTimeout > 0 {
		t := time.NewTimer(spec.EDSTimeout)
		defer t.Stop()
		overdue = t.C
	}
	select {
	case <-ctx.Done():
		return
	case <-r.Ready():
	case <-overdue:
		s.log.Warn("endpoints have not arrived in time; the cluster starts without", "cluster", spec.Name, "timeout", spec.EDSTimeout)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.clusters[spec.Name]
	if e == nil || e.warming != r {
		return
	}
	old := e.active
	e.active, e.warming = r, nil
	s.publishClustersLocked()
	if old != nil {
		old.stop()
		old.Drain()
	}
	s.proceedLocked()
}

func (s *Server) dropClusterLocked(name string, e *clusterEntry) {
	delete(s.clusters, name)
	s.publishClustersLocked()
	for _, r := range []*running{e.active, e.warming} {
		if r != nil {
			r.stop()
			r.Drain()
		}
	}
}

func (s *Server) publishClustersLocked() {
	active := map[string]*upstream.Cluster{}
	for name, e := range s.clusters {
		if e.active != nil {
			active[name] = e.active.Cluster
		}
	}
	s.active.Store(&active)
	s.stats.Gauge("cluster_manager", "", "active_clusters").Set(int64(len(active)))
}

// applyEndpoints applies an EDS response. Like Envoy it ignores the removal of endpoints by their source, except
// that a cluster no longer waits for them.
func (s *Server) applyEndpoints(source string, resources []*discoveryv3.Resource, removed []string) error {
	var errs refusals
	for _, r := range resources {
		var cla endpointv3.ClusterLoadAssignment
		err := r.GetResource().UnmarshalTo(&cla)
		var e *upstream.Endpoints
		if err == nil {
			e, err = upstream.CompileEndpoints(&cla)
		}
		if err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		key := endpointKey{source, cla.GetClusterName()}
		s.endpoints[key] = e
		s.accepted.endpoints[key] = &cla
		s.updateEndpointsLocked(key, e, true)
	}
	for _, name := range removed {
		key := endpointKey{source, name}
		if s.endpoints[key] == nil {
			s.updateEndpointsLocked(key, &upstream.Endpoints{Name: name, Overprovisioning: 140}, false)
		}
	}
	return errs.err("endpoints")
}

// updateEndpointsLocked hands endpoints to the clusters that use them.
func (s *Server) updateEndpointsLocked(key endpointKey, e *upstream.Endpoints, toActive bool) {
	for _, c := range s.clusters {
		if c.spec.Discovery != upstream.EDS || keyOf(c.spec) != key {
			continue
		}
		if c.warming != nil {
			c.warming.Update(e)
		}
		if c.active != nil && toActive && keyOf(c.active.Spec) == key {
			c.active.Update(e)
		}
	}
}

// subscribeLocked brings the subscriptions by name to what clusters and listeners need.
func (s *Server) subscribeLocked() {
	endpoints := map[string][]string{}
	secrets := []string{}
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		spec := s.clusters[name].spec
		secrets = append(secrets, spec.Secrets...)
		if spec.Discovery == upstream.EDS {
			key := keyOf(spec)
			endpoints[key.source] = append(endpoints[key.source], key.name)
		}
	}
	for key := range s.endpoints { // what nobody asks for any more must be sent anew when it is
		if !slices.Contains(endpoints[key.source], key.name) {
			delete(s.endpoints, key)
			delete(s.accepted.endpoints, key)
		}
	}
	routes := []string{}
	for _, l := range s.listeners {
		routes = append(routes, l.spec.Routes...)
		secrets = append(secrets, l.spec.Secrets...)
	}
	for source := range endpoints {
		if source != adsSource && s.eds[source] == nil {
			client, err := s.clientLocked(source, source)
			if err != nil {
				s.log.Error("endpoint source cannot be used", "source", source, "err", err)
				continue
			}
			s.eds[source] = client
		}
	}
	for source, client := range s.eds {
		client.Want(xds.EndpointType, endpoints[source])
	}
	if s.ads != nil {
		s.ads.Want(xds.EndpointType, endpoints[adsSource])
		s.ads.Want(xds.RouteType, routes)
		s.ads.Want(xds.SecretType, secrets)
	}
}

// proceedLocked asks for listeners once all clusters of the start are ready, as Envoy does.
func (s *Server) proceedLocked() {
	if !s.hasCDS || !s.asksLDS || s.ads == nil {
		return
	}
	for _, e := range s.clusters {
		if e.active == nil && !s.hasLDS {
			return
		}
	}
	s.ads.WantAll(xds.ListenerType)
}

// Clusters returns the clusters that can be used, sorted by name.
func (s *Server) Clusters() []*upstream.Cluster {
	active := *s.active.Load()
	var all []*upstream.Cluster
	for _, name := range slices.Sorted(maps.Keys(active)) {
		all = append(all, active[name])
	}
	return all
}
