// Package upstream is the stand-in's side towards the backends: clusters with their endpoints, priorities, load
// balancing, active health checks, outlier detection, connection pools and retries, as Envoy describes them. Test
// equipment, never part of the product.
package upstream

import (
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	commonlbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
)

// Discovery is how a cluster's endpoints are found.
type Discovery int

// The kinds of discovery.
const (
	Static Discovery = iota
	DNS
	EDS
)

type policy int

const (
	roundRobin policy = iota
	leastRequest
	random
)

// Spec is a compiled Cluster.
type Spec struct {
	Name           string
	Discovery      Discovery
	EDSName        string        // the name of its endpoints
	EDSSource      string        // the static cluster that serves them; empty: ADS
	EDSTimeout     time.Duration // how long a new cluster waits for them; 0: without end
	ConnectTimeout time.Duration
	Endpoints      *Endpoints // of a static or DNS cluster
	Keepalive      *corev3.KeepaliveSettings
	Secrets        []string // SDS secrets that it needs by xDS
	Proto          *clusterv3.Cluster
	Bootstrapped   bool // it comes from the bootstrap, not by xDS

	dnsRefresh       time.Duration
	dnsNetwork       string
	policy           policy
	choices          int
	localityWeighted bool
	panicThreshold   float64 // percent
	checks           []*corev3.HealthCheck
	outlier          *outlierSpec
	maxRequests      int64
	maxRetries       int64
	socket           *corev3.TransportSocket
	sockets          []*clusterv3.Cluster_TransportSocketMatch
	http2, alpn      bool
	downstream       bool // requests keep the version of HTTP that they came in
	autoSNI          bool
	idleTimeout      time.Duration
}

// Compile compiles a cluster. Unsupported settings are named in the error.
func Compile(in *clusterv3.Cluster) (*Spec, error) {
	if err := strict.Check(in); err != nil {
		return nil, err
	}
	s := &Spec{
		Name: in.GetName(), ConnectTimeout: 5 * time.Second, panicThreshold: 50, choices: 2, maxRequests: 1024, maxRetries: 3,
		dnsRefresh: 5 * time.Second, dnsNetwork: "ip", idleTimeout: time.Hour, checks: in.GetHealthChecks(),
		socket: in.GetTransportSocket(), sockets: in.GetTransportSocketMatches(), Proto: in,
	}
	if in.GetConnectTimeout() != nil {
		s.ConnectTimeout = in.GetConnectTimeout().AsDuration()
	}
	if p := in.GetCommonLbConfig().GetHealthyPanicThreshold(); p != nil {
		s.panicThreshold = p.GetValue()
	}
	for _, t := range in.GetCircuitBreakers().GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			continue
		}
		if t.GetMaxRequests() != nil {
			s.maxRequests = int64(t.GetMaxRequests().GetValue())
		}
		if t.GetMaxRetries() != nil {
			s.maxRetries = int64(t.GetMaxRetries().GetValue())
		}
	}
	if len(s.checks) > 0 && !in.GetIgnoreHealthOnHostRemoval() && in.GetType() == clusterv3.Cluster_EDS {
		return nil, strict.Unsupported("envoy.config.cluster.v3.Cluster.ignore_health_on_host_removal=false with health_checks")
	}
	s.outlier = compileOutlier(in.GetOutlierDetection())
	for _, step := range []func(*clusterv3.Cluster) error{s.compileDiscovery, s.compileBalancing, s.compileProtocol, s.compileSockets} {
		if err := step(in); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Spec) compileDiscovery(in *clusterv3.Cluster) error {
	lookup := in.GetDnsLookupFamily().String()
	switch {
	case in.GetClusterType() != nil:
		var dns dnsv3.DnsCluster
		if err := in.GetClusterType().GetTypedConfig().UnmarshalTo(&dns); err != nil {
			return strict.Unsupported("envoy.config.cluster.v3.Cluster.cluster_type=" + in.GetClusterType().GetName())
		}
		s.Discovery, lookup = DNS, dns.GetDnsLookupFamily().String()
		if dns.GetDnsRefreshRate() != nil {
			s.dnsRefresh = dns.GetDnsRefreshRate().AsDuration()
		}
	case in.GetType() == clusterv3.Cluster_STATIC:
		s.Discovery = Static
	case in.GetType() == clusterv3.Cluster_STRICT_DNS:
		s.Discovery = DNS
	case in.GetType() == clusterv3.Cluster_EDS:
		return s.compileEDS(in)
	default:
		return strict.Unsupported("envoy.config.cluster.v3.Cluster.type=" + in.GetType().String())
	}
	switch lookup {
	case "V4_ONLY":
		s.dnsNetwork = "ip4"
	case "V6_ONLY":
		s.dnsNetwork = "ip6"
	}
	var err error
	s.Endpoints, err = CompileEndpoints(in.GetLoadAssignment())
	return err
}

