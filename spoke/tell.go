package spoke

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// The methods below tell the spoke something. They return once what follows has been published, and fail only when
// ctx ends, but where said.

// SetService says that a Service of the cluster is there, or is now like this.
func (s *Spoke) SetService(ctx context.Context, svc Service) error {
	return s.do(ctx, func(time.Time) { s.serviceChanged(svc.Name, &svc) })
}

// RemoveService says that a Service is gone.
func (s *Spoke) RemoveService(ctx context.Context, name Name) error {
	return s.do(ctx, func(time.Time) { s.serviceChanged(name, nil) })
}

// SetExternal says that the cluster exports a service outside of it, which is reached at the addresses that are its ready
// endpoints.
func (s *Spoke) SetExternal(ctx context.Context, svc Service) error {
	return s.do(ctx, func(time.Time) { s.exportChanged(svc.Name, s.local.setExternal(svc.Name, &svc)) })
}

// RemoveExternal says that the cluster no longer exports such a service.
func (s *Spoke) RemoveExternal(ctx context.Context, name Name) error {
	return s.do(ctx, func(time.Time) { s.exportChanged(name, s.local.setExternal(name, nil)) })
}

func (s *Spoke) serviceChanged(name Name, svc *Service) {
	s.exportChanged(name, s.local.setService(name, svc))
}

func (s *Spoke) exportChanged(name Name, changed bool) {
	if !changed {
		return
	}
	s.dirty.ingress = true
	id := exportOf(name)
	if len(s.out.sets[id].Endpoints) > 0 {
		s.dirty.service(id)
	}
	s.touchBackends(&s.dirty, id)
}

// SetJoined says that a TailscaleGateway joins a Gateway, or now joins it like this.
func (s *Spoke) SetJoined(ctx context.Context, j Joined) error {
	return s.do(ctx, func(time.Time) {
		if old, ok := s.local.joined[j.TailscaleGateway]; !ok || !old.equal(j) {
			s.local.joined[j.TailscaleGateway] = j
			s.dirty.structure = true
		}
	})
}

// RemoveJoined says that a TailscaleGateway no longer joins a Gateway.
func (s *Spoke) RemoveJoined(ctx context.Context, tailscaleGateway Name) error {
	return s.do(ctx, func(time.Time) {
		if _, ok := s.local.joined[tailscaleGateway]; ok {
			delete(s.local.joined, tailscaleGateway)
			s.dirty.structure = true
		}
	})
}

// Position returns the epoch and version up to which the hub's state has been applied.
func (s *Spoke) Position(ctx context.Context) (epoch, version uint64, err error) {
	st, err := ask(ctx, s, func(time.Time) linkstate.State { return s.link })
	return st.Epoch(), st.Version(), err
}

// Apply takes an update of the hub. Besides when ctx ends, it fails with [linkstate.ErrOldEpoch] or
// [linkstate.ErrGap], and then has changed nothing.
func (s *Spoke) Apply(ctx context.Context, u linkstate.Update) error {
	refused, err := ask(ctx, s, func(now time.Time) error { return s.apply(u, now) })
	return errors.Join(err, refused)
}

func (s *Spoke) apply(u linkstate.Update, now time.Time) error {
	next, changed, err := s.link.Apply(u)
	if err != nil {
		return err
	}
	if next.Epoch() == s.link.Epoch() && next.Version() == s.link.Version() && len(changed) == 0 {
		return nil // a heartbeat
	}
	before := s.link
	s.link = next
	s.linkInfo.AppliedAt = now
	s.dirty.report, s.dirty.kept, s.dirty.status = true, true, true
	for _, key := range changed {
		r, ok := next.Get(key)
		if !ok {
			r, _ = before.Get(key)
		}
		switch {
		case r.VIP != nil:
			s.dirty.ingress = true
		case r.EndpointSet != nil:
			s.dirty.service(r.EndpointSet.Service)
		case r.Peer != nil:
			s.dirty.egress = true
			s.touch(func(e federation.Endpoint, _ federation.ServiceID) bool { return e.Cluster == r.Peer.Cluster })
		}
	}
	return nil
}

// touch marks the services that have an endpoint for which f is true.
func (s *Spoke) touch(f func(e federation.Endpoint, id federation.ServiceID) bool) {
	for id, set := range s.out.sets {
		if slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return f(e, id) }) {
			s.dirty.service(id)
		}
	}
}

// reachabilityChanged marks what leads to the targets.
func (s *Spoke) reachabilityChanged(targets []federation.Target) {
	s.dirty.egress, s.dirty.status = true, true
	for _, t := range targets {
		s.cfg.Log.Info("a probe target's reachability changed", "target", t.String(), "unreachable", s.probes.Unreachable(t))
		s.touch(func(e federation.Endpoint, id federation.ServiceID) bool {
			return e.Cluster == t.Cluster && (t.Service == federation.ServiceID{} || t.Service == id)
		})
	}
}

