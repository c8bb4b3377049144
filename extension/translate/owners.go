package translate

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// gatewayName names a Gateway.
type gatewayName struct{ namespace, name string }

func (g Gateway) key() gatewayName { return gatewayName{g.Namespace, g.Name} }

// ownersOf returns the gateways whose routes a route configuration holds. Envoy Gateway calls it
// namespace/gateway/listener (with namespace and name of a ListenerSet before the listener, if it has one), or http-port
// under its second naming scheme. Where it merges Gateways, listeners of the
// same port share one that is called after the first of them; the virtual hosts say whose they are.
func ownersOf(rc *routev3.RouteConfiguration, gateways []Gateway) []Gateway {
	name := rc.GetName()
	parts := strings.Split(name, "/")
	there := map[gatewayName]bool{}
	for _, vh := range rc.GetVirtualHosts() {
		if g, ok := gatewayOf(vh); ok {
			there[g] = true
		}
	}
	var out []Gateway
	for _, g := range gateways {
		switch {
		case there[g.key()]:
			out = append(out, g)
		case len(parts) >= 3:
			if parts[0] == g.Namespace && parts[1] == g.Name {
				out = append(out, g)
			}
		case len(parts) == 1:
			_, text, _ := strings.Cut(name, "-")
			port, err := strconv.ParseUint(text, 10, 16)
			if err == nil && slices.ContainsFunc(g.Listeners, func(l Listener) bool {
				return uint64(l.Port) == port || uint64(bound(g, l, nil).Port()) == port
			}) {
				out = append(out, g)
			}
		}
	}
	return out
}

// gatewayOf returns the Gateway that a virtual host of Envoy Gateway's was made for: what its metadata says, or its name,
// which begins as that of the route configuration does.
func gatewayOf(vh *routev3.VirtualHost) (gatewayName, bool) {
	if ours(vh.GetName()) {
		return gatewayName{}, false
	}
	for _, v := range vh.GetMetadata().GetFilterMetadata()["envoy-gateway"].GetFields()["resources"].GetListValue().GetValues() {
		f := v.GetStructValue().GetFields()
		if f["kind"].GetStringValue() == "Gateway" {
			return gatewayName{f["namespace"].GetStringValue(), f["name"].GetStringValue()}, true
		}
	}
	if parts := strings.Split(vh.GetName(), "/"); len(parts) >= 4 {
		return gatewayName{parts[0], parts[1]}, true
	}
	return gatewayName{}, false
}

// each returns the plan of each owner alone, given that of all.
func (p *planner) each(owners []Gateway, all plan) map[gatewayName]plan {
	out := map[gatewayName]plan{}
	for _, g := range owners {
		if len(owners) == 1 {
			out[g.key()] = all
			continue
		}
		same := slices.DeleteFunc(slices.Clone(owners), func(o Gateway) bool { return o.key() != g.key() })
		out[g.key()] = p.plan(same)
	}
	return out
}

// anyHost is the domain that matches what no other domain does.
const anyHost = "*"

// inject returns a copy of the route configuration with routes and hosts in place of what we put there before: in each
// virtual host what its Gateway wants, and in those of our own what all want.
func inject(rc *routev3.RouteConfiguration, all plan, each map[gatewayName]plan, t thrift) (*routev3.RouteConfiguration, []Note) {
	rc = copyOf(rc)
	c := newComposer()
	unplaced := maps.Clone(all.hosts)
	taken := false
	var notes []Note
	for _, vh := range rc.VirtualHosts {
		own := all
		if g, ok := gatewayOf(vh); ok {
			own = each[g] // nothing for a Gateway that is not joined
		}
		wishes := own.paths
		if t == anyHostOnly && !slices.Contains(vh.Domains, anyHost) {
			wishes = nil
		}
		for _, d := range vh.Domains {
			taken = taken || d == anyHost
			host := strings.ToLower(d)
			if _, ok := unplaced[host]; !ok {
				continue
			}
			delete(unplaced, host)
			if ws, ok := own.hosts[host]; ok {
				wishes = merge(wishes, ws)
			} else {
				notes = append(notes, Note{host, "is the host of an HTTPRoute of another Gateway at the same port; it keeps it"})
			}
		}
		notes = append(notes, fill(vh, wishes, c, rc.GetName())...)
	}
	for _, domain := range slices.Sorted(maps.Keys(unplaced)) {
		routes, _ := place(nil, unplaced[domain], c)
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: Prefix + "host/" + domain, Domains: []string{domain}, Routes: routes})
	}
	if !taken && len(all.paths) > 0 {
		routes, _ := place(nil, all.paths, c)
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: Prefix + "any-host", Domains: []string{anyHost}, Routes: routes})
	}
	rc.ClusterSpecifierPlugins = append(rc.ClusterSpecifierPlugins, c.specifiers()...)
	return rc, notes
}

// copyOf returns the route configuration without what we put there before. Only the configuration, its virtual hosts and
// their lists of routes are copied: the routes, of which there are many, are shared and never changed.
func copyOf(rc *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	hosts := rc.GetVirtualHosts()
	rc = shallow(rc)
	rc.ClusterSpecifierPlugins = slices.DeleteFunc(slices.Clone(rc.ClusterSpecifierPlugins), func(p *routev3.ClusterSpecifierPlugin) bool {
		return ours(p.GetExtension().GetName())
	})
	rc.VirtualHosts = make([]*routev3.VirtualHost, 0, len(hosts))
	for _, vh := range hosts {
		if ours(vh.GetName()) {
			continue
		}
		user := make([]*routev3.Route, 0, len(vh.GetRoutes()))
		for _, r := range vh.GetRoutes() {
			if !ours(r.GetName()) {
				user = append(user, r)
			}
		}
		vh = shallow(vh)
		vh.Routes = user
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
	}
	return rc
}

// shallow returns another message with the same fields, which it shares.
func shallow[M proto.Message](m M) M {
	from := m.ProtoReflect()
	to := from.New()
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(f, v)
		return true
	})
	to.SetUnknown(from.GetUnknown())
	return to.Interface().(M)
}

// fill puts the wishes into a virtual host of the user's.
func fill(vh *routev3.VirtualHost, wishes []wish, c *composer, config string) []Note {
	var notes []Note
	var taken []string
	vh.Routes, taken = place(vh.Routes, wishes, c)
	for _, path := range taken {
		notes = append(notes, Note{config + " " + vh.GetName() + " " + path + "/", "an HTTPRoute has this path; it keeps it"})
	}
	return notes
}
