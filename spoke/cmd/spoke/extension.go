package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/spoke"
)

// hookPoll is how often the hook server is asked what it was called for.
const hookPoll = 100 * time.Millisecond

// bridge gives the extension what the spoke decides, and the spoke what Envoy Gateway and Envoy do.
type bridge struct {
	hooks  *extension.Server
	eds    *extension.EDS
	events chan extension.Event
	log    *slog.Logger
	// routes counts those of each policy's Gateway, by the newest structure, once somebody asks.
	routes atomic.Pointer[func() map[extension.PolicyKey]spoke.RouteCount]
}

// SetStructure implements [spoke.Extension].
func (b *bridge) SetStructure(s spoke.Structure) {
	next := snapshot(s)
	routes := sync.OnceValue(func() map[extension.PolicyKey]spoke.RouteCount {
		out := map[extension.PolicyKey]spoke.RouteCount{}
		for i, n := range extension.CountRoutes(next) {
			out[extension.PolicyKey{Namespace: next.Gateways[i].Namespace, Name: next.Gateways[i].Policy}] = spoke.RouteCount(n)
		}
		return out
	})
	b.routes.Store(&routes)
	b.hooks.SetSnapshot(next)
}

// SetEndpoints implements [spoke.Extension].
func (b *bridge) SetEndpoints(changes map[spoke.Assignment][]spoke.Endpoint) {
	out := make(map[string]*extension.Assignment, len(changes))
	for a, es := range changes {
		name := clusterName(a)
		if es == nil {
			out[name] = nil
			continue
		}
		next := &extension.Assignment{Endpoints: make([]extension.Endpoint, 0, len(es))}
		for _, e := range es {
			next.Endpoints = append(next.Endpoints, extension.Endpoint{
				Addr: e.Addr, Priority: e.Priority, Weight: e.Weight, Health: e.Health, Locality: e.Locality, Cluster: e.Cluster,
			})
		}
		out[name] = next
	}
	if err := b.eds.Apply(out); err != nil {
		b.log.Error("some endpoints were left out", "err", err)
	}
}

// clusterName returns the name of the Envoy cluster of an assignment.
func clusterName(a spoke.Assignment) string {
	switch {
	case a.UDP:
		return extension.DatagramCluster(a.Backend.Namespace, a.Backend.Name, a.Port)
	case a.Backend != (spoke.Name{}):
		return extension.BackendCluster(a.Backend.Namespace, a.Backend.Name, a.Port)
	case a.Cluster != "":
		return extension.ClusterNameIn(a.Service, a.Cluster)
	}
	return extension.ClusterName(a.Service)
}

func snapshot(s spoke.Structure) extension.Snapshot {
	out := extension.Snapshot{Cluster: s.Cluster}
	for _, g := range s.Gateways {
		next := extension.Gateway{
			Namespace: g.Gateway.Namespace, Name: g.Gateway.Name, Policy: g.Policy, TailscaleGateway: g.TailscaleGateway.Name,
			Revision: g.Revision,
		}
		for _, t := range g.Tailnets {
			next.Tailnets = append(next.Tailnets, extension.Tailnet{
				Name: t.Name, Ref: t.Ref, Ingress: extension.RouteTemplate(t.Ingress), Egress: extension.RouteTemplate(t.Egress),
			})
		}
		for _, l := range g.Listeners {
			next.Listeners = append(next.Listeners, extension.Listener(l))
		}
		out.Gateways = append(out.Gateways, next)
	}
	for _, svc := range s.Services {
		out.Services = append(out.Services, extension.Service{ID: svc.ID, Port: svc.Port, App: svc.App, Clusters: svc.Clusters, Tailnets: svc.Tailnets})
	}
	for _, b := range s.Backends {
		next := extension.Backend{Namespace: b.Name.Namespace, Name: b.Name.Name, Datagrams: b.Datagrams}
		for _, p := range b.Ports {
			next.Ports = append(next.Ports, extension.BackendPort(p))
		}
		out.Backends = append(out.Backends, next)
	}
	for _, r := range s.Rules {
		next := extension.Rule{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Index: r.Index}
		for _, b := range r.Backends {
			next.Backends = append(next.Backends, extension.RuleBackend(b))
		}
		out.Rules = append(out.Rules, next)
	}
	return out
}

// heard takes an event of the endpoint discovery server, which must not wait: what does not fit is only missing in
// the status.
func (b *bridge) heard(e extension.Event) {
	select {
	case b.events <- e:
	default:
	}
}

// watch tells the spoke of hook calls and acknowledgements until ctx ends.
func (b *bridge) watch(ctx context.Context, s *spoke.Spoke) error {
	ticker := time.NewTicker(hookPoll)
	defer ticker.Stop()
	seen := map[extension.PolicyKey]extension.Seen{}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case e := <-b.events:
			err = s.Exchanged(ctx, push(e))
		case <-ticker.C:
			err = b.called(ctx, s, seen)
		}
		if err != nil {
			return nil // ctx has ended
		}
	}
}

// called tells the spoke of the revisions that hooks were called with since the last time.
func (b *bridge) called(ctx context.Context, s *spoke.Spoke, seen map[extension.PolicyKey]extension.Seen) error {
	now := b.hooks.Status()
	var left []string
	for _, n := range now.Notes {
		left = append(left, n.Item+": "+n.Text)
	}
	routes := b.routes.Load()
	for key, call := range now.Revisions {
		if seen[key] == call {
			continue
		}
		seen[key] = call
		h := spoke.HookCall{At: call.At, Policy: key.Namespace + "/" + key.Name, Revision: call.Revision, Left: left}
		if routes != nil {
			h.Routes = (*routes)()[key]
		}
		if err := s.Hooked(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// namesShown bounds the names of an event in the status.
const namesShown = 8

func push(e extension.Event) spoke.Push {
	names := slices.Concat(e.Names, e.Removed)
	p := spoke.Push{At: e.At, Event: string(e.Kind), Node: e.Node, Version: e.Version, Error: e.Error, Names: len(names)}
	p.Assignment = strings.Join(names[:min(len(names), namesShown)], ",")
	return p
}
