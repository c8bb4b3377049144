package translate_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// tcpListener has a filter chain for each cluster.
func tcpListener(t *testing.T, clusters ...string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{Name: "default/eg/tcp"}
	for _, c := range clusters {
		config, err := anypb.New(&tcpproxyv3.TcpProxy{
			StatPrefix: "kept", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: c},
		})
		if err != nil {
			t.Fatal(err)
		}
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			Name: c, Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.tcp_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config}}},
		})
	}
	return l
}

// chains says where each filter chain leads.
func chains(t *testing.T, l *listenerv3.Listener) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, chain := range l.GetFilterChains() {
		p := new(tcpproxyv3.TcpProxy)
		if err := chain.GetFilters()[0].GetTypedConfig().UnmarshalTo(p); err != nil {
			t.Fatal(err)
		}
		if p.GetStatPrefix() != "kept" {
			t.Errorf("%s has lost what Envoy Gateway said: %v", chain.GetName(), p)
		}
		text := []string{p.GetCluster()}
		for _, c := range p.GetWeightedClusters().GetClusters() {
			text = append(text, fmt.Sprint(c.GetWeight(), " ", c.GetName()))
		}
		out[chain.GetName()] = strings.Trim(strings.Join(text, ", "), ", ")
	}
	return out
}

// connectionRule is a rule of a route in namespace default.
func connectionRule(kind, name string, backends ...translate.RuleBackend) translate.Rule {
	for i := range backends {
		if backends[i].Namespace == "" {
			backends[i].Namespace = "default"
		}
	}
	return translate.Rule{Kind: kind, Namespace: "default", Name: name, Backends: backends}
}

func TestConnections(t *testing.T) {
	web := translate.RuleBackend{Custom: true, Name: "web", Port: 443, Weight: 2}
	svc := translate.RuleBackend{Name: "svc", Port: 80, Weight: 5}
	denied := translate.RuleBackend{Custom: true, Namespace: "closed", Name: "web", Port: 443, Weight: 1, Denied: true}
	for _, tt := range []struct {
		name  string
		rules []translate.Rule
		// want is where the chain of route r leads; that of another route never leads elsewhere.
		want, note string
	}{
		{"not-ours", []translate.Rule{connectionRule("TCPRoute", "r", svc)}, "tcproute/default/r/rule/-1", ""},
		{"one", []translate.Rule{connectionRule("TCPRoute", "r", web)}, "tsgw/connections/default/web/443", ""},
		{"of-another-kind", []translate.Rule{connectionRule("TLSRoute", "r", web)}, "tcproute/default/r/rule/-1", ""},
		{"mixed", []translate.Rule{connectionRule("TCPRoute", "r", svc, web)}, "5 tcproute/default/r/rule/-1, 2 tsgw/connections/default/web/443", ""},
		{"twice-the-same", []translate.Rule{connectionRule("TCPRoute", "r", web, web)}, "tsgw/connections/default/web/443", ""},
		{"several-rules", []translate.Rule{connectionRule("TCPRoute", "r", svc), connectionRule("TCPRoute", "r", web)},
			"5 tcproute/default/r/rule/-1, 2 tsgw/connections/default/web/443", ""},
		{"denied", []translate.Rule{connectionRule("TCPRoute", "r", denied, web)}, "1 invalid-backend-cluster, 2 tsgw/connections/default/web/443",
			"tcproute/default/r: TailscaleEndpoints closed/web is in another namespace, and no ReferenceGrant there allows a TCPRoute of this one to refer to it; its share of the traffic is refused"},
		{"all-denied", []translate.Rule{connectionRule("TCPRoute", "r", denied)}, "tcproute/default/r/rule/-1",
			"tcproute/default/r: TailscaleEndpoints closed/web is in another namespace, and no ReferenceGrant there allows a TCPRoute of this one to refer to it; its share of the traffic is refused"},
		{"no-port-said", []translate.Rule{connectionRule("TCPRoute", "r", svc, translate.RuleBackend{Custom: true, Name: "two", Weight: 1})},
			"5 tcproute/default/r/rule/-1, 1 invalid-backend-cluster",
			"tcproute/default/r: TailscaleEndpoints default/two has the ports 1, 2: the backendRef must say which; its share of the traffic is refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := tcpListener(t, "tcproute/default/r/rule/-1", "tcproute/default/other/rule/-1")
			before := proto.CloneOf(l)
			in := translate.Resources{Listeners: []*listenerv3.Listener{l}, Clusters: []*clusterv3.Cluster{{Name: "tcproute/default/r/rule/-1"}}}
			s := translate.Snapshot{Cluster: "c1", Rules: tt.rules, Backends: []translate.Backend{
				{Namespace: "default", Name: "web", Ports: []translate.BackendPort{{Port: 443, App: federation.AppHTTPS}}},
				{Namespace: "closed", Name: "web", Ports: []translate.BackendPort{{Port: 443}}},
				{Namespace: "default", Name: "two", Ports: []translate.BackendPort{{Port: 2}, {Port: 1}}},
			}}
			out, notes := translate.Translate(in, nil, s)
			want := map[string]string{"tcproute/default/r/rule/-1": tt.want, "tcproute/default/other/rule/-1": "tcproute/default/other/rule/-1"}
			if diff := cmp.Diff(want, chains(t, out.Listeners[0])); diff != "" {
				t.Error(diff)
			}
			var text []string
			for _, n := range notes {
				text = append(text, n.Item+": "+n.Text)
			}
			if got := strings.Join(text, "\n"); got != tt.note {
				t.Errorf("notes %q, want %q", got, tt.note)
			}
			if diff := cmp.Diff(before, l, protocmp.Transform()); diff != "" {
				t.Errorf("the input was changed: %s", diff)
			}
			for name := range strings.FieldsSeq(tt.want) {
				name = strings.TrimSuffix(name, ",")
				if strings.HasPrefix(name, translate.Prefix) && !slices.ContainsFunc(out.Clusters, func(c *clusterv3.Cluster) bool { return c.GetName() == name }) {
					t.Errorf("there is no cluster %s", name)
				}
			}
		})
	}
}

