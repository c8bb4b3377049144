package strict

import (
	"errors"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestRulesNameRealFields keeps the tables honest: each type is linked in and each field exists.
func TestRulesNameRealFields(t *testing.T) {
	for name, r := range rules {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		known := mt.Descriptor().Fields()
		check := func(field string) {
			if known.ByName(protoreflect.Name(field)) == nil {
				t.Errorf("%s has no field %q", name, field)
			}
		}
		for _, f := range r.honoured {
			check(f)
			if r.inert[f] != "" {
				t.Errorf("%s.%s is both honoured and inert", name, f)
			}
		}
		for f := range r.inert {
			check(f)
		}
	}
}

func TestCheck(t *testing.T) {
	packed := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct {
		name string
		in   proto.Message
		want []string
	}{
		{name: "honoured-and-inert-fields", in: &clusterv3.Cluster{Name: "c", AltStatName: "x", PerConnectionBufferLimitBytes: wrapperspb.UInt32(1)}},
		{name: "nested-field-by-full-name", in: &routev3.Route{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_ClusterHeader{ClusterHeader: "x"}}},
		}, want: []string{"envoy.config.route.v3.RouteAction.cluster_header"}},
		{name: "unknown-type-in-any", in: &corev3.TransportSocket{Name: "x", ConfigType: &corev3.TransportSocket_TypedConfig{
			TypedConfig: packed(&compressorv3.Compressor{})}}, want: []string{"envoy.extensions.filters.http.compressor.v3.Compressor"}},
		{name: "grpc-health-check", in: &corev3.HealthCheck{HealthChecker: &corev3.HealthCheck_GrpcHealthCheck_{
			GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}}}, want: []string{"envoy.config.core.v3.HealthCheck.grpc_health_check"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			if e, ok := errors.AsType[*UnsupportedError](Check(tt.in)); ok {
				got = e.Fields
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("refused fields (-want +got):\n%s", d)
			}
		})
	}
}

// TestCheckRefusesDeprecatedFields has the messages as text: Go code that names a deprecated field is refused by the
// linter.
func TestCheckRefusesDeprecatedFields(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		into       proto.Message
		want       string
	}{
		{name: "cluster-refresh-rate", into: &clusterv3.Cluster{}, text: `name: "c" dns_refresh_rate: {seconds: 1}`, want: "envoy.config.cluster.v3.Cluster.dns_refresh_rate"},
		{name: "config-source-path", into: &corev3.ConfigSource{}, text: `path: "/sds.yaml"`, want: "envoy.config.core.v3.ConfigSource.path"},
		{name: "header-exact", into: &routev3.HeaderMatcher{}, text: `name: "h" exact_match: "v"`, want: "envoy.config.route.v3.HeaderMatcher.exact_match"},
		{name: "header-prefix", into: &routev3.HeaderMatcher{}, text: `name: "h" prefix_match: "v"`, want: "envoy.config.route.v3.HeaderMatcher.prefix_match"},
		{name: "header-suffix", into: &routev3.HeaderMatcher{}, text: `name: "h" suffix_match: "v"`, want: "envoy.config.route.v3.HeaderMatcher.suffix_match"},
		{name: "header-contains", into: &routev3.HeaderMatcher{}, text: `name: "h" contains_match: "v"`, want: "envoy.config.route.v3.HeaderMatcher.contains_match"},
		{name: "header-regex", into: &routev3.HeaderMatcher{}, text: `name: "h" safe_regex_match: {regex: "v"}`, want: "envoy.config.route.v3.HeaderMatcher.safe_regex_match"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := prototext.Unmarshal([]byte(tt.text), tt.into); err != nil {
				t.Fatal(err)
			}
			var got []string
			if e, ok := errors.AsType[*UnsupportedError](Check(tt.into)); ok {
				got = e.Fields
			}
			if d := cmp.Diff([]string{tt.want}, got); d != "" {
				t.Errorf("refused fields (-want +got):\n%s", d)
			}
		})
	}
}

func TestCheckAppliesValidationRules(t *testing.T) {
	if err := Check(&routev3.VirtualHost{Name: "v"}); err == nil {
		t.Error("a virtual host without domains was accepted")
	}
}
