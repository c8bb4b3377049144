package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tailgate-project/tailgate/federation"
)

// kindGRPCRoute is the kind of routes for which Envoy Gateway v1.9 does not call the hook for clusters, so that nothing is
// marked.
const kindGRPCRoute = "GRPCRoute"

// noCluster is the cluster that is not there and to which Envoy Gateway sends the share of backends that it does not
// find. It answers with the status that the route has for a missing cluster.
const noCluster = "invalid-backend-cluster"

// send has the rules that have TailscaleEndpoints as backends lead to them, and returns the clusters that this takes, by
// name. Where no cluster was marked, the input is returned as it is.
//
// Envoy Gateway makes one cluster of such a rule, in which our backends have no endpoints and so draw no traffic, or, for
// its own reasons, weighted clusters in which ours are missing. The first becomes weighted clusters, of which its own has
// the share of all ordinary backends; to the second ours are added. A route that answers by itself, because of a filter
// or because nothing it leads to is valid, is left alone.
func send(in Resources, s Snapshot) (Resources, map[string]*clusterv3.Cluster, []Note) {
	r := sender{marks: map[string]map[string]bool{}, clusters: map[string]*clusterv3.Cluster{}}
	out := Resources{Listeners: in.Listeners, Clusters: slices.Clone(in.Clusters), Routes: slices.Clone(in.Routes)}
	for i, c := range in.Clusters {
		if m := marked(c); m != nil {
			rule, _, _ := strings.Cut(c.GetName(), "/backend/")
			r.marks[rule] = m
			out.Clusters[i] = unmark(c)
		}
	}
	if r.index(s); len(r.marks) == 0 && !r.unmarked {
		return in, nil, nil
	}
	for i, rc := range in.Routes {
		if slices.ContainsFunc(rc.GetVirtualHosts(), func(vh *routev3.VirtualHost) bool { return slices.ContainsFunc(vh.GetRoutes(), r.concerns) }) {
			out.Routes[i] = r.configuration(proto.CloneOf(rc))
		}
	}
	return out, r.clusters, r.notes
}

// sender holds what the rules of one translation need.
type sender struct {
	// marks are the valid TailscaleEndpoints of each rule, by the name that Envoy Gateway gives its cluster.
	marks map[string]map[string]bool
	rules map[string]Rule
	// unmarked is set where there is a rule whose cluster is never marked.
	unmarked bool
	backends map[string]Backend
	clusters map[string]*clusterv3.Cluster
	notes    []Note
}

func (r *sender) index(s Snapshot) {
	r.rules, r.backends = map[string]Rule{}, map[string]Backend{}
	for _, x := range s.Rules {
		r.rules[strings.ToLower(x.Kind)+"/"+x.Namespace+"/"+x.Name+"/rule/"+strconv.Itoa(x.Index)] = x
		r.unmarked = r.unmarked || x.Kind == kindGRPCRoute
	}
	for _, b := range s.Backends {
		r.backends[b.Namespace+"/"+b.Name] = b
	}
}

// ruleOf returns the name of the rule that a route of the user's was made for, which Envoy Gateway calls
// <rule>/match/<i>/<host>.
func ruleOf(route *routev3.Route) string {
	rule, _, _ := strings.Cut(route.GetName(), "/match/")
	return rule
}

func (r *sender) concerns(route *routev3.Route) bool {
	if ours(route.GetName()) || route.GetRoute() == nil {
		return false
	}
	name := ruleOf(route)
	return r.marks[name] != nil || r.rules[name].Kind == kindGRPCRoute && untouched(route.GetRoute(), name)
}

// untouched reports whether an action is as Envoy Gateway made it: to the cluster of the rule, or to weighted ones, none
// of which is the rule's own or ours.
func untouched(a *routev3.RouteAction, rule string) bool {
	if weighted := a.GetWeightedClusters(); weighted != nil {
		return !slices.ContainsFunc(weighted.GetClusters(), func(w *routev3.WeightedCluster_ClusterWeight) bool {
			return ours(w.GetName()) || w.GetName() == rule
		})
	}
	return a.GetCluster() == rule
}

// configuration changes the routes that are concerned, in place.
func (r *sender) configuration(rc *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	for _, vh := range rc.GetVirtualHosts() {
		for _, route := range vh.GetRoutes() {
			if !r.concerns(route) {
				continue
			}
			name := ruleOf(route)
			rule, known := r.rules[name]
			if !known {
				r.note(name, "its TailscaleEndpoints get nothing yet: the rule has just changed, and is not known here")
				continue
			}
			r.lead(route.GetRoute(), name, rule)
		}
	}
	return rc
}

func (r *sender) note(item, text string) { r.notes = append(r.notes, Note{item, text}) }

// share is a cluster's share of a route's requests.
type share struct {
	cluster string
	weight  uint32
}

