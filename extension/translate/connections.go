package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tailgate-project/tailgate/federation"
)

// The kinds of routes that carry connections and datagrams. Their rules have no matches: Envoy Gateway makes one cluster
// of all backends of a route, and its listener leads there.
const (
	kindTCPRoute = "TCPRoute"
	kindTLSRoute = "TLSRoute"
	kindUDPRoute = "UDPRoute"
)

// wholeRoute ends the name of the cluster that Envoy Gateway makes of all backends of such a route.
const wholeRoute = "/rule/-1"

// carry has the listeners of TCPRoutes, TLSRoutes and UDPRoutes that have TailscaleEndpoints as backends lead to them, and
// returns the clusters that this takes, by name. Where there is no such route, the input is returned as it is.
func carry(in Resources, s Snapshot) (Resources, map[string]*clusterv3.Cluster, []Note) {
	c := carrier{routes: map[string]carried{}, backends: map[string]Backend{}, clusters: map[string]*clusterv3.Cluster{}}
	for _, x := range s.Rules {
		switch x.Kind {
		case kindTCPRoute, kindTLSRoute, kindUDPRoute:
			name := strings.ToLower(x.Kind) + "/" + x.Namespace + "/" + x.Name + wholeRoute
			route := c.routes[name]
			route.kind, route.backends = x.Kind, append(route.backends, x.Backends...)
			c.routes[name] = route
		}
	}
	if len(c.routes) == 0 {
		return in, nil, nil
	}
	for _, b := range s.Backends {
		c.backends[b.Namespace+"/"+b.Name] = b
	}
	if len(in.Listeners) == 0 {
		c.untold(in.Clusters)
		return in, nil, c.notes
	}
	out := in
	out.Listeners = make([]*listenerv3.Listener, 0, len(in.Listeners))
	for _, l := range in.Listeners {
		next, err := c.listener(l)
		if err != nil {
			c.note(l.GetName(), "its TailscaleEndpoints get nothing: "+err.Error())
			next = l
		}
		out.Listeners = append(out.Listeners, next)
	}
	return out, c.clusters, c.notes
}

// carrier holds what the routes of one translation need.
type carrier struct {
	// routes are by the name that Envoy Gateway gives their cluster.
	routes   map[string]carried
	backends map[string]Backend
	clusters map[string]*clusterv3.Cluster
	notes    []Note
}

// carried is a route of connections or datagrams: all backends of all its rules.
type carried struct {
	kind     string
	backends []RuleBackend
}

func (c *carrier) note(item, text string) { c.notes = append(c.notes, Note{item, text}) }

// untold notes the routes of which nothing can be changed, because Envoy Gateway does not show its listeners.
func (c *carrier) untold(clusters []*clusterv3.Cluster) {
	for _, x := range clusters {
		if _, ok := c.routes[x.GetName()]; ok {
			c.note(strings.TrimSuffix(x.GetName(), wholeRoute), "its TailscaleEndpoints get nothing: in Envoy Gateway's settings, "+
				"extensionManager.hooks.xdsTranslator.translation.listener.includeAll must be true")
		}
	}
}

// listener returns the listener with what leads to a route of ours changed: the same one where nothing does.
func (c *carrier) listener(l *listenerv3.Listener) (*listenerv3.Listener, error) {
	next := l
	mine := func() *listenerv3.Listener { // a copy, made when it is needed
		if next == l {
			next = proto.CloneOf(l)
		}
		return next
	}
	for i, chain := range l.GetFilterChains() {
		for j, f := range chain.GetFilters() {
			config, err := c.connections(f.GetTypedConfig())
			if err != nil {
				return nil, fmt.Errorf("filter chain %s: %w", chain.GetName(), err)
			}
			if config != nil {
				mine().FilterChains[i].Filters[j].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: config}
			}
		}
	}
	for i, f := range l.GetListenerFilters() {
		config, err := c.datagrams(f.GetTypedConfig())
		if err != nil {
			return nil, fmt.Errorf("listener filter %s: %w", f.GetName(), err)
		}
		if config != nil {
			mine().ListenerFilters[i].ConfigType = &listenerv3.ListenerFilter_TypedConfig{TypedConfig: config}
		}
	}
	return next, nil
}

