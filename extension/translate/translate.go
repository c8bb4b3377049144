package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// Resources are what Envoy Gateway has translated for one set of proxies.
type Resources struct {
	Clusters []*clusterv3.Cluster
	Routes   []*routev3.RouteConfiguration
	// Listeners are read only; without them the addresses that Envoy binds are worked out from the Gateway's ports.
	Listeners []*listenerv3.Listener
}

// Translate returns the resources with our routes and clusters in them, and what could not be done. The input is
// not changed, and shared by the output where nothing was added. Where no policy names a gateway of the snapshot, the
// input is returned as it is.
//
// The routes, in each virtual host and in one for all hosts where the user has none:
//
//	/cross-cluster/<service>-<cluster>/             the export of one cluster, the others failing over
//	/cross-cluster/<service>/                       the federated service
//	/cross-cluster/<service>.<namespace>.<cluster>/ the same without any ambiguity, and likewise
//	/cross-cluster/<service>.<namespace>/
//	/gateway/<gateway>-<listener>/                  the gateway's own listener, by entering the same Envoy once more
//	egress pathPrefix                               the federated service
//
// and the hosts of the host patterns. The prefix is stripped from the path. A route of the user's that matches the
// same path or one below wins over ours; a broader one does not.
//
// Where all of that would be larger than [MaxBytes], it is done in a leaner way, and a note says so.
func Translate(in Resources, policies []Policy, s Snapshot) (Resources, []Note) {
	return within(MaxBytes, in, policies, s)
}

// MaxBytes bounds the encoded size of routes and clusters. Routes are repeated in each virtual host, and an answer
// that is larger than Envoy Gateway's limit would be an error, after which nothing is configured any more. It leaves
// room below that limit for what else is in the message.
const MaxBytes = 48 << 20

// thrift says what is left out to make a translation smaller.
type thrift int

const (
	// whole leaves nothing out.
	whole thrift = iota
	// plainOnly leaves out the dotted paths of services that have their plain one.
	plainOnly
	// anyHostOnly leaves the paths also out of virtual hosts that are not for all hosts.
	anyHostOnly
)

// within translates in the least lean way that fits.
func within(limit int, in Resources, policies []Policy, s Snapshot) (Resources, []Note) {
	gateways := joined(s, policies)
	if len(gateways) == 0 {
		return in, nil
	}
	var lost []Note
	for _, t := range []thrift{whole, plainOnly, anyHostOnly} {
		out, notes := translate(in, gateways, s, t)
		size := out.size()
		if size <= limit {
			return out, sortNotes(append(notes, lost...))
		}
		lost = []Note{{"size", fmt.Sprintf("all routes would take more than %d bytes; left out are the dotted paths of services that have a plain one", limit)}}
		if t == plainOnly {
			lost = append(lost, Note{"size", "left out are also all paths, but for the virtual hosts that are for all hosts"})
		}
	}
	return in, []Note{{"size", fmt.Sprintf("even the fewest routes would take more than %d bytes; there are none: share out the services among several Gateways", limit)}}
}

// size estimates the encoded size. A route is measured once however many virtual hosts share it, which is what makes
// this cheap beside encoding the resources.
func (r Resources) size() int {
	const frame = 8 // key and length around a message or string
	n := 0
	for _, c := range r.Clusters {
		n += proto.Size(c) + frame
	}
	routes := map[*routev3.Route]int{}
	for _, rc := range r.Routes {
		n += len(rc.GetName()) + 2*frame
		for _, vh := range rc.GetVirtualHosts() {
			n += len(vh.GetName()) + 2*frame
			for _, d := range vh.GetDomains() {
				n += len(d) + frame
			}
			for _, route := range vh.GetRoutes() {
				size, ok := routes[route]
				if !ok {
					size = proto.Size(route) + frame
					routes[route] = size
				}
				n += size
			}
		}
	}
	return n
}

func sortNotes(notes []Note) []Note {
	slices.SortFunc(notes, func(a, b Note) int { return cmp.Or(cmp.Compare(a.Item, b.Item), cmp.Compare(a.Text, b.Text)) })
	return slices.Compact(notes)
}