// lead has the action of a route lead to all backends of its rule.
func (r *sender) lead(a *routev3.RouteAction, name string, rule Rule) {
	custom, missing := r.custom(name, rule, a)
	var all []*routev3.WeightedCluster_ClusterWeight
	if weighted := a.GetWeightedClusters(); weighted != nil {
		// The shares of what is missing are told by 503 where an ordinary backend has no endpoints; Envoy has but one.
		all = weighted.GetClusters()
	} else {
		if missing > 0 {
			a.ClusterNotFoundResponseCode = routev3.RouteAction_INTERNAL_SERVER_ERROR
		}
		ordinary := uint32(0)
		for _, b := range rule.Backends {
			if !b.Custom {
				ordinary += b.Weight
			}
		}
		all = add(all, share{a.GetCluster(), ordinary})
	}
	all = add(all, share{noCluster, missing})
	for _, s := range custom {
		all = add(all, s)
	}
	switch len(all) {
	case 0: // nothing has a weight, by a rule that is older or newer than the route
		return
	case 1:
		if filters := all[0]; onlyWeight(filters) {
			a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: filters.GetName()}
			return
		}
	}
	slices.SortStableFunc(all, func(x, y *routev3.WeightedCluster_ClusterWeight) int {
		return cmp.Compare(boolInt(ours(x.GetName())), boolInt(ours(y.GetName())))
	})
	next := &routev3.WeightedCluster{Clusters: all, RandomValueSpecifier: a.GetWeightedClusters().GetRandomValueSpecifier()}
	if next.RandomValueSpecifier == nil && len(a.GetHashPolicy()) > 0 {
		// As Envoy Gateway has it: a client that is to stay with one endpoint stays with one backend, too.
		next.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: next}
}

// add adds a share to the cluster's others.
func add(all []*routev3.WeightedCluster_ClusterWeight, s share) []*routev3.WeightedCluster_ClusterWeight {
	if s.weight == 0 {
		return all
	}
	for _, w := range all {
		if w.GetName() == s.cluster {
			w.Weight = wrapperspb.UInt32(w.GetWeight().GetValue() + s.weight)
			return all
		}
	}
	return append(all, &routev3.WeightedCluster_ClusterWeight{Name: s.cluster, Weight: wrapperspb.UInt32(s.weight)})
}

// onlyWeight reports whether a weighted cluster says nothing besides, such as headers to add.
func onlyWeight(w *routev3.WeightedCluster_ClusterWeight) bool {
	return proto.Equal(w, &routev3.WeightedCluster_ClusterWeight{Name: w.GetName(), Weight: w.GetWeight()})
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// custom returns the shares of a rule's TailscaleEndpoints, by name, and the share of those whose port is missing. Those
// that are not valid have their share in what Envoy Gateway made already.
func (r *sender) custom(name string, rule Rule, a *routev3.RouteAction) (shares []share, missing uint32) {
	sum := map[string]uint32{}
	for _, b := range rule.Backends {
		object := b.Namespace + "/" + b.Name
		if !b.Custom || b.Weight == 0 || !r.valid(name, b, a) {
			continue
		}
		port, bad := r.port(b)
		if bad != "" {
			r.note(name, "TailscaleEndpoints "+object+" "+bad+"; its share of the requests is answered by 500")
			missing += b.Weight
			continue
		}
		if rule.Kind == kindGRPCRoute && port.App != federation.AppH2C && port.App != federation.AppGRPCS {
			r.note(name, fmt.Sprintf("TailscaleEndpoints %s speaks HTTP/1.1 on port %d, in which gRPC cannot be carried; set protocol GRPC or GRPCS", object, port.Port))
		}
		cluster := BackendCluster(b.Namespace, b.Name, port.Port)
		r.clusters[cluster] = edsCluster(cluster, port.App)
		sum[cluster] += b.Weight
	}
	for _, cluster := range slices.Sorted(maps.Keys(sum)) {
		shares = append(shares, share{cluster, sum[cluster]})
	}
	return shares, missing
}

// valid reports whether a TailscaleEndpoints exists and may be referred to: what Envoy Gateway marked. Where it marks
// nothing, one cluster for the whole rule means that all are valid. Else something is not, and only what needs no leave is
// certain to be.
func (r *sender) valid(name string, b RuleBackend, a *routev3.RouteAction) bool {
	object := b.Namespace + "/" + b.Name
	if marks := r.marks[name]; marks != nil {
		return marks[object]
	}
	if a.GetWeightedClusters() == nil {
		return true
	}
	if b.Namespace != r.rules[name].Namespace {
		r.note(name, "TailscaleEndpoints "+object+" is left out: while another backend of the rule is missing, it is not known whether a ReferenceGrant allows it")
		return false
	}
	_, known := r.backends[object]
	return known
}

// port returns the port that a backend means, or what is wrong with it.
func (r *sender) port(b RuleBackend) (BackendPort, string) {
	port, bad := choose(r.backends[b.Namespace+"/"+b.Name].Ports, b.Port, "TCP")
	if bad != "" {
		return port, bad
	}
	if bad := unroutable(port.App); bad != "" {
		return port, fmt.Sprintf("port %d %s", port.Port, bad)
	}
	return port, ""
}
