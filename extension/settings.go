package extension

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/extension/translate"
)

// EDSServerName is the name by which Envoy knows the endpoint discovery server; its certificate must have it.
const EDSServerName = "tailgate-eds"

// Where Envoy Gateway puts Envoy's certificate in Envoy's pods.
const (
	envoyCertificate = "/certs/tls.crt"
	envoyKey         = "/certs/tls.key"
)

// EnvoyProxyBootstrap returns the value for spec.bootstrap, of type Merge, of an EnvoyProxy object: the static
// cluster through which Envoy reaches the endpoint discovery server at host, a name or an address. ca are the PEM
// certificates that verify the server. Envoy Gateway restarts its Envoys where the value changes, so it depends on
// nothing else.
func EnvoyProxyBootstrap(host string, port uint16, ca []byte) (string, error) {
	if host == "" || port == 0 {
		return "", errors.New("bootstrap of the endpoint discovery server: host and port are required")
	}
	if _, err := certs.Pool(ca); err != nil {
		return "", fmt.Errorf("bootstrap of the endpoint discovery server: %w", err)
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	options, err := packed(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				ConnectionKeepalive: &corev3.KeepaliveSettings{Interval: durationpb.New(10 * time.Second), Timeout: durationpb.New(3 * time.Second)},
			}},
		}},
	})
	if err != nil {
		return "", err
	}
	transport, err := packed(edsClientTLS(ca))
	if err != nil {
		return "", err
	}
	cluster := &clusterv3.Cluster{
		Name:                          translate.XDSCluster,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:                durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
		TransportSocket: &corev3.TransportSocket{
			Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: transport},
		},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: translate.XDSCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
				Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
				}},
			}}}}},
		}}},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: wrapperspb.UInt32(3), KeepaliveTime: wrapperspb.UInt32(10), KeepaliveInterval: wrapperspb.UInt32(3),
		}},
	}
	b := &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{cluster}}}
	if err := b.ValidateAll(); err != nil {
		return "", fmt.Errorf("bootstrap of the endpoint discovery server: %w", err)
	}
	json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("write bootstrap: %w", err)
	}
	text, err := yaml.JSONToYAML(json)
	if err != nil {
		return "", fmt.Errorf("write bootstrap: %w", err)
	}
	return string(text), nil
}

// edsClientTLS is how Envoy connects: our CA verifies the server, Envoy Gateway's certificate shows who Envoy is.
func edsClientTLS(ca []byte) *tlsv3.UpstreamTlsContext {
	file := func(name string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
	}
	return &tlsv3.UpstreamTlsContext{
		Sni: EDSServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:       &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: file(envoyCertificate), PrivateKey: file(envoyKey)}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(ca)}},
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: tlsv3.SubjectAltNameMatcher_DNS,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: EDSServerName}},
				}},
			}},
		},
	}
}

func packed(m proto.Message) (*anypb.Any, error) {
	out := new(anypb.Any)
	if err := anypb.MarshalFrom(out, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("write bootstrap: %w", err)
	}
	return out, nil
}

// ManagerOptions say where Envoy Gateway finds the hook server.
type ManagerOptions struct {
	// Host is a name or an address, and must be in the server's certificate: Envoy Gateway checks it.
	Host string
	Port uint16
	// Namespace of the Secrets; Envoy Gateway's own where empty.
	Namespace string
	// CASecret has the CA certificate in tls.crt (not ca.crt), ClientSecret has tls.crt and tls.key. Envoy Gateway
	// reads both again at each handshake.
	CASecret, ClientSecret string
}

// ExtensionManager returns the extensionManager part of an EnvoyGateway configuration, as YAML. Envoy Gateway reads
// the Secrets through its Kubernetes client, so it works only with the Kubernetes provider.
//
// While no hook server answers, Envoy Gateway translates nothing and waits, whatever failOpen says; its Envoys keep what
// they have, and nothing is lost. It tries to connect again by gRPC's own rule: after a second, and after longer each
// time, up to two minutes, which it can then take to notice that a server is back. So there should be at least two.
func ExtensionManager(o ManagerOptions) (string, error) {
	if o.Host == "" || o.Port == 0 || o.CASecret == "" || o.ClientSecret == "" {
		return "", errors.New("extension manager: Host, Port, CASecret and ClientSecret are required")
	}
	kind := func(name string) []any {
		return []any{map[string]any{"group": "gateway.tailscale.com", "version": "v1alpha1", "kind": name}}
	}
	secret := func(name string) map[string]any {
		ref := map[string]any{"name": name}
		if o.Namespace != "" {
			ref["namespace"] = o.Namespace
		}
		return ref
	}
	all := func(on bool) map[string]any { return map[string]any{"includeAll": on} }
	service := map[string]any{"tls": map[string]any{"certificateRef": secret(o.CASecret), "clientCertificateRef": secret(o.ClientSecret)}}
	if _, err := netip.ParseAddr(o.Host); err == nil {
		service["ip"] = map[string]any{"address": o.Host, "port": o.Port}
	} else {
		service["fqdn"] = map[string]any{"hostname": o.Host, "port": o.Port}
	}
	out, err := yaml.Marshal(map[string]any{"extensionManager": map[string]any{
		"policyResources":  kind("TailscaleRoutePolicy"),
		"backendResources": kind("TailscaleEndpoints"),
		"maxMessageSize":   fmt.Sprintf("%dMi", MaxMessage>>20),
		// Failing open would publish a configuration without our routes, and nobody would try again.
		"failOpen": false,
		"hooks": map[string]any{"xdsTranslator": map[string]any{
			"post": []any{HookCluster, HookTranslation},
			"translation": map[string]any{
				"cluster": all(true), "route": all(true), "listener": all(true), "secret": all(false),
			},
		}},
		"service": service,
	}})
	if err != nil {
		return "", fmt.Errorf("write extension manager settings: %w", err)
	}
	return string(out), nil
}
