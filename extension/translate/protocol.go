package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tailgate-project/tailgate/federation"
)

// streamsPerConnection bounds the requests that share a connection of HTTP/2. The egress proxy and the remote ingress
// proxy choose a host and a pod for each connection, so that all requests in one would go to one pod.
const streamsPerConnection = 100

// speak has a cluster speak what is spoken at its endpoints. An unknown protocol is HTTP/1.1, as is Envoy's default.
//
// Certificates are not verified. WireGuard has proved whose device answers, and the proxies have proved which service it
// stands for; the certificate behind is in most cases one that only the owner of the service could verify.
func speak(c *clusterv3.Cluster, app federation.AppProtocol) {
	switch app {
	case federation.AppH2C:
		setHTTP(c, explicitHTTP2())
	case federation.AppGRPCS:
		c.TransportSocket = tlsSocket("h2")
		options := explicitHTTP2()
		options.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: true}
		setHTTP(c, options)
	case federation.AppHTTPS:
		c.TransportSocket = tlsSocket() // Envoy offers h2 and http/1.1 by itself
		setHTTP(c, &httpv3.HttpProtocolOptions{
			UpstreamHttpProtocolOptions: &corev3.UpstreamHttpProtocolOptions{AutoSni: true},
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: http2(),
			}},
		})
	}
}

func explicitHTTP2() *httpv3.HttpProtocolOptions {
	return &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2()},
		}},
	}
}

// http2 sends no pings: servers of gRPC close connections on which there are many, and the egress proxy resets those
// that lead nowhere.
func http2() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(streamsPerConnection)}
}

func setHTTP(c *clusterv3.Cluster, o *httpv3.HttpProtocolOptions) {
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(o)}
}

func tlsSocket(alpn ...string) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{AlpnProtocols: alpn}}),
	}}
}

// unroutable says why there is nothing to route in a protocol, or nothing.
func unroutable(app federation.AppProtocol) string {
	if app == federation.AppTLS || app == federation.AppTCP {
		return "speaks " + app.String() + ", which has no requests that could be routed"
	}
	return ""
}
