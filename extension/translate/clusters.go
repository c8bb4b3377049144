package translate

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tailgate-project/tailgate/federation"
)

// XDSCluster is the Envoy cluster, in Envoy's bootstrap, that leads to the endpoint discovery server.
const XDSCluster = "tsgw_xds"

const (
	connectTimeout = time.Second
	// A cluster whose endpoints do not come is usable without them after this time; Envoy's default would hold up a
	// start for 15 s.
	initialFetchTimeout = 3 * time.Second
	circuitBreaker      = 16384
)

// edsCluster returns a cluster whose endpoints come from the endpoint discovery server. Its bytes depend on its name
// and on what is spoken there alone, because each change of a cluster makes Envoy warm it again.
func edsCluster(name string, app federation.AppProtocol) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     edsConfig(name),
		ConnectTimeout:       durationpb.New(connectTimeout),
		OutlierDetection:     outlierDetection(),
		// Failing open is the hub's decision, which it tells as degraded health; panic mode would take it twice.
		CommonLbConfig:            &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}},
		IgnoreHealthOnHostRemoval: true,
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: wrapperspb.UInt32(3), KeepaliveTime: wrapperspb.UInt32(10), KeepaliveInterval: wrapperspb.UInt32(3),
		}},
		CircuitBreakers: circuitBreakers(),
	}
	speak(c, app)
	return c
}

func edsConfig(service string) *clusterv3.Cluster_EdsClusterConfig {
	return &clusterv3.Cluster_EdsClusterConfig{
		ServiceName: service,
		EdsConfig: &corev3.ConfigSource{
			ResourceApiVersion:  corev3.ApiVersion_V3,
			InitialFetchTimeout: durationpb.New(initialFetchTimeout),
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: XDSCluster},
				}}},
			}},
		},
	}
}

// outlierDetection ejects an endpoint for what the path to it does. Answers of the application, even 500, are not
// the path's fault: only resets and 502, 503 and 504 count. The last endpoint is never ejected, for which the percentage
// has to be below 100: where all paths end at the same host, a fault of a moment would leave nobody to ask for the whole
// time of an ejection.
func outlierDetection() *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		Interval:                               durationpb.New(time.Second),
		BaseEjectionTime:                       durationpb.New(5 * time.Second),
		MaxEjectionPercent:                     wrapperspb.UInt32(99),
		ConsecutiveGatewayFailure:              wrapperspb.UInt32(3),
		EnforcingConsecutiveGatewayFailure:     wrapperspb.UInt32(100), // Envoy's default is 0: noticed, not enforced
		EnforcingConsecutive_5Xx:               wrapperspb.UInt32(0),
		EnforcingSuccessRate:                   wrapperspb.UInt32(0),
		SplitExternalLocalOriginErrors:         true,
		ConsecutiveLocalOriginFailure:          wrapperspb.UInt32(2),
		EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		EnforcingLocalOriginSuccessRate:        wrapperspb.UInt32(0),
	}
}

// circuitBreakers are wide: Envoy's three retries at a time would refuse the retries of a failover.
func circuitBreakers() *clusterv3.CircuitBreakers {
	n := wrapperspb.UInt32(circuitBreaker)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: n, MaxPendingRequests: n, MaxRequests: n, MaxRetries: n,
	}}}
}

// ownListener returns the cluster through which a request enters the same Envoy once more, at the listener's address.
func ownListener(name string, l Listener, addr netip.AddrPort) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(connectTimeout),
		CircuitBreakers:      circuitBreakers(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
				Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: addr.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(addr.Port())},
				}},
			}}}}},
		}}},
	}
	// A request goes on in the version that it came in: calls of gRPC need HTTP/2, WebSockets HTTP/1.1.
	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		},
	}
	if l.TLS {
		// The peer is this very process, so its certificate proves nothing; SNI picks the filter chain.
		c.TransportSocket = tlsSocket()
		options.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: true}
	}
	setHTTP(c, options)
	return c
}

// Envoy Gateway lets Envoy bind a privileged port this much higher (gatewayapi.servicePortToContainerPort).
const (
	firstUnprivileged   = 1024
	privilegedPortShift = 10000
)

// bound returns where Envoy listens for a Gateway's listener: as the xDS listener says where Envoy Gateway sent it
// along, else by the rule that Envoy Gateway follows in a cluster.
func bound(g Gateway, l Listener, listeners []*listenerv3.Listener) netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, x := range listeners {
		a := x.GetAddress().GetSocketAddress()
		if x.GetName() != g.Namespace+"/"+g.Name+"/"+l.Name || a.GetPortValue() == 0 || a.GetPortValue() > 65535 {
			continue
		}
		if ip, err := netip.ParseAddr(a.GetAddress()); err == nil {
			switch {
			case !ip.IsUnspecified():
				loopback = ip
			case ip.Is6() && !a.GetIpv4Compat():
				loopback = netip.IPv6Loopback()
			}
		}
		return netip.AddrPortFrom(loopback, uint16(a.GetPortValue()))
	}
	port := l.Port
	if port < firstUnprivileged {
		port += privilegedPortShift
	}
	return netip.AddrPortFrom(loopback, port)
}
