package tailscaleendpoints

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/spoke"
)

const (
	// defaultSync is the CRD's default of syncInterval.
	defaultSync = 30 * time.Second
	// retrySync is how soon to ask again after a failure: the link to the hub may only just be opened.
	retrySync = 5 * time.Second
)

// Found is what a tailnet has of what was asked for.
type Found struct {
	discovery.Inventory
	// Problem says why it may be old; empty if it is not.
	Problem string
	// LeftOut counts what there is beyond what can be told.
	LeftOut int
}

// ErrNoTailnet is returned, wrapped, by Discover where the hub has no such TailscaleTailnet.
var ErrNoTailnet = errors.New("the hub has no such TailscaleTailnet")

// discovered is what was found for an object.
type discovered struct {
	query discovery.Query
	found Found
	// err is of the last attempt, whose time is at. What was found before it stays.
	err error
	at  time.Time
	// ever is set once something was found out.
	ever bool
}

// queryOf returns what an object asks for, and whether it asks at all.
func queryOf(o *v1alpha1.TailscaleEndpoints) (discovery.Query, bool) {
	d := o.Spec.AutoDiscovery
	if d == nil || d.Enabled != nil && !*d.Enabled {
		return discovery.Query{}, false
	}
	var q discovery.Query
	for _, s := range d.TagSelectors {
		next := discovery.TagSelector{Tag: string(s.Tag), Operator: discovery.Operator(cmp.Or(s.Operator, v1alpha1.TagExists))}
		for _, v := range s.Values {
			next.Values = append(next.Values, string(v))
		}
		q.Selectors = append(q.Selectors, next)
	}
	if s := d.ServiceDiscovery; s != nil && s.Enabled != nil && *s.Enabled {
		for _, name := range s.ServiceNames {
			q.Names = append(q.Names, strings.TrimPrefix(string(name), "svc:"))
		}
		for _, tag := range s.ServiceTags {
			q.Tags = append(q.Tags, string(tag))
		}
	}
	return q, true
}

// discover asks what an object's tailnet has, if its time has come, and returns what is known and when to ask again.
func (r *Reconciler) discover(ctx context.Context, o *v1alpha1.TailscaleEndpoints) (discovered, time.Duration) {
	name := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
	query, wanted := queryOf(o)
	if !wanted {
		r.keepFound(name, nil)
		return discovered{}, 0
	}
	every := duration(o.Spec.AutoDiscovery.SyncInterval, defaultSync)
	d, now := r.found(name), r.now()
	if !d.ever {
		d.found.Inventory = recall(o)
	}
	if !equalQuery(d.query, query) {
		d.query, d.at = query, time.Time{}
	}
	if wait := d.at.Add(d.pause(every)).Sub(now); !d.at.IsZero() && wait > 0 {
		return d, wait
	}
	found, err := r.Discover(ctx, o.Spec.Tailnet, query, every)
	d.at, d.err = now, err
	if err == nil {
		d.found, d.ever = found, true
	} else if ctx.Err() == nil {
		ctrl.LoggerFrom(ctx).V(1).Info("cannot discover endpoints now", "error", err.Error())
	}
	r.keepFound(name, &d)
	return d, d.pause(every)
}

// pause is the time between two questions.
func (d discovered) pause(every time.Duration) time.Duration {
	if d.err != nil {
		return min(every, retrySync)
	}
	return every
}

func equalQuery(a, b discovery.Query) bool {
	return slices.Equal(a.Names, b.Names) && slices.Equal(a.Tags, b.Tags) && slices.EqualFunc(a.Selectors, b.Selectors, func(x, y discovery.TagSelector) bool {
		return x.Tag == y.Tag && x.Operator == y.Operator && slices.Equal(x.Values, y.Values)
	})
}

func (r *Reconciler) found(name types.NamespacedName) discovered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inventories[name]
}

func (r *Reconciler) keepFound(name types.NamespacedName, d *discovered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inventories == nil {
		r.inventories = map[types.NamespacedName]discovered{}
	}
	if delete(r.inventories, name); d != nil {
		r.inventories[name] = *d
	}
}

// recall returns what an object's status says was discovered, for a spoke that has started while the hub is away. What the
// status does not say, such as tags, nobody asks for again.
func recall(o *v1alpha1.TailscaleEndpoints) discovery.Inventory {
	var out discovery.Inventory
	for _, e := range o.Status.Endpoints {
		addr, err := netip.ParseAddr(string(e.Address))
		if err != nil || e.Discovered == "" {
			continue
		}
		switch e.Source {
		case v1alpha1.SourceTagSelector:
			if !slices.ContainsFunc(out.Devices, func(d discovery.Device) bool { return d.FQDN == e.Discovered }) {
				out.Devices = append(out.Devices, discovery.Device{FQDN: e.Discovered, Addrs: []netip.Addr{addr}})
			}
		case v1alpha1.SourceVIPService:
			i := slices.IndexFunc(out.Services, func(s discovery.Service) bool { return s.Name == e.Discovered })
			if i < 0 {
				i, out.Services = len(out.Services), append(out.Services, discovery.Service{Name: e.Discovered, Addrs: []netip.Addr{addr}})
			}
			if p := (federation.Port{Port: uint16(e.Port), Protocol: federation.Protocol(e.Protocol)}); e.Port > 0 {
				out.Services[i].Ports = append(out.Services[i].Ports, p)
			}
		}
	}
	return out
}

