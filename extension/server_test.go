package extension_test

import (
	"strings"
	"testing"

	pb "github.com/envoyproxy/gateway/proto/extension"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"crypto/tls"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/federation"
)

const policy = `{"metadata":{"namespace":"default","name":"p"},"spec":{"targetRefs":[{"kind":"Gateway","name":"eg"}],"revision":7}}`

func snapshot(services ...string) extension.Snapshot {
	s := extension.Snapshot{Cluster: "cluster1", Gateways: []extension.Gateway{{Namespace: "default", Name: "eg", Policy: "p"}}}
	for _, name := range services {
		s.Services = append(s.Services, extension.Service{ID: federation.Service("default", name), Clusters: []federation.ClusterID{"cluster2"}})
	}
	return s
}

func translation() *pb.PostTranslateModifyRequest {
	return &pb.PostTranslateModifyRequest{
		PostTranslateContext: &pb.PostTranslateExtensionContext{ExtensionResources: []*pb.ExtensionResource{{UnstructuredBytes: []byte(policy)}}},
		Clusters:             []*clusterv3.Cluster{{Name: "user"}},
		Routes:               []*routev3.RouteConfiguration{{Name: "default/eg/http"}},
	}
}

func clusterNames(r *pb.PostTranslateModifyResponse) []string {
	var out []string
	for _, c := range r.GetClusters() {
		out = append(out, c.GetName())
	}
	return out
}

func newServer(t *testing.T, w *wire) *extension.Server {
	t.Helper()
	s, err := extension.NewServer(w.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHooks(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	select {
	case <-w.opened:
		t.Fatal("the port is open without a snapshot")
	default:
	}
	s.SetSnapshot(snapshot("webapp"))
	hooks := pb.NewEnvoyGatewayExtensionClient(w.client(t))
	got, err := hooks.PostTranslateModify(t.Context(), translation())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"user", "tsgw/cluster/cluster2/default/webapp", "tsgw/federated/default/webapp"}
	if diff := cmp.Diff(want, clusterNames(got)); diff != "" {
		t.Error(diff)
	}
	st := s.Status()
	if seen := st.Revisions[extension.PolicyKey{Namespace: "default", Name: "p"}]; seen.Revision != 7 || !seen.Answered || seen.At.IsZero() {
		t.Errorf("seen %+v", seen)
	}
	if h := st.Hooks[extension.HookTranslation]; h.Calls != 1 || h.Failures != 0 || h.LastCall.IsZero() {
		t.Errorf("hook %+v", h)
	}
	if !st.Serving {
		t.Error("not serving")
	}
}

// TestBackends calls the hooks as Envoy Gateway does for a rule with a TailscaleEndpoints: first for its cluster, then for
// the whole translation.
func TestBackends(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	snap := snapshot("webapp")
	snap.Backends = []extension.Backend{{Namespace: "default", Name: "db", Ports: []extension.BackendPort{{Port: 80}}}}
	snap.Rules = []extension.Rule{{Kind: "HTTPRoute", Namespace: "default", Name: "x", Backends: []extension.RuleBackend{
		{Custom: true, Namespace: "default", Name: "db", Port: 80, Weight: 1},
	}}}
	s.SetSnapshot(snap)
	hooks := pb.NewEnvoyGatewayExtensionClient(w.client(t))
	const name = "httproute/default/x/rule/0"
	cluster := &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}}
	for _, tc := range []struct {
		name, object, target string
		failures             uint64
	}{
		{name: "ours", object: `{"apiVersion":"gateway.tailscale.com/v1alpha1","kind":"TailscaleEndpoints","metadata":{"namespace":"default","name":"db"}}`,
			target: "tsgw/endpoints/default/db/80"},
		{name: "of-another-extension", object: `{"apiVersion":"example.com/v1","kind":"TailscaleEndpoints","metadata":{"namespace":"default","name":"db"}}`, target: name},
		{name: "no-json", object: `{`, target: name, failures: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := hooks.PostClusterModify(t.Context(), &pb.PostClusterModifyRequest{Cluster: cluster,
				PostClusterContext: &pb.PostClusterExtensionContext{BackendExtensionResources: []*pb.ExtensionResource{{UnstructuredBytes: []byte(tc.object)}}}})
			if err != nil {
				t.Fatal(err)
			}
			if h := s.Status().Hooks[extension.HookCluster]; h.Failures != tc.failures {
				t.Errorf("failures %d (%s)", h.Failures, h.LastError)
			}
			r := translation()
			r.Clusters = []*clusterv3.Cluster{got.GetCluster()}
			r.Routes[0].VirtualHosts = []*routev3.VirtualHost{{Name: "default/eg/http/*", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Name: name + "/match/0/*", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
			}}}}
			done, err := hooks.PostTranslateModify(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			routes := done.GetRoutes()[0].GetVirtualHosts()[0].GetRoutes()
			if target := routes[len(routes)-1].GetRoute().GetCluster(); target != tc.target {
				t.Errorf("the user's route leads to %s, want %s", target, tc.target)
			}
			if diff := cmp.Diff(cluster, done.GetClusters()[0], protocmp.Transform()); diff != "" {
				t.Errorf("Envoy Gateway's cluster was changed:\n%s", diff)
			}
		})
	}
}

