package translate_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	specifierv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/router/cluster_specifiers/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"sigs.k8s.io/yaml"

	// The linked-in types of what our resources carry in Any.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// update has the golden files written, and stale ones deleted.
var update = os.Getenv("UPDATE_GOLDEN") != ""

// fixture is an input file.
type fixture struct {
	Snapshot translate.Snapshot
	Policies []json.RawMessage
	// Marked are the backends of a cluster that the hook for clusters was told of, as namespace/name.
	Marked                      map[string][]string
	Clusters, Routes, Listeners []json.RawMessage
}

func (f fixture) input(t testing.TB) (translate.Resources, []translate.Policy) {
	t.Helper()
	in := translate.Resources{
		Clusters:  parse[clusterv3.Cluster](t, f.Clusters),
		Routes:    parse[routev3.RouteConfiguration](t, f.Routes),
		Listeners: parse[listenerv3.Listener](t, f.Listeners),
	}
	for i, c := range in.Clusters {
		var objects [][]byte
		for _, object := range f.Marked[c.GetName()] {
			objects = append(objects, backendObject(object))
		}
		var err error
		if in.Clusters[i], err = translate.Mark(c, objects); err != nil {
			t.Fatal(err)
		}
	}
	var policies []translate.Policy
	for _, raw := range f.Policies {
		p, err := translate.ParsePolicy(raw)
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	return in, policies
}

// backendObject is a TailscaleEndpoints, given as namespace/name, as Envoy Gateway hands it over.
func backendObject(name string) []byte {
	namespace, name, _ := strings.Cut(name, "/")
	return fmt.Appendf(nil, `{"apiVersion":"gateway.tailscale.com/v1alpha1","kind":"TailscaleEndpoints","metadata":{"namespace":%q,"name":%q}}`, namespace, name)
}

func parse[T any, M interface {
	*T
	proto.Message
}](t testing.TB, raws []json.RawMessage) []*T {
	t.Helper()
	var out []*T
	for _, raw := range raws {
		m := M(new(T))
		if err := protojson.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		out = append(out, (*T)(m))
	}
	return out
}

func load(t testing.TB, file string) fixture {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var f fixture
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// render writes resources and notes in a form for people.
func render(t testing.TB, r translate.Resources, notes []translate.Note) string {
	t.Helper()
	var b strings.Builder
	section := func(title string, messages ...proto.Message) {
		fmt.Fprintf(&b, "%s:\n", title)
		for _, m := range messages {
			j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			y, err := yaml.JSONToYAML(j)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(y)), "\n")
			b.WriteString("- " + strings.Join(lines, "\n  ") + "\n")
		}
	}
	section("clusters", messages(r.Clusters)...)
	section("routes", messages(r.Routes)...)
	b.WriteString("notes:\n")
	for _, n := range notes {
		fmt.Fprintf(&b, "- %s: %s\n", n.Item, n.Text)
	}
	return b.String()
}

func messages[M proto.Message](ms []M) []proto.Message {
	var out []proto.Message
	for _, m := range ms {
		out = append(out, m)
	}
	return out
}

