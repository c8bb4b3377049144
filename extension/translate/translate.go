package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// Resources are what Envoy Gateway has translated for one set of proxies.
type Resources struct {
	Clusters []*clusterv3.Cluster
	Routes   []*routev3.RouteConfiguration
	// Listeners are changed only where they carry connections or datagrams to TailscaleEndpoints. Without them that is not
	// possible, and the addresses that Envoy binds are worked out from the Gateway's ports.
	Listeners []*listenerv3.Listener
	// Bytes is the encoded size of all that, where somebody knows it; 0 has it measured.
	Bytes int
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
	bytes := in.Bytes
	in, backends, sent := send(in, s)
	in, more, carried := carry(in, s)
	backends, sent = union(backends, more), append(sent, carried...)
	gateways := joined(s, policies)
	if len(gateways) == 0 {
		return with(in, backends), sortNotes(sent)
	}
	var lost []Note
	for _, t := range []thrift{whole, plainOnly, anyHostOnly} {
		out, notes := translate(in, gateways, backends, s, t)
		size := out.size(bytes)
		if size <= limit {
			return out, sortNotes(slices.Concat(notes, lost, sent))
		}
		lost = []Note{{"size", fmt.Sprintf("all routes would take more than %d bytes; left out are the dotted paths of services that have a plain one", limit)}}
		if t == plainOnly {
			lost = append(lost, Note{"size", "left out are also all paths, but for the virtual hosts that are for all hosts"})
		}
	}
	none := Note{"size", fmt.Sprintf("even the fewest routes would take more than %d bytes; there are none: share out the services among several Gateways", limit)}
	return with(in, backends), sortNotes(append(sent, none))
}

// union returns the entries of both.
func union(a, b map[string]*clusterv3.Cluster) map[string]*clusterv3.Cluster {
	if len(a) == 0 {
		return b
	}
	maps.Copy(a, b)
	return a
}

// with adds the clusters in place of those that have their names.
func with(in Resources, clusters map[string]*clusterv3.Cluster) Resources {
	if len(clusters) == 0 {
		return in
	}
	in.Clusters = slices.DeleteFunc(slices.Clone(in.Clusters), func(c *clusterv3.Cluster) bool { return clusters[c.GetName()] != nil })
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		in.Clusters = append(in.Clusters, clusters[name])
	}
	return in
}

// size estimates the encoded size, given that of what is the user's, if it is known. A route is measured once however many
// virtual hosts share it, which is what makes this cheap beside encoding the resources.
func (r Resources) size(users int) int {
	const frame = 8 // key and length around a message or string
	n := users
	counts := func(name string) bool { return users == 0 || ours(name) }
	for _, c := range r.Clusters {
		if counts(c.GetName()) {
			n += proto.Size(c) + frame
		}
	}
	routes := map[*routev3.Route]int{}
	for _, rc := range r.Routes {
		n += len(rc.GetName()) + 2*frame
		for _, p := range rc.GetClusterSpecifierPlugins() {
			n += proto.Size(p) + frame
		}
		for _, vh := range rc.GetVirtualHosts() {
			n += len(vh.GetName()) + 2*frame
			for _, d := range vh.GetDomains() {
				n += len(d) + frame
			}
			for _, route := range vh.GetRoutes() {
				if !counts(route.GetName()) {
					continue
				}
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

func translate(in Resources, gateways []Gateway, backends map[string]*clusterv3.Cluster, s Snapshot, t thrift) (Resources, []Note) {
	p := newPlanner(s, t)
	var touched []*routev3.RouteConfiguration
	out := Resources{Listeners: in.Listeners}
	clusters := maps.Clone(backends)
	if clusters == nil {
		clusters = map[string]*clusterv3.Cluster{}
	}
	for _, rc := range in.Routes {
		owners := ownersOf(rc, gateways)
		if len(owners) == 0 {
			out.Routes = append(out.Routes, rc)
			continue
		}
		all := p.plan(owners)
		next, notes := inject(rc, all, p.each(owners, all), t)
		out.Routes = append(out.Routes, next)
		touched = append(touched, next)
		p.notes = append(p.notes, notes...)
		for name, app := range all.targets() {
			clusters[name] = edsCluster(name, app)
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
