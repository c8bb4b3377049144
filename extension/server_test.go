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

func TestClusterHook(t *testing.T) {
	w := newWire(t)
	s := newServer(t, w)
	run(t, s.Run)
	s.SetSnapshot(snapshot("webapp"))
	hooks := pb.NewEnvoyGatewayExtensionClient(w.client(t))
	object := func(name string) *pb.ExtensionResource {
		return &pb.ExtensionResource{UnstructuredBytes: []byte(`{"metadata":{"namespace":"default","name":"` + name + `"}}`)}
	}
	for _, tc := range []struct {
		name    string
		objects []*pb.ExtensionResource
		service string
		note    string
	}{
		{name: "known", objects: []*pb.ExtensionResource{object("webapp")}, service: "tsgw/federated/default/webapp"},
		{name: "unknown", objects: []*pb.ExtensionResource{object("other")}, note: "no member exports a service default/other"},
		{name: "two-in-a-rule", objects: []*pb.ExtensionResource{object("webapp"), object("other")}, note: "a rule with 2 Tailgate backends"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := &clusterv3.Cluster{Name: "httproute/default/x/rule/0", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}}
			got, err := hooks.PostClusterModify(t.Context(), &pb.PostClusterModifyRequest{Cluster: in,
				PostClusterContext: &pb.PostClusterExtensionContext{BackendExtensionResources: tc.objects}})
			if err != nil {
				t.Fatal(err)
			}
			if name := got.GetCluster().GetEdsClusterConfig().GetServiceName(); name != tc.service {
				t.Errorf("service %q, want %q", name, tc.service)
			}
			if tc.note == "" {
				if notes := s.Status().Notes; len(notes) != 0 {
					t.Errorf("notes %v", notes)
				}
				return
			}
			if diff := cmp.Diff(in, got.GetCluster(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if notes := s.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0].Text, tc.note) {
				t.Errorf("notes %v", notes)
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