func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/in/*.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no input: %v", err)
	}
	wanted := map[string]bool{}
	for _, input := range inputs {
		golden := filepath.Join("testdata/out", filepath.Base(input))
		wanted[golden] = true
		t.Run(strings.TrimSuffix(filepath.Base(input), ".yaml"), func(t *testing.T) {
			f := load(t, input)
			in, policies := f.input(t)
			out, notes := translate.Translate(in, policies, f.Snapshot)
			got := render(t, out, notes)
			if update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with UPDATE_GOLDEN=1 after reading this diff (-want +got):\n%s", diff)
			}
		})
	}
	outputs, err := filepath.Glob("testdata/out/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outputs {
		switch {
		case wanted[o]:
		case update:
			if err := os.Remove(o); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%s has no input; run with UPDATE_GOLDEN=1 to delete it", o)
		}
	}
}

// encode returns the bytes that Envoy Gateway would be sent.
func encode(t testing.TB, r translate.Resources) []byte {
	t.Helper()
	var out []byte
	for _, m := range append(messages(r.Clusters), messages(r.Routes)...) {
		b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(out, m)
		if err != nil {
			t.Fatal(err)
		}
		out = b
	}
	return out
}

// TestLaws checks on all golden inputs: the input is left alone, the order of the snapshot means nothing, and
// translating what was translated changes nothing.
func TestLaws(t *testing.T) {
	inputs, err := filepath.Glob("testdata/in/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".yaml"), func(t *testing.T) {
			f := load(t, input)
			in, policies := f.input(t)
			before, _ := f.input(t)
			once, notes := translate.Translate(in, policies, f.Snapshot)
			if diff := cmp.Diff(before, in, protocmp.Transform()); diff != "" {
				t.Errorf("the input was changed (-want +got):\n%s", diff)
			}
			want := encode(t, once)
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 1))
				s := shuffled(r, f.Snapshot)
				got, gotNotes := translate.Translate(in, policies, s)
				if !slices.Equal(want, encode(t, got)) {
					t.Fatalf("seed %d: other bytes for another order", seed)
				}
				if diff := cmp.Diff(notes, gotNotes); diff != "" {
					t.Fatalf("seed %d: other notes (-want +got):\n%s", seed, diff)
				}
			}
			twice, _ := translate.Translate(once, policies, f.Snapshot)
			if diff := cmp.Diff(once, twice, protocmp.Transform()); diff != "" {
				t.Errorf("twice is not once (-once +twice):\n%s", diff)
			}
		})
	}
}

func shuffled(r *rand.Rand, s translate.Snapshot) translate.Snapshot {
	shuffle := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
	s.Gateways, s.Services = slices.Clone(s.Gateways), slices.Clone(s.Services)
	shuffle(len(s.Gateways), func(i, j int) { s.Gateways[i], s.Gateways[j] = s.Gateways[j], s.Gateways[i] })
	shuffle(len(s.Services), func(i, j int) { s.Services[i], s.Services[j] = s.Services[j], s.Services[i] })
	s.Backends, s.Rules = slices.Clone(s.Backends), slices.Clone(s.Rules)
	shuffle(len(s.Backends), func(i, j int) { s.Backends[i], s.Backends[j] = s.Backends[j], s.Backends[i] })
	shuffle(len(s.Rules), func(i, j int) { s.Rules[i], s.Rules[j] = s.Rules[j], s.Rules[i] })
	for i := range s.Backends {
		ps := slices.Clone(s.Backends[i].Ports)
		shuffle(len(ps), func(a, b int) { ps[a], ps[b] = ps[b], ps[a] })
		s.Backends[i].Ports = ps
	}
	for i := range s.Rules {
		bs := slices.Clone(s.Rules[i].Backends)
		shuffle(len(bs), func(a, b int) { bs[a], bs[b] = bs[b], bs[a] })
		s.Rules[i].Backends = bs
	}
	for i := range s.Gateways {
		ls := slices.Clone(s.Gateways[i].Listeners)
		shuffle(len(ls), func(a, b int) { ls[a], ls[b] = ls[b], ls[a] })
		s.Gateways[i].Listeners = ls
	}
	for i := range s.Services {
		cs := slices.Clone(s.Services[i].Clusters)
		shuffle(len(cs), func(a, b int) { cs[a], cs[b] = cs[b], cs[a] })
		s.Services[i].Clusters = cs
	}
	return s
}

// FuzzPaths makes services of few letters, so that names clash, and checks that no path leads to two places, that
// each service has a path in each of its clusters, and that a plain path is what it says.
func FuzzPaths(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		label := func() string {
			parts := make([]string, 1+r.IntN(3))
			for i := range parts {
				parts[i] = string(rune('a' + r.IntN(2)))
			}
			return strings.Join(parts, "-")
		}
		s := translate.Snapshot{Cluster: "local", Gateways: []translate.Gateway{{
			Namespace: "default", Name: "eg", Tailnets: []translate.Tailnet{{Egress: translate.RouteTemplate{PathPrefix: "/cross-cluster/{service}-{cluster}"}}},
		}}}
		for range r.IntN(12) {
			svc := translate.Service{ID: federation.Service(label(), label())}
			for range r.IntN(4) {
				svc.Clusters = append(svc.Clusters, federation.ClusterID(label()))
			}
			s.Services = append(s.Services, svc)
		}
		in := translate.Resources{Routes: []*routev3.RouteConfiguration{{Name: "default/eg/http"}}}
		out, _ := translate.Translate(in, []translate.Policy{{Namespace: "default", Name: "p", Gateways: []string{"eg"}}}, s)
		targets := pathTargets(t, out)
		seen := map[federation.ServiceID]bool{}
		for _, svc := range s.Services {
			if seen[svc.ID] {
				continue
			}
			seen[svc.ID] = true
			if got := targets["/cross-cluster/"+svc.ID.Name+"."+svc.ID.Namespace]; got != translate.ClusterName(svc.ID) {
				t.Errorf("%v leads to %q", svc.ID, got)
			}
		}
		for path, target := range targets {
			if !strings.Contains(path, ".") && !plausible(s, strings.TrimPrefix(path, "/cross-cluster/"), target) {
				t.Errorf("%s leads to %s", path, target)
			}
		}
	})
}

// pathTargets returns where each path leads, and fails where one leads to two places.
func pathTargets(t *testing.T, r translate.Resources) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, vh := range r.Routes[0].GetVirtualHosts() {
		for _, route := range vh.GetRoutes() {
			for path, target := range leads(t, r.Routes[0], route) {
				if before, ok := out[path]; ok && before != target {
					t.Errorf("%s leads to %s and %s", path, before, target)
				}
				out[path] = target
			}
		}
	}
	return out
}

// leads returns the paths that a route of ours has, with the clusters that they lead to.
func leads(t testing.TB, rc *routev3.RouteConfiguration, route *routev3.Route) map[string]string {
	t.Helper()
	a := route.GetRoute()
	if a.GetClusterSpecifierPlugin() == "" {
		if a.GetCluster() == "" {
			return nil
		}
		return map[string]string{route.GetMatch().GetPathSeparatedPrefix(): a.GetCluster()}
	}
	var m specifierv3.MatcherClusterSpecifier
	if err := rc.GetClusterSpecifierPlugins()[0].GetExtension().GetTypedConfig().UnmarshalTo(&m); err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile("^(?:" + route.GetMatch().GetHeaders()[0].GetStringMatch().GetSafeRegex().GetRegex() + ")$")
	out := map[string]string{}
	for path, leaf := range m.GetClusterMatcher().GetMatcherTree().GetPrefixMatchMap().GetMap() {
		var to specifierv3.ClusterAction
		if err := leaf.GetAction().GetTypedConfig().UnmarshalTo(&to); err != nil {
			t.Fatal(err)
		}
		if paths.MatchString(path) {
			out[path] = to.GetCluster()
		}
	}
	return out
}

// plausible is the naive reading of a plain path: exactly one namespace has the name that the target has.
func plausible(s translate.Snapshot, text, target string) bool {
	for _, svc := range s.Services {
		if text == svc.ID.Name && target == translate.ClusterName(svc.ID) {
			return !slices.ContainsFunc(s.Services, func(o translate.Service) bool {
				return o.ID.Name == svc.ID.Name && o.ID.Namespace != svc.ID.Namespace
			})
		}
		for _, c := range svc.Clusters {
			if text == svc.ID.Name+"-"+string(c) && target == translate.ClusterNameIn(svc.ID, c) {
				return true
			}
		}
	}
	return false
}

func TestPolicyWithoutTargets(t *testing.T) {
	if _, err := translate.ParsePolicy([]byte(`{"metadata":{"name":"p"},"spec":{}}`)); err == nil {
		t.Error("a policy without targets was accepted")
	}
}