// TestWithoutListeners tells the user what to do where Envoy Gateway does not show its listeners.
func TestWithoutListeners(t *testing.T) {
	in := translate.Resources{Clusters: []*clusterv3.Cluster{{Name: "tcproute/default/r/rule/-1"}}}
	s := translate.Snapshot{Cluster: "c1", Rules: []translate.Rule{
		connectionRule("TCPRoute", "r", translate.RuleBackend{Custom: true, Name: "web", Weight: 1}),
		connectionRule("TCPRoute", "of-another-gateway", translate.RuleBackend{Custom: true, Name: "web", Weight: 1}),
	}}
	_, notes := translate.Translate(in, nil, s)
	if len(notes) != 1 || notes[0].Item != "tcproute/default/r" || !strings.Contains(notes[0].Text, "listener.includeAll must be true") {
		t.Errorf("notes %v", notes)
	}
}

// TestDatagramShares counts the clients' ports that go to each share.
func TestDatagramShares(t *testing.T) {
	match := func(regex, port string) bool { return regexp.MustCompile("^(?:" + regex + ")$").MatchString(port) }
	for _, weights := range [][]uint32{{1}, {1, 1}, {1, 3}, {1, 1, 1}, {99, 1}, {1, 999}, {10, 20, 30, 40}, {1 << 30, 1 << 30, 1 << 30}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			total := uint64(0)
			for _, w := range weights {
				total += uint64(w)
			}
			got := make([]float64, len(weights))
			const first, last = 32000, 32999
			for port := first; port <= last; port++ {
				i, err := strconv.Atoi(translate.Ending(weights, match, strconv.Itoa(port)))
				if err != nil {
					t.Fatal(err)
				}
				got[i]++
			}
			for i, n := range got {
				want := float64(weights[i]) / float64(total)
				if have := n / (last - first + 1); have < want-0.01 || have > want+0.01 {
					t.Errorf("share %d has %.2f of the ports, want %.2f", i, have, want)
				}
			}
		})
	}
}