// TestFailingTranslation checks that a hook answers from the last good snapshot when the newest makes it panic, and
// with its input when there is none.
func TestFailingTranslation(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	s.FailOn(func(snap extension.Snapshot) bool { return len(snap.Services) == 2 })
	run(t, s.Run)
	s.SetSnapshot(snapshot("a", "b"))
	hooks := pb.NewEnvoyGatewayExtensionClient(w.client(t))
	check := func(want []string, failures uint64) {
		t.Helper()
		got, err := hooks.PostTranslateModify(t.Context(), translation())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, clusterNames(got)); diff != "" {
			t.Error(diff)
		}
		if h := s.Status().Hooks[extension.HookTranslation]; h.Failures != failures {
			t.Errorf("failures %d (%s), want %d", h.Failures, h.LastError, failures)
		}
	}
	check([]string{"user"}, 1)
	if s.Status().Revisions[extension.PolicyKey{Namespace: "default", Name: "p"}].Answered {
		t.Error("an answer was claimed")
	}
	s.SetSnapshot(snapshot("a"))
	good := []string{"user", "tsgw/cluster/cluster2/default/a", "tsgw/federated/default/a"}
	check(good, 1)
	s.SetSnapshot(snapshot("b", "c"))
	check(good, 2)
}

func TestBadPolicyIsNamed(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	s.SetSnapshot(snapshot("a"))
	r := translation()
	r.PostTranslateContext.ExtensionResources = append(r.PostTranslateContext.ExtensionResources,
		&pb.ExtensionResource{UnstructuredBytes: []byte(`{"metadata":{"namespace":"default","name":"bad"}}`)})
	got, err := pb.NewEnvoyGatewayExtensionClient(w.client(t)).PostTranslateModify(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetClusters()); n != 3 {
		t.Errorf("%d clusters", n)
	}
	if notes := s.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0].Text, "default/bad") {
		t.Errorf("notes %v", notes)
	}
}

// TestLargeMessages sends more than gRPC's default of 4 MiB both ways.
func TestLargeMessages(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	s.SetSnapshot(snapshot("a"))
	r := translation()
	r.Clusters = append(r.Clusters, &clusterv3.Cluster{Name: "big", AltStatName: strings.Repeat("x", 8<<20)})
	got, err := pb.NewEnvoyGatewayExtensionClient(w.client(t)).PostTranslateModify(t.Context(), r, largeCalls()...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetClusters()) != 4 {
		t.Error("the answer is not whole")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	s.SetSnapshot(snapshot("a"))
	other := newWire(t)
	for name, config := range map[string]*tls.Config{
		"no-certificate": {RootCAs: w.pool, ServerName: extension.EDSServerName},
		"other-ca":       certs.ClientConfig(live(t, other.bundle.Client), extension.EDSServerName, w.pool),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pb.NewEnvoyGatewayExtensionClient(w.dial(t, config)).PostTranslateModify(t.Context(), translation())
			if err == nil {
				t.Error("a stranger was answered")
			}
		})
	}
	if calls := s.Status().Hooks[extension.HookTranslation].Calls; calls != 0 {
		t.Errorf("%d calls", calls)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := extension.NewServer(extension.Options{}); err == nil {
		t.Error("a server without a port was made")
	}
	if _, err := extension.NewEDS(extension.Options{}, nil); err == nil {
		t.Error("a server without a port was made")
	}
}
