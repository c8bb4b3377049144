package vip_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

func sharing(cluster federation.ClusterID, id federation.ServiceID, tailnet string, ports ...federation.Port) federation.Export {
	return federation.Export{Key: federation.ExportKey{Cluster: cluster, Service: id}, Tailnet: tailnet, TailnetRef: tailnet + "-ref", Ports: ports, Federated: true}
}

func port(name string, number uint16, p federation.Protocol) federation.Port {
	return federation.Port{Name: name, Port: number, Protocol: p}
}

func TestFederated(t *testing.T) {
	http, dns := port("http", 80, federation.TCP), port("dns", 53, federation.UDP)
	for name, tc := range map[string]struct {
		id      federation.ServiceID
		exports []federation.Export
		want    federation.VIP
	}{
		"one": {
			webapp, []federation.Export{sharing("c1", webapp, "p", http)},
			federation.VIP{Name: "federated-p-webapp", Tailnet: "p", Ports: []federation.Port{http}},
		},
		"the-first-cluster-gives-tailnet-and-port-names": {
			webapp, []federation.Export{sharing("c2", webapp, "q", port("web", 80, federation.TCP), port("dns", 53, federation.TCP)), sharing("c1", webapp, "p", dns, http)},
			federation.VIP{Name: "federated-p-webapp", Tailnet: "p", Ports: []federation.Port{port("dns", 53, federation.TCP), dns, http}},
		},
		"those-that-do-not-ask-do-not-count": {
			webapp, []federation.Export{export("c0", webapp, 8080), sharing("c1", webapp, "p", http), sharing("c0", another, "q", dns)},
			federation.VIP{Name: "federated-p-webapp", Tailnet: "p", Ports: []federation.Port{http}},
		},
		"listener": {
			federation.Listener("infra", "gw", "http"), []federation.Export{sharing("c1", federation.Listener("infra", "gw", "http"), "p", http)},
			federation.VIP{Name: "federated-p-gw-http", Tailnet: "p", Ports: []federation.Port{http}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := tc.want
			want.Owner, want.ServiceName, want.TailnetRef = federation.ExportKey{Service: tc.id}, want.Name, want.Tailnet+"-ref"
			for range 2 { // in any order
				slices.Reverse(tc.exports)
				r := vip.New(vip.Options{Epoch: 4})
				changes, err := r.PlanClaimFederated(tc.id, tc.exports)
				if err != nil {
					t.Fatal(err)
				}
				r.Apply(changes)
				e, _ := r.Get(want.Owner)
				if d := cmp.Diff(vip.Entry{VIP: want, Epoch: 4}, e, addrs); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				if !e.Federated() {
					t.Error("it is not federated")
				}
				if changes, err := r.PlanClaimFederated(tc.id, tc.exports); err != nil || len(changes) > 0 {
					t.Errorf("again: %v, %v", changes, err)
				}
				check(t, r)
			}
		})
	}
}

func TestFederatedNeedsSomebodyThatAsks(t *testing.T) {
	r := vip.New(vip.Options{})
	for what, exports := range map[string][]federation.Export{
		"nobody": nil, "nobody asks": {export("c1", webapp, 80)}, "no port": {sharing("c1", webapp, "p")},
	} {
		_, err := r.PlanClaimFederated(webapp, exports)
		wantError(t, what, err, vip.ErrNoPorts, webapp.String())
	}
}

func TestFederatedLivesBesideItsMembers(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	shop := federation.Service("shop", "webapp")
	http := port("http", 80, federation.TCP)
	claimed := func(id federation.ServiceID, exports ...federation.Export) vip.Entry {
		t.Helper()
		changes, err := r.PlanClaimFederated(id, exports)
		if err != nil {
			t.Fatal(err)
		}
		r.Apply(changes)
		e, _ := r.Get(federation.ExportKey{Service: id})
		return e
	}
	claim(t, r, sharing("c2", webapp, "p", http))
	first := claimed(webapp, sharing("c2", webapp, "p", http))
	assign(t, r, first.ServiceName, "100.100.0.1")
	if e := claimed(shop, sharing("c2", shop, "p", http)); e.ServiceName != "federated-p-shop-webapp" {
		t.Errorf("a clash gives %q", e.ServiceName)
	}
	// A cluster that comes first joins from another tailnet: the VIP stays where it is while somebody is there.
	if e := claimed(webapp, sharing("c2", webapp, "p", http), sharing("c1", webapp, "q", port("", 81, federation.TCP))); e.Tailnet != "p" || len(e.Ports) != 2 {
		t.Errorf("the VIP went to %q with %v", e.Tailnet, e.Ports)
	}
	if e := claimed(webapp, sharing("c1", webapp, "q", http)); e.Tailnet != "q" || e.TailnetRef != "q-ref" || e.ServiceName != first.ServiceName {
		t.Errorf("nobody is left there, and the VIP is %q in %q", e.ServiceName, e.Tailnet)
	}
	r.Apply(r.PlanRelease(federation.ExportKey{Service: webapp}, start))
	if e, _ := r.Named(first.ServiceName); !e.ReleasedAt.Equal(start) {
		t.Errorf("released at %v", e.ReleasedAt)
	}
	if e := claimed(webapp, sharing("c2", webapp, "p", http)); !e.ReleasedAt.IsZero() || len(e.Addrs) != 1 {
		t.Errorf("it came back as %+v", e)
	}
	check(t, r)
}