// connections returns the configuration of a filter as it leads to TailscaleEndpoints, or nil where it does not.
func (c *carrier) connections(config *anypb.Any) (*anypb.Any, error) {
	p := new(tcpproxyv3.TcpProxy)
	if !config.MessageIs(p) {
		return nil, nil
	}
	if err := config.UnmarshalTo(p); err != nil {
		return nil, fmt.Errorf("read tcp_proxy: %w", err)
	}
	shares := c.shares(p.GetCluster())
	switch len(shares) {
	case 0:
		return nil, nil
	case 1:
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: shares[0].cluster}
	default:
		weighted := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, s := range shares {
			weighted.Clusters = append(weighted.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: s.cluster, Weight: s.weight})
		}
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	}
	if err := p.ValidateAll(); err != nil {
		return nil, fmt.Errorf("write tcp_proxy: %w", err)
	}
	return pack(p), nil
}

// shares returns where what Envoy Gateway sends to a cluster has to go: to that cluster for its ordinary backends, nowhere
// for what is missing, and to those of TailscaleEndpoints. It is empty where the cluster is not of a route of ours, or
// where all that the route has is missing: Envoy Gateway's own cluster refuses everything then.
func (c *carrier) shares(cluster string) []share {
	route, ok := c.routes[cluster]
	if !ok {
		return nil
	}
	var ordinary, missing uint32
	sum := map[string]uint32{}
	for _, b := range route.backends {
		switch {
		case b.Weight == 0:
		case !b.Custom:
			ordinary += b.Weight
		default:
			name, bad := c.cluster(route.kind, b)
			if bad != "" {
				c.note(strings.TrimSuffix(cluster, wholeRoute), "TailscaleEndpoints "+b.Namespace+"/"+b.Name+" "+bad+"; its share of the traffic is refused")
				missing += b.Weight
				continue
			}
			sum[name] += b.Weight
		}
	}
	if ordinary == 0 && len(sum) == 0 {
		return nil
	}
	var out []share
	for _, s := range []share{{cluster, ordinary}, {noCluster, missing}} {
		if s.weight > 0 {
			out = append(out, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, share{name, sum[name]})
	}
	return out
}

// cluster returns the cluster that a backend means, or what is wrong with it.
func (c *carrier) cluster(kind string, b RuleBackend) (string, string) {
	object, known := c.backends[b.Namespace+"/"+b.Name]
	switch {
	case b.Denied:
		return "", "is in another namespace, and no ReferenceGrant there allows a " + kind + " of this one to refer to it"
	case !known:
		return "", "is not there, or has no endpoint yet"
	}
	if kind == kindUDPRoute {
		ports := make([]BackendPort, 0, len(object.Datagrams))
		for _, p := range object.Datagrams {
			ports = append(ports, BackendPort{Port: p})
		}
		port, bad := choose(ports, b.Port, "UDP")
		if bad != "" {
			return "", bad
		}
		name := DatagramCluster(b.Namespace, b.Name, port.Port)
		c.clusters[name] = datagramCluster(name)
		return name, ""
	}
	port, bad := choose(object.Ports, b.Port, "TCP")
	if bad != "" {
		return "", bad
	}
	name := Prefix + "connections/" + b.Namespace + "/" + b.Name + "/" + portText(port.Port)
	c.clusters[name] = connectionCluster(name, BackendCluster(b.Namespace, b.Name, port.Port))
	return name, ""
}

// choose returns the port that a backendRef means, 0 being the only one, or what is wrong with it.
func choose(ports []BackendPort, want uint16, carries string) (BackendPort, string) {
	ports = slices.SortedFunc(slices.Values(ports), func(x, y BackendPort) int { return cmp.Or(cmp.Compare(x.Port, y.Port), cmp.Compare(x.App, y.App)) })
	have := make([]string, 0, len(ports))
	for _, p := range ports {
		have = append(have, portText(p.Port))
	}
	list := strings.Join(have, ", ")
	i := slices.IndexFunc(ports, func(p BackendPort) bool { return p.Port == want })
	switch {
	case len(ports) == 0:
		return BackendPort{}, "has no port that carries " + carries
	case want == 0 && len(ports) > 1:
		return BackendPort{}, "has the ports " + list + ": the backendRef must say which"
	case want == 0:
		i = 0
	case i < 0:
		return BackendPort{}, fmt.Sprintf("has no port %d, but %s", want, list)
	}
	return ports[i], ""
}

// connectionCluster returns the cluster through which connections go as they are: what speaks TLS at the endpoint speaks it
// with the client. Its endpoints are those that requests have.
func connectionCluster(name, endpoints string) *clusterv3.Cluster {
	c := edsCluster(name, federation.AppTCP)
	c.EdsClusterConfig.ServiceName = endpoints
	return c
}

// datagramCluster returns the cluster of a port that carries UDP.
func datagramCluster(name string) *clusterv3.Cluster {
	c := edsCluster(name, federation.AppTCP)
	c.UpstreamConnectionOptions, c.OutlierDetection = nil, nil
	return c
}