func translate(in Resources, gateways []Gateway, s Snapshot, t thrift) (Resources, []Note) {
	p := newPlanner(s, t)
	var touched []*routev3.RouteConfiguration
	out := Resources{Listeners: in.Listeners}
	clusters := map[string]*clusterv3.Cluster{}
	for _, rc := range in.Routes {
		owners := ownersOf(rc.GetName(), gateways)
		if len(owners) == 0 {
			out.Routes = append(out.Routes, rc)
			continue
		}
		plan := p.plan(owners)
		next, notes := inject(rc, plan, t)
		out.Routes = append(out.Routes, next)
		touched = append(touched, next)
		p.notes = append(p.notes, notes...)
		for _, name := range plan.targets() {
			if _, own := plan.local[name]; !own {
				clusters[name] = edsCluster(name)
			}
		}
		for _, g := range owners {
			for _, l := range g.Listeners {
				name := localCluster(g, l)
				clusters[name] = ownListener(name, l, bound(g, l, in.Listeners))
			}
		}
	}
	for _, c := range in.Clusters {
		if !ours(c.GetName()) {
			out.Clusters = append(out.Clusters, c)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		out.Clusters = append(out.Clusters, clusters[name])
	}
	return out, append(p.notes, lint(&out, touched)...)
}

// ownersOf returns the gateways whose routes a route configuration holds. Envoy Gateway calls it
// namespace/gateway/listener, or http-port under its second naming scheme.
func ownersOf(name string, gateways []Gateway) []Gateway {
	parts := strings.Split(name, "/")
	var out []Gateway
	for _, g := range gateways {
		switch {
		case len(parts) == 3:
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

// anyHost is the domain that matches what no other domain does.
const anyHost = "*"

// inject returns a copy of the route configuration with the plan's routes and hosts in place of what we put there
// before.
func inject(rc *routev3.RouteConfiguration, p plan, t thrift) (*routev3.RouteConfiguration, []Note) {
	rc = proto.CloneOf(rc)
	rc.VirtualHosts = slices.DeleteFunc(rc.VirtualHosts, func(vh *routev3.VirtualHost) bool { return ours(vh.GetName()) })
	built := build(p)
	unplaced := maps.Clone(p.hosts)
	all := false
	var notes []Note
	for _, vh := range rc.VirtualHosts {
		vh.Routes = slices.DeleteFunc(vh.Routes, func(r *routev3.Route) bool { return ours(r.GetName()) })
		wishes := p.paths
		if t == anyHostOnly && !slices.Contains(vh.Domains, anyHost) {
			wishes = nil
		}
		for _, d := range vh.Domains {
			all = all || d == anyHost
			if ws, ok := unplaced[strings.ToLower(d)]; ok {
				delete(unplaced, strings.ToLower(d))
				wishes = merge(wishes, ws)
			}
		}
		user := vh.Routes
		if !near(user, wishes) {
			vh.Routes, _ = place(nil, wishes, built)
			vh.Routes = append(vh.Routes, user...)
			continue
		}
		var taken []string
		vh.Routes, taken = place(user, wishes, built)
		for _, path := range taken {
			notes = append(notes, Note{rc.GetName() + " " + vh.GetName() + " " + path + "/", "an HTTPRoute has this path; it keeps it"})
		}
	}
	for _, domain := range slices.Sorted(maps.Keys(unplaced)) {
		routes, _ := place(nil, unplaced[domain], built)
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: Prefix + "host/" + domain, Domains: []string{domain}, Routes: routes})
	}
	if !all && len(p.paths) > 0 {
		routes, _ := place(nil, p.paths, built)
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: Prefix + "any-host", Domains: []string{anyHost}, Routes: routes})
	}
	return rc, notes
}

// merge adds the wishes of a host to those of all hosts, whose paths they do not take away.
func merge(all, host []wish) []wish {
	out := slices.Clone(all)
	for _, w := range host {
		if !slices.ContainsFunc(all, func(o wish) bool { return o.path == w.path }) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, compareWishes)
	return out
}

// build makes the routes of all wishes once; the virtual hosts share them.
func build(p plan) map[string][]*routev3.Route {
	out := map[string][]*routev3.Route{}
	add := func(ws []wish) {
		for _, w := range ws {
			out[w.path+" "+w.target] = routesOf(w)
		}
	}
	add(p.paths)
	for _, ws := range p.hosts {
		add(ws)
	}
	return out
}
