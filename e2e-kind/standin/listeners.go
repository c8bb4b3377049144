package standin

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/admin"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/downstream"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

// routeWait is how long a listener waits for its routes and secrets; Envoy's default initial_fetch_timeout.
const routeWait = 15 * time.Second

// listenerEntry is a listener with the newest definition and what serves.
type listenerEntry struct {
	spec    *downstream.Spec // the newest
	pending bool             // it waits for routes or secrets
	static  bool
	live    *downstream.Listener // nil until it is bound
}

// applyListeners applies an LDS response. The good listeners are applied although others are refused.
func (s *Server) applyListeners(resources []*discoveryv3.Resource, removed []string) error {
	var errs refusals
	for _, name := range removed {
		if e := s.listeners[name]; e != nil && !e.static {
			delete(s.listeners, name)
			e.close()
		}
	}
	for _, r := range resources {
		var l listenerv3.Listener
		if err := r.GetResource().UnmarshalTo(&l); err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		if e := s.listeners[l.GetName()]; e != nil && (e.static || same(e.spec.Proto, &l)) {
			continue
		}
		spec, err := downstream.Compile(&l)
		if err == nil {
			err = s.setListenerLocked(spec)
		}
		if err != nil {
			errs.add(r.GetName(), err)
		}
	}
	s.hasLDS = true
	s.subscribeLocked()
	return errs.err("listener")
}

// setListenerLocked makes spec the newest definition of a listener and starts it as soon as it can be.
func (s *Server) setListenerLocked(spec *downstream.Spec) error {
	e := s.listeners[spec.Name]
	if e == nil || e.live == nil || e.live.Spec().Address != spec.Address {
		if err := s.bindable(spec); err != nil {
			return err
		}
	}
	if e == nil {
		e = &listenerEntry{static: s.isStatic(spec.Name)}
		s.listeners[spec.Name] = e
	}
	e.spec, e.pending = spec, true
	s.subscribeLocked()
	if s.completeLocked(spec) {
		return s.startListenerLocked(e)
	}
	s.group.Go(func() error {
		select {
		case <-s.ctx.Done():
		case <-time.After(routeWait):
			s.startOverdue(e, spec)
		}
		return nil
	})
	return nil
}

func (s *Server) isStatic(name string) bool {
	return slices.ContainsFunc(s.opts.Bootstrap.GetStaticResources().GetListeners(), func(l *listenerv3.Listener) bool {
		return l.GetName() == name
	})
}

// bindable tries an address, so that one in use refuses the listener although it is bound only when its routes are
// there.
func (s *Server) bindable(spec *downstream.Spec) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(s.ctx, "tcp", spec.Address)
	if err != nil {
		return fmt.Errorf("cannot bind %q: %w", spec.Address, err)
	}
	return ln.Close()
}

// completeLocked reports whether all routes and secrets of a listener are there.
func (s *Server) completeLocked(spec *downstream.Spec) bool {
	routes := *s.routes.Load()
	return !slices.ContainsFunc(spec.Routes, func(n string) bool { return routes[n] == nil }) &&
		!slices.ContainsFunc(spec.Secrets, func(n string) bool { return s.secrets.Get(n) == nil })
}

// startCompleteLocked starts the listeners that have got what they waited for.
func (s *Server) startCompleteLocked() {
	for _, name := range slices.Sorted(maps.Keys(s.listeners)) {
		e := s.listeners[name]
		if e.pending && s.completeLocked(e.spec) {
			if err := s.startListenerLocked(e); err != nil {
				s.log.Error("listener cannot be started", "listener", name, "err", err)
			}
		}
	}
}

func (s *Server) startOverdue(e *listenerEntry, spec *downstream.Spec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.pending || e.spec != spec || s.listeners[spec.Name] != e {
		return
	}
	s.log.Warn("routes or secrets have not arrived in time; the listener starts without", "listener", spec.Name)
	if err := s.startListenerLocked(e); err != nil {
		s.log.Error("listener cannot be started", "listener", spec.Name, "err", err)
	}
}

func (s *Server) startListenerLocked(e *listenerEntry) error {
	e.pending = false
	if e.live != nil && e.live.Spec().Address == e.spec.Address {
		return e.live.Update(e.spec)
	}
	e.close()
	live, err := downstream.Bind(s.ctx, e.spec, downstream.Deps{
		Clusters:  func(name string) *upstream.Cluster { return (*s.active.Load())[name] },
		Routes:    func(name string) *router.Config { return (*s.routes.Load())[name] },
		Failed:    s.failed.Load,
		Secrets:   s.secrets,
		Stats:     s.stats,
		Log:       s.log,
		DrainTime: s.opts.DrainTime,
	})
	if err != nil {
		return err
	}
	e.live = live
	s.group.Go(func() error { return live.Run(s.ctx) })
	return nil
}

// close lets what serves, if anything does, end its connections.
func (e *listenerEntry) close() {
	if e.live != nil {
		e.live.Retire()
		e.live = nil
	}
}

// applyRoutes applies an RDS response. Like Envoy it ignores removals: routes go with the listener that uses them.
func (s *Server) applyRoutes(resources []*discoveryv3.Resource) error {
	var errs refusals
	routes := maps.Clone(*s.routes.Load())
	for _, r := range resources {
		var in routev3.RouteConfiguration
		err := r.GetResource().UnmarshalTo(&in)
		var cfg *router.Config
		if err == nil {
			cfg, err = router.Compile(&in)
		}
		if err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		routes[in.GetName()] = cfg
		s.accepted.routes[in.GetName()] = &in
	}
	s.routes.Store(&routes)
	s.startCompleteLocked()
	return errs.err("route configuration")
}

// applySecrets applies an SDS response. Removals are ignored, as in Envoy.
func (s *Server) applySecrets(resources []*discoveryv3.Resource) error {
	var errs refusals
	for _, r := range resources {
		var secret tlsv3.Secret
		err := r.GetResource().UnmarshalTo(&secret)
		if err == nil {
			err = strict.Check(&secret)
		}
		if err != nil {
			errs.add(r.GetName(), err)
			continue
		}
		s.secrets.Set(&secret)
	}
	s.startCompleteLocked()
	return errs.err("secret")
}

// Listeners returns the bound listeners, sorted by name.
func (s *Server) Listeners() []admin.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []admin.Listener
	for _, name := range slices.Sorted(maps.Keys(s.listeners)) {
		if l := s.listeners[name].live; l != nil {
			all = append(all, admin.Listener{Name: name, Address: l.Addr()})
		}
	}
	return all
}

// refusals collects the resources of a response that are refused.
type refusals []error

func (r *refusals) add(name string, err error) { *r = append(*r, fmt.Errorf("%s: %w", name, err)) }

// err names them all, or is nil.
func (r refusals) err(kind string) error {
	if len(r) == 0 {
		return nil
	}
	return fmt.Errorf("refused %s %w", kind, errors.Join(r...))
}
