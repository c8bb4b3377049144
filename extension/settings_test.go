package extension_test

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/extension"
)

func TestEnvoyProxyBootstrap(t *testing.T) {
	w := newWire(t)
	for _, tc := range []struct {
		name, host string
		kind       clusterv3.Cluster_DiscoveryType
	}{
		{"name", "spoke.tailgate.svc", clusterv3.Cluster_STRICT_DNS},
		{"ipv4", "127.0.0.1", clusterv3.Cluster_STATIC},
		{"ipv6", "fd00::1", clusterv3.Cluster_STATIC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text, err := extension.EnvoyProxyBootstrap(tc.host, 18101, w.bundle.Trust)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := extension.EnvoyProxyBootstrap(tc.host, 18101, w.bundle.Trust); err != nil || again != text {
				t.Error("not stable: each difference restarts all Envoys")
			}
			json, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			var b bootstrapv3.Bootstrap
			if err := protojson.Unmarshal(json, &b); err != nil {
				t.Fatal(err)
			}
			c := b.GetStaticResources().GetClusters()[0]
			if c.GetName() != "tsgw_xds" || c.GetType() != tc.kind {
				t.Errorf("%s is %v", c.GetName(), c.GetType())
			}
			var ctx tlsv3.UpstreamTlsContext
			if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(&ctx); err != nil {
				t.Fatal(err)
			}
			if ctx.GetSni() != extension.EDSServerName ||
				ctx.GetCommonTlsContext().GetTlsCertificates()[0].GetPrivateKey().GetFilename() != "/certs/tls.key" ||
				ctx.GetCommonTlsContext().GetValidationContext().GetTrustedCa().GetInlineString() != string(w.bundle.Trust) {
				t.Errorf("TLS: %v", &ctx)
			}
		})
	}
	for name, call := range map[string]func() (string, error){
		"no-host": func() (string, error) { return extension.EnvoyProxyBootstrap("", 1, w.bundle.Trust) },
		"no-port": func() (string, error) { return extension.EnvoyProxyBootstrap("h", 0, w.bundle.Trust) },
		"no-ca":   func() (string, error) { return extension.EnvoyProxyBootstrap("h", 1, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := call(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestExtensionManager(t *testing.T) {
	got, err := extension.ExtensionManager(extension.ManagerOptions{Host: "127.0.0.1", Port: 18100, CASecret: "tailgate-ca", ClientSecret: "tailgate-client"})
	if err != nil {
		t.Fatal(err)
	}
	want := `extensionManager:
  backendResources:
  - group: gateway.tailscale.com
    kind: TailscaleEndpoints
    version: v1alpha1
  failOpen: false
  hooks:
    xdsTranslator:
      post:
      - Cluster
      - Translation
      translation:
        cluster:
          includeAll: true
        listener:
          includeAll: true
        route:
          includeAll: true
        secret:
          includeAll: false
  maxMessageSize: 64Mi
  policyResources:
  - group: gateway.tailscale.com
    kind: TailscaleRoutePolicy
    version: v1alpha1
  service:
    ip:
      address: 127.0.0.1
      port: 18100
    tls:
      certificateRef:
        name: tailgate-ca
      clientCertificateRef:
        name: tailgate-client
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	named, err := extension.ExtensionManager(extension.ManagerOptions{Host: "spoke.ns.svc", Port: 1, Namespace: "ns", CASecret: "a", ClientSecret: "b"})
	if err != nil || !strings.Contains(named, "hostname: spoke.ns.svc") || !strings.Contains(named, "namespace: ns") {
		t.Errorf("got %s, %v", named, err)
	}
	if _, err := extension.ExtensionManager(extension.ManagerOptions{Host: "h", Port: 1}); err == nil {
		t.Error("settings without Secrets were made")
	}
}
