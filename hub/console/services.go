package console

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
)

// Services are the federated services. The loop is asked for one cluster's exports at a time, so that it never waits long.
func (c *Console) Services(ctx context.Context) ([]operator.Service, error) {
	var members []federation.ClusterID
	if err := c.look(ctx, func(co *coordinator.Coordinator) { members = co.Members() }); err != nil {
		return nil, err
	}
	all := map[federation.ServiceID]*operator.Service{}
	for _, m := range members {
		err := c.look(ctx, func(co *coordinator.Coordinator) {
			for _, k := range co.State().Exports(m) {
				if all[k.Service] == nil {
					all[k.Service] = &operator.Service{ID: operator.ServiceID{ServiceID: k.Service}}
				}
				if x, ok := export(co, k); ok {
					all[k.Service].Exports = append(all[k.Service].Exports, x)
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]operator.Service, 0, len(all))
	for _, id := range slices.SortedFunc(maps.Keys(all), federation.ServiceID.Compare) {
		out = append(out, *all[id])
	}
	return out, nil
}

// Service is one of them, with the policies that rule it.
func (c *Console) Service(ctx context.Context, id federation.ServiceID) (operator.Service, error) {
	s := operator.Service{ID: operator.ServiceID{ServiceID: id}, Policy: map[federation.ClusterID]string{}}
	err := c.look(ctx, func(co *coordinator.Coordinator) {
		for _, m := range co.Members() {
			if x, ok := export(co, federation.ExportKey{Cluster: m, Service: id}); ok {
				s.Exports = append(s.Exports, x)
			}
		}
		for _, m := range co.Members() {
			if name := policyOf(co, id, m); name != "" {
				s.Policy[m] = name
			}
		}
	})
	if err == nil && len(s.Exports) == 0 {
		err = c.noService(ctx, id)
	}
	return s, err
}

// export is what the loop knows of an export, as everybody should see it.
func export(co *coordinator.Coordinator, k federation.ExportKey) (operator.Export, bool) {
	x, v, ok := co.State().Look(k, "")
	if !ok {
		return operator.Export{}, false
	}
	out := operator.Export{
		Cluster: k.Cluster, Ready: x.Ready, Desired: max(x.Desired, x.Ready), Ports: operator.Ports(x.Ports), Addresses: []netip.Addr{},
		Federated: x.Federated, Weight: x.Weight, ClusterPinned: x.ClusterPinned, Verdict: verdict(v),
	}
	if e, ok := co.Registry().Get(k); ok {
		out.Addresses = append(out.Addresses, e.Addrs...)
	}
	out.Mode, out.ModeSince = co.State().Mode(federation.Target(k))
	return out, true
}

// policyOf names the policy of a service for a consumer, empty for the built-in one. The labels are those of the first export
// that has any say: exports of a service that differ in them are judged by each its own.
func policyOf(co *coordinator.Coordinator, id federation.ServiceID, consumer federation.ClusterID) string {
	for _, m := range co.Members() {
		if x, ok := co.State().Export(federation.ExportKey{Cluster: m, Service: id}); ok {
			return co.State().Policies().For(id, x.Labels, consumer).Name
		}
	}
	return ""
}

// Endpoints is what a consumer is told of a service.
func (c *Console) Endpoints(ctx context.Context, id federation.ServiceID, consumer federation.ClusterID) (operator.EndpointSet, error) {
	var (
		out   operator.EndpointSet
		known bool
		found bool
	)
	err := c.look(ctx, func(co *coordinator.Coordinator) {
		m, ok := co.Member(consumer)
		known = ok
		found = slices.ContainsFunc(co.Members(), func(m federation.ClusterID) bool {
			_, ok := co.State().Export(federation.ExportKey{Cluster: m, Service: id})
			return ok
		})
		out = endpoints(co.Set(consumer, id))
		out.Consumer, out.Service = consumer, operator.ServiceID{ServiceID: id}
		out.Policy, out.Unreferenced = policyOf(co, id, consumer), !m.Interest.Wants(id)
	})
	switch {
	case err != nil:
		return out, err
	case !known:
		return out, c.noCluster(ctx, consumer)
	case !found:
		return out, c.noService(ctx, id)
	}
	return out, nil
}

func endpoints(s federation.EndpointSet) operator.EndpointSet {
	out := operator.EndpointSet{Consumer: s.Consumer, Service: operator.ServiceID{ServiceID: s.Service}, Endpoints: []operator.Endpoint{}}
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, operator.Endpoint{
			Cluster: e.Cluster, Address: e.Addr, Ports: operator.Ports(e.Ports), Priority: e.Priority, Weight: e.Weight,
			Health: e.Health, Reason: e.Reason, Stale: e.Stale,
		})
	}
	return out
}

func (c *Console) look(ctx context.Context, look func(*coordinator.Coordinator)) error {
	if err := c.Hub.Look(ctx, look); err != nil {
		return fmt.Errorf("ask the hub's loop: %w", err)
	}
	return nil
}

// noCluster is the error for a cluster that is no member. It names the members.
func (c *Console) noCluster(ctx context.Context, id federation.ClusterID) error {
	var members []string
	if err := c.look(ctx, func(co *coordinator.Coordinator) {
		for _, m := range co.Members() {
			members = append(members, string(m))
		}
	}); err != nil {
		return err
	}
	if len(members) == 0 {
		return fmt.Errorf("cluster %s is %w: the federation has no member yet", id, operator.ErrNotFound)
	}
	return fmt.Errorf("cluster %s is %w: the members are %s", id, operator.ErrNotFound, few(members))
}

// noService is the error for a service that nobody exports. It names those of the same name, or of the same namespace.
func (c *Console) noService(ctx context.Context, id federation.ServiceID) error {
	all, err := c.Services(ctx)
	if err != nil {
		return err
	}
	var named, beside []string
	for _, s := range all {
		switch {
		case s.ID.Name == id.Name:
			named = append(named, s.ID.String())
		case s.ID.Namespace == id.Namespace && s.ID.Kind == id.Kind:
			beside = append(beside, s.ID.String())
		}
	}
	switch near := append(named, beside...); {
	case len(near) > 0:
		return fmt.Errorf("%s is %w: no cluster exports it; there are %s", id, operator.ErrNotFound, few(near))
	case len(all) > 0:
		return fmt.Errorf("%s is %w: no cluster exports it, nor any of the namespace %s", id, operator.ErrNotFound, cmp.Or(id.Namespace, "(none)"))
	default:
		return fmt.Errorf("%s is %w: no cluster exports anything yet", id, operator.ErrNotFound)
	}
}

// few names the first of a list, and how many more there are.
func few(names []string) string {
	const shown = 8
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}