// origin is where a discovered endpoint is from.
type origin struct {
	source v1alpha1.DiscoverySource
	// name is that of the device, with its domain, or of the service.
	name string
}

// planDiscovered adds what was found to a backend, and returns where each endpoint is from, by its name. What the user has
// listed comes first: at a name, and at an address and port.
func planDiscovered(o *v1alpha1.TailscaleEndpoints, found discovery.Inventory, b *spoke.Backend) map[string]origin {
	origins := map[string]origin{}
	type place struct {
		addr     netip.Addr
		port     uint16
		protocol federation.Protocol
	}
	taken, names := map[place]bool{}, map[string]bool{}
	for _, e := range b.Endpoints {
		taken[place{e.Addr, e.TargetPort, e.Protocol}], names[e.Name] = true, true
	}
	for i := range o.Spec.Endpoints {
		names[o.Spec.Endpoints[i].Name] = true // also one that was left out
	}
	add := func(name string, from origin, addr netip.Addr, port, target uint16, protocol federation.Protocol) {
		at := place{addr, target, protocol}
		if taken[at] || names[name] {
			return
		}
		taken[at], names[name] = true, true
		e := v1alpha1.TailscaleEndpoint{Protocol: spoken(port, protocol)}
		origins[name] = from
		b.Endpoints = append(b.Endpoints, spoke.BackendEndpoint{
			Name: name, Addr: addr, Port: port, TargetPort: target, Protocol: protocol, App: appProtocol(e.Protocol), Weight: 1, Check: planCheck(&e),
		})
	}
	for _, d := range found.Devices {
		for _, p := range o.Spec.Ports {
			if len(d.Addrs) > 0 {
				target := p.Port
				if p.TargetPort != nil {
					target = *p.TargetPort
				}
				add(endpointName(d.Name(), uint16(p.Port), len(o.Spec.Ports), federation.Protocol(p.Protocol)), origin{v1alpha1.SourceTagSelector, d.FQDN},
					d.Addrs[0], uint16(p.Port), uint16(target), federation.Protocol(p.Protocol))
			}
		}
	}
	for _, s := range found.Services {
		for _, p := range s.Ports {
			if len(s.Addrs) > 0 {
				add(endpointName("svc-"+s.Name, p.Port, len(s.Ports), p.Protocol), origin{v1alpha1.SourceVIPService, s.Name}, s.Addrs[0], p.Port, p.Port, p.Protocol)
			}
		}
	}
	slices.SortFunc(b.Endpoints, func(a, b spoke.BackendEndpoint) int { return strings.Compare(a.Name, b.Name) })
	return origins
}

// spoken is what is taken to be spoken at a port of which nobody says it: TLS at those that are known for it, otherwise HTTP.
func spoken(port uint16, protocol federation.Protocol) v1alpha1.EndpointProtocol {
	switch {
	case protocol == federation.UDP:
		return v1alpha1.EndpointUDP
	case port == 443 || port == 8443:
		return v1alpha1.EndpointHTTPS
	}
	return v1alpha1.EndpointHTTP
}

// endpointName is the name of a discovered endpoint, with its port where there are several.
func endpointName(name string, port uint16, ports int, protocol federation.Protocol) string {
	parts := []string{name}
	if ports > 1 {
		parts = append(parts, strconv.Itoa(int(port)))
		if protocol == federation.UDP {
			parts = append(parts, "udp")
		}
	}
	return vip.Label(parts...)
}

// tell says what came of a discovery: a reason and a message for people, and whether all is well.
func (d discovered) tell(o *v1alpha1.TailscaleEndpoints, origins map[string]origin) (ok bool, reason, message string) {
	switch {
	case errors.Is(d.err, ErrNoTailnet):
		return false, v1alpha1.ReasonTailnetNotFound, fmt.Sprintf("the hub has no TailscaleTailnet %q: make one in the management cluster, or correct spec.tailnet", o.Spec.Tailnet)
	case d.err != nil && !d.ever:
		return false, v1alpha1.ReasonHubUnreachable, "nothing new could be found out yet: " + d.err.Error()
	case d.err != nil:
		return false, v1alpha1.ReasonHubUnreachable, "the endpoints are those found last: " + d.err.Error()
	case d.found.Problem != "":
		return false, v1alpha1.ReasonAPIError, "the endpoints are those found last: " + d.found.Problem
	case d.found.LeftOut > 0:
		return false, v1alpha1.ReasonTooMany, fmt.Sprintf("%d more match than can be used: select fewer", d.found.LeftOut)
	case len(d.found.Devices) > 0 && len(o.Spec.Ports) == 0:
		return false, v1alpha1.ReasonInvalid, fmt.Sprintf("%d devices match and nobody says which of their ports to use: add them to spec.ports", len(d.found.Devices))
	case len(origins) == 0:
		return false, v1alpha1.ReasonNoMatch, "no device and no service of the tailnet matches"
	}
	return true, v1alpha1.ReasonDiscovered, ""
}
