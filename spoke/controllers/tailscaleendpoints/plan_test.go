package tailscaleendpoints_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
)

func TestPlan(t *testing.T) {
	connect := &spoke.HealthCheck{Interval: 10 * time.Second, Timeout: 3 * time.Second, Healthy: 2, Unhealthy: 3}
	checked := func(c spoke.Check) *spoke.HealthCheck {
		h := *connect
		h.Check = c
		return &h
	}
	addr := netip.MustParseAddr("100.64.1.10")
	for name, tc := range map[string]struct {
		in   v1alpha1.TailscaleEndpoint
		want spoke.BackendEndpoint
	}{
		"by-address": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 80, Protocol: v1alpha1.EndpointHTTP},
			spoke.BackendEndpoint{Addr: addr, Port: 80, TargetPort: 80, Protocol: federation.TCP, App: federation.AppHTTP, Weight: 1, Check: connect},
		},
		"by-name-with-a-dot-at-its-end": {
			v1alpha1.TailscaleEndpoint{TailscaleFQDN: "db.tail1234.ts.net.", Port: 5432, Protocol: v1alpha1.EndpointTCP},
			spoke.BackendEndpoint{Host: "db.tail1234.ts.net", Port: 5432, TargetPort: 5432, Protocol: federation.TCP, App: federation.AppTCP, Weight: 1, Check: connect},
		},
		"an-address-comes-before-a-name": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", TailscaleFQDN: "web", Port: 80},
			spoke.BackendEndpoint{Addr: addr, Port: 80, TargetPort: 80, Protocol: federation.TCP, App: federation.AppHTTP, Weight: 1, Check: connect},
		},
		"udp": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 53, Protocol: v1alpha1.EndpointUDP, Weight: new(int32(0))},
			spoke.BackendEndpoint{Addr: addr, Port: 53, TargetPort: 53, Protocol: federation.UDP, Check: connect},
		},
		"https-with-a-request": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 443, Protocol: v1alpha1.EndpointHTTPS, HealthCheck: &v1alpha1.EndpointHealthCheck{
				Path: "/up", Host: "web.example.com", ExpectedStatuses: []v1alpha1.StatusRange{"204", "200-201"},
				Interval: &metav1.Duration{Duration: time.Minute}, Timeout: &metav1.Duration{Duration: time.Second},
				HealthyThreshold: new(int32(1)), UnhealthyThreshold: new(int32(5)),
			}},
			spoke.BackendEndpoint{Addr: addr, Port: 443, TargetPort: 443, Protocol: federation.TCP, App: federation.AppHTTPS, Weight: 1, Check: &spoke.HealthCheck{
				Check:    spoke.Check{Kind: spoke.CheckHTTPS, Path: "/up", Host: "web.example.com", Expected: []spoke.StatusRange{{Low: 204, High: 204}, {Low: 200, High: 201}}},
				Interval: time.Minute, Timeout: time.Second, Healthy: 1, Unhealthy: 5,
			}},
		},
		"https-without-one": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 443, Protocol: v1alpha1.EndpointHTTPS},
			spoke.BackendEndpoint{Addr: addr, Port: 443, TargetPort: 443, Protocol: federation.TCP, App: federation.AppHTTPS, Weight: 1, Check: checked(spoke.Check{Kind: spoke.CheckTLS})},
		},
		"grpc": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 90, Protocol: v1alpha1.EndpointGRPC, HealthCheck: &v1alpha1.EndpointHealthCheck{Service: "a.B"}},
			spoke.BackendEndpoint{
				Addr: addr, Port: 90, TargetPort: 90, Protocol: federation.TCP, App: federation.AppH2C, Weight: 1, Check: checked(spoke.Check{Kind: spoke.CheckGRPC, Service: "a.B"}),
			},
		},
		"not-checked": {
			v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1.10", Port: 80, Weight: new(int32(7)), HealthCheck: &v1alpha1.EndpointHealthCheck{Enabled: new(false)}},
			spoke.BackendEndpoint{Addr: addr, Port: 80, TargetPort: 80, Protocol: federation.TCP, App: federation.AppHTTP, Weight: 7},
		},
		"outside-of-the-tailnet": {
			v1alpha1.TailscaleEndpoint{ExternalTarget: "api.example.com:8443", Port: 443, Protocol: v1alpha1.EndpointHTTPS},
			spoke.BackendEndpoint{Service: federation.Service("shop", "e"), Port: 443, TargetPort: 443, Protocol: federation.TCP, App: federation.AppHTTPS, Weight: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.in.Name, tc.want.Name = "e", "e"
			o := &v1alpha1.TailscaleEndpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "set"}}
			o.Spec.Endpoints = []v1alpha1.TailscaleEndpoint{tc.in}
			got, problems := tailscaleendpoints.Plan(o)
			want := spoke.Backend{Name: spoke.Name{Namespace: "shop", Name: "set"}, Tailnet: o.Spec.Tailnet, Endpoints: []spoke.BackendEndpoint{tc.want}}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" || len(problems) > 0 {
				t.Errorf("(-want +got)\n%s\nproblems %v", d, problems)
			}
		})
	}
}

// TestOneBadEndpointDoesNotKeepTheOthers has what no schema can tell.
func TestOneBadEndpointDoesNotKeepTheOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		bad  v1alpha1.TailscaleEndpoint
		says string
	}{
		"port-too-large":  {v1alpha1.TailscaleEndpoint{ExternalTarget: "example.com:99999", Port: 80}, "1 to 65535"},
		"no-port":         {v1alpha1.TailscaleEndpoint{ExternalTarget: "example.com", Port: 80}, "host:port"},
		"address-of-what": {v1alpha1.TailscaleEndpoint{TailscaleIP: "100.64.1", Port: 80}, "tailscaleIP"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.bad.Name = "bad"
			o := &v1alpha1.TailscaleEndpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "set"}}
			o.Spec.Endpoints = []v1alpha1.TailscaleEndpoint{tc.bad, {Name: "good", TailscaleIP: "100.64.1.10", Port: 80}}
			got, problems := tailscaleendpoints.Plan(o)
			if len(got.Endpoints) != 1 || got.Endpoints[0].Name != "good" {
				t.Errorf("endpoints %+v", got.Endpoints)
			}
			if len(problems) != 1 || !strings.Contains(problems["bad"], tc.says) {
				t.Errorf("problems %v, want one that says %q", problems, tc.says)
			}
		})
	}
}