// LinkChanged tells what has become of the link to the hub.
func (s *Spoke) LinkChanged(ctx context.Context, l LinkStatus) error {
	return s.do(ctx, func(now time.Time) {
		if l.Up != s.linkInfo.Up || l.Reason != s.linkInfo.Reason {
			l.Since = now
			s.cfg.Log.Info("the link to the hub", "up", l.Up, "reason", l.Reason, "message", l.Message)
		} else {
			l.Since = s.linkInfo.Since
		}
		l.AppliedAt = s.linkInfo.AppliedAt
		s.dirty.status = s.dirty.status || l != s.linkInfo
		s.linkInfo = l
	})
}

// LastReport returns what the hub should know, and a channel that is closed when there is something newer.
func (s *Spoke) LastReport() (Report, <-chan struct{}) { return s.reports.get() }

// ProxyConfig returns what the proxies of a role are to do, and a channel that is closed when that changes.
func (s *Spoke) ProxyConfig(r Role) (ProxyConfig, <-chan struct{}) {
	if r == Ingress {
		return s.ingress.get()
	}
	return s.egress.get()
}

// Changes returns a channel that is closed when something in the spoke has changed after the call.
func (s *Spoke) Changes() <-chan struct{} {
	_, changed := s.changes.get()
	return changed
}

// ProxyOpened and ProxyClosed tell that a proxy has opened or ended a stream of reports.
func (s *Spoke) ProxyOpened(ctx context.Context, id ProxyID) error {
	return s.do(ctx, func(time.Time) { s.proxies.opened(id) })
}

// ProxyClosed is the end of what ProxyOpened began.
func (s *Spoke) ProxyClosed(ctx context.Context, id ProxyID) error {
	return s.do(ctx, func(now time.Time) { s.proxies.closed(id, now) })
}

// ProxyReported takes the state of a proxy, with its probe results.
func (s *Spoke) ProxyReported(ctx context.Context, st ProxyStatus) error {
	return s.do(ctx, func(now time.Time) {
		before, knew := s.proxies.byKey[st.ID()], s.proxies.ingressKnown
		var old ProxyStatus
		if before != nil {
			old = before.status
		}
		if s.proxies.report(st) || knew != s.proxies.ingressKnown {
			s.dirty.report, s.dirty.ingress = true, true
		}
		if old.NodeID != st.NodeID || old.Listen != st.Listen || old.Applied != st.Applied || old.Draining != st.Draining || !maps.Equal(old.Errors, st.Errors) {
			s.dirty.status, s.dirty.ingress = true, true
		}
		s.probed(st, now)
	})
}

func (s *Spoke) probed(st ProxyStatus, now time.Time) {
	if st.Role != Egress || len(st.Results) == 0 {
		return
	}
	s.dirty.report = true
	targets := map[string]federation.Target{}
	config, _ := s.egress.get()
	for _, p := range config.Probes {
		if p.Target != (federation.Target{}) {
			targets[p.ID] = p.Target
		}
	}
	var changed []federation.Target
	prober := s.proxies.prober(st.ID())
	for _, r := range st.Results {
		if name, changed := s.backends.record(r, prober); changed {
			s.dirty.backend(name)
			s.dirty.status = true
		}
		if t, ok := targets[r.ID]; ok && s.probes.Record(t, prober, r.result(), now) {
			changed = append(changed, t)
		}
	}
	if len(changed) > 0 {
		s.reachabilityChanged(changed)
	}
}

// Exchanged tells of an exchange with an Envoy.
func (s *Spoke) Exchanged(ctx context.Context, p Push) error {
	return s.do(ctx, func(now time.Time) {
		if p.At.IsZero() {
			p.At = now
		}
		s.pushes.add(p)
	})
}

// watchDrains looks, while an ingress proxy drains, whether its VIPs have moved, and then releases it.
func (s *Spoke) watchDrains(ctx context.Context) error {
	if s.cfg.Hosts == nil {
		return nil
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		draining, err := ask(ctx, s, func(time.Time) map[ProxyID]string { return s.proxies.draining() })
		if err != nil {
			return nil
		}
		for id, node := range draining {
			s.release(ctx, id, node)
		}
	}
}

func (s *Spoke) release(ctx context.Context, id ProxyID, node string) {
	addrs, err := ask(ctx, s, func(time.Time) []netip.Addr { return s.hostedAddrs() })
	if err != nil {
		return
	}
	if hosts, err := s.cfg.Hosts(ctx, node, addrs); err != nil || hosts {
		return // asked again soon; the proxy has a timeout of its own
	}
	// An error says that ctx has ended, and the spoke with it.
	_ = s.do(ctx, func(time.Time) {
		if x := s.proxies.byKey[id]; x != nil && x.status.Draining {
			x.released, s.dirty.ingress = true, true
		}
	})
}

// hostedAddrs are the addresses of all VIPs that the cluster hosts.
func (s *Spoke) hostedAddrs() []netip.Addr {
	var out []netip.Addr
	for _, r := range s.link.Resources() {
		if r.VIP != nil {
			out = append(out, r.VIP.Addrs...)
		}
	}
	return out
}