func (s *Spec) compileEDS(in *clusterv3.Cluster) error {
	s.Discovery, s.EDSName, s.EDSTimeout = EDS, in.GetEdsClusterConfig().GetServiceName(), 15*time.Second
	if s.EDSName == "" {
		s.EDSName = in.GetName()
	}
	src := in.GetEdsClusterConfig().GetEdsConfig()
	if src.GetInitialFetchTimeout() != nil {
		s.EDSTimeout = src.GetInitialFetchTimeout().AsDuration()
	}
	if src.GetAds() != nil {
		return nil
	}
	api := src.GetApiConfigSource()
	if api == nil {
		return strict.Unsupported("envoy.config.core.v3.ConfigSource other than ads or api_config_source in eds_config")
	}
	var err error
	s.EDSSource, err = GRPCCluster(api)
	return err
}

// GRPCCluster returns the cluster that an API source is reached by. Only delta gRPC is supported.
func GRPCCluster(api *corev3.ApiConfigSource) (string, error) {
	if t := api.GetApiType(); t != corev3.ApiConfigSource_DELTA_GRPC {
		return "", strict.Unsupported("envoy.config.core.v3.ApiConfigSource.api_type=" + t.String())
	}
	if n := len(api.GetGrpcServices()); n != 1 {
		return "", fmt.Errorf("api_config_source has %d grpc_services; exactly one is supported", n)
	}
	return api.GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName(), nil
}

func (s *Spec) compileBalancing(in *clusterv3.Cluster) error {
	s.localityWeighted = in.GetCommonLbConfig().GetLocalityWeightedLbConfig() != nil
	choices := in.GetLeastRequestLbConfig().GetChoiceCount().GetValue()
	switch in.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
	case clusterv3.Cluster_LEAST_REQUEST:
		s.policy = leastRequest
	case clusterv3.Cluster_RANDOM:
		s.policy = random
	default:
		return strict.Unsupported("envoy.config.cluster.v3.Cluster.lb_policy=" + in.GetLbPolicy().String())
	}
	var locality *commonlbv3.LocalityLbConfig
	if policies := in.GetLoadBalancingPolicy().GetPolicies(); len(policies) > 0 {
		// Envoy takes the first policy that it knows; strict has refused clusters with one that is unknown here.
		m, err := policies[0].GetTypedExtensionConfig().GetTypedConfig().UnmarshalNew()
		if err != nil {
			return fmt.Errorf("load_balancing_policy: %w", err)
		}
		switch p := m.(type) {
		case *leastv3.LeastRequest:
			s.policy, choices, locality = leastRequest, p.GetChoiceCount().GetValue(), p.GetLocalityLbConfig()
		case *roundv3.RoundRobin:
			s.policy, locality = roundRobin, p.GetLocalityLbConfig()
		case *randomv3.Random:
			s.policy, locality = random, p.GetLocalityLbConfig()
		}
		s.localityWeighted = locality.GetLocalityWeightedLbConfig() != nil
	}
	if choices > 0 {
		s.choices = int(choices)
	}
	return nil
}

func (s *Spec) compileProtocol(in *clusterv3.Cluster) error {
	s.http2 = in.GetHttp2ProtocolOptions() != nil //nolint:staticcheck // deprecated, and still accepted by Envoy
	for name, packed := range in.GetTypedExtensionProtocolOptions() {
		var opts httpv3.HttpProtocolOptions
		if err := packed.UnmarshalTo(&opts); err != nil {
			return strict.Unsupported("envoy.config.cluster.v3.Cluster.typed_extension_protocol_options[" + name + "]")
		}
		if h2 := opts.GetExplicitHttpConfig().GetHttp2ProtocolOptions(); h2 != nil {
			s.http2, s.Keepalive = true, h2.GetConnectionKeepalive()
		}
		s.alpn = opts.GetAutoConfig() != nil
		s.downstream = opts.GetUseDownstreamProtocolConfig() != nil
		s.autoSNI = opts.GetUpstreamHttpProtocolOptions().GetAutoSni()
		if opts.GetUpstreamHttpProtocolOptions().GetAutoSanValidation() {
			return strict.Unsupported("envoy.config.core.v3.UpstreamHttpProtocolOptions.auto_san_validation")
		}
		if d := opts.GetCommonHttpProtocolOptions().GetIdleTimeout(); d != nil {
			s.idleTimeout = d.AsDuration()
		}
	}
	return nil
}

func (s *Spec) compileSockets(*clusterv3.Cluster) error {
	for _, socket := range s.allSockets() {
		ctx, err := upstreamTLS(socket)
		if err != nil {
			return err
		}
		if ctx == nil {
			continue
		}
		if _, err := tlsctx.Client(ctx, nil); err != nil {
			return err
		}
		s.Secrets = append(s.Secrets, tlsctx.Wanted(ctx.GetCommonTlsContext())...)
	}
	return nil
}

func (s *Spec) allSockets() []*corev3.TransportSocket {
	all := []*corev3.TransportSocket{}
	if s.socket != nil {
		all = append(all, s.socket)
	}
	for _, m := range s.sockets {
		all = append(all, m.GetTransportSocket())
	}
	return all
}

// socketFor returns the transport socket for an endpoint, by the first match of its metadata.
func (s *Spec) socketFor(match *structpb.Struct) *corev3.TransportSocket {
	for _, m := range s.sockets {
		all := true
		for k, v := range m.GetMatch().GetFields() {
			all = all && match.GetFields()[k].GetStringValue() == v.GetStringValue()
		}
		if all {
			return m.GetTransportSocket()
		}
	}
	return s.socket
}

// upstreamTLS returns the TLS context of a transport socket, or nil if it is plain text.
func upstreamTLS(socket *corev3.TransportSocket) (*tlsv3.UpstreamTlsContext, error) {
	if socket.GetTypedConfig() == nil {
		return nil, nil
	}
	m, err := socket.GetTypedConfig().UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("transport socket %s: %w", socket.GetName(), err)
	}
	ctx, _ := m.(*tlsv3.UpstreamTlsContext) // strict lets in only this and raw_buffer
	return ctx, nil
}

func hostPort(sa *corev3.SocketAddress) string {
	return net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue())))
}

// Addresses returns the addresses of a static or DNS cluster, as host:port.
func (s *Spec) Addresses() []string {
	var all []string
	for _, l := range s.Endpoints.Localities {
		for _, e := range l.Endpoints {
			all = append(all, e.Address)
		}
	}
	return all
}

// ClientTLS returns the TLS configuration towards the cluster, or nil if it is plain text.
func (s *Spec) ClientTLS(secrets *tlsctx.Store) (*tls.Config, error) {
	ctx, err := upstreamTLS(s.socket)
	if ctx == nil || err != nil {
		return nil, err
	}
	return tlsctx.Client(ctx, secrets)
}
