package vip_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 60)
	for name, tc := range map[string]struct {
		export        federation.Export
		name, service string
	}{
		"service":          {export("cluster2", federation.Service("default", "webapp"), 80), "local-production-webapp", "local-production-webapp-cluster2"},
		"listener":         {export("cluster2", federation.Listener("infra", "main-gateway", "http"), 80), "gateway-main-gateway-http-80", "gateway-main-gateway-http-80-cluster2"},
		"too-long":         {export("c", federation.Service("default", long), 80), "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-eec2f2f0", "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-1bf7f1ef"},
		"too-long-service": {export("c", federation.Service("default", strings.Repeat("a", 46)), 80), "local-production-" + strings.Repeat("a", 46), "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-97f6f6e5"},
		"cut-at-a-dash":    {export("c", federation.Service("default", strings.Repeat("a", 36)+"-bcdefghijkl"), 80), "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-b9c62b15", "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-0af01e9d"},
		"dots":             {export("c", federation.Service("default", "web.v2"), 80), "local-production-web-v2-95dcd3d2", "local-production-web-v2-c-bbe2f4db"},
		"runs-of-dots":     {export("c", federation.Service("default", "web...v2."), 80), "local-production-web-v2-8fe3e304", "local-production-web-v2-c-60d7ffaf"},
		"dashes-are-kept":  {export("c", federation.Service("default", "web--v2"), 80), "local-production-web--v2", "local-production-web--v2-c"},
		"capitals":         {export("c", federation.Service("default", "Web"), 80), "local-production-web-13da8c0c", "local-production-web-c-9941f29a"},
		"accents":          {export("c", federation.Service("default", "café-bar"), 80), "local-production-caf--bar-", ""},
		"no-ascii-at-all":  {export("c", federation.Service("default", "日本語のサービス"), 80), "local-production-", ""},
		"no-utf-8":         {export("c", federation.Service("default", "a\xff\xfe\xfdb"), 80), "local-production-a-b-", ""},
		"small-by-unicode": {export("c", federation.Service("default", "\u212Aelvin"), 80), "local-production-elvin-", ""}, // Kelvin sign, k in lower case
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{Quarantine: quarantine})
			e := claim(t, r, tc.export)
			if tc.service == "" { // the rest is the hash
				rest, ok := strings.CutPrefix(e.Name, tc.name)
				if !ok || len(rest) != 8 || strings.Contains(rest, "-") || !strings.HasPrefix(e.ServiceName, tc.name+"c-") {
					t.Errorf("names %q and %q, want %q with a hash", e.Name, e.ServiceName, tc.name)
				}
			} else if e.Name != tc.name || e.ServiceName != tc.service {
				t.Errorf("names %q and %q, want %q and %q", e.Name, e.ServiceName, tc.name, tc.service)
			}
			check(t, r)
		})
	}
}

func TestClashes(t *testing.T) {
	in := func(tailnet string, x federation.Export) federation.Export {
		x.Tailnet = tailnet
		return x
	}
	for name, tc := range map[string]struct {
		claims []federation.Export
		want   []string // ServiceNames; empty for ErrNameTaken
	}{
		"namespaces": {
			[]federation.Export{export("c1", federation.Service("default", "webapp"), 80), export("c1", federation.Service("shop", "webapp"), 80)},
			[]string{"local-production-webapp-c1", "local-production-shop-webapp-c1"},
		},
		"clusters-do-not-clash": {
			[]federation.Export{export("c1", federation.Service("default", "webapp"), 80), export("c2", federation.Service("default", "webapp"), 80)},
			[]string{"local-production-webapp-c1", "local-production-webapp-c2"},
		},
		"listeners": {
			[]federation.Export{export("c1", federation.Listener("a", "gw", "http"), 80), export("c1", federation.Listener("b", "gw", "http"), 80)},
			[]string{"gateway-gw-http-80-c1", "gateway-b-gw-http-80-c1"},
		},
		"gateway-and-listener-run-together": {
			[]federation.Export{export("c1", federation.Listener("a", "gw-x", "y"), 80), export("c1", federation.Listener("a", "gw", "x-y"), 80)},
			[]string{"gateway-gw-x-y-80-c1", "gateway-a-gw-x-y-80-c1"},
		},
		"tailnet-and-service-run-together": {
			[]federation.Export{in("p-x", export("c1", federation.Service("a", "y"), 80)), in("p", export("c1", federation.Service("a", "x-y"), 80))},
			[]string{"local-p-x-y-c1", "local-p-a-x-y-c1"},
		},
		"service-and-cluster-run-together": {
			[]federation.Export{export("x-c1", federation.Service("a", "y"), 80), export("c1", federation.Service("a", "y-x"), 80)},
			[]string{"local-production-y-x-c1", "local-production-a-y-x-c1"},
		},
		"capitals-and-dots-differ-by-hash": {
			[]federation.Export{export("c1", federation.Service("a", "web-v2"), 80), export("c1", federation.Service("a", "Web-v2"), 80), export("c1", federation.Service("a", "web.v2"), 80)},
			[]string{"local-production-web-v2-c1", "local-production-web-v2-c1-cb209bb4", "local-production-web-v2-c1-90877404"},
		},
		"both-names-taken": {
			[]federation.Export{export("c1", federation.Service("m", "a"), 80), export("c1", federation.Service("m", "n-a"), 80), export("c1", federation.Service("n", "a"), 80)},
			[]string{"local-production-a-c1", "local-production-n-a-c1", ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{Quarantine: quarantine})
			for i, x := range tc.claims {
				changes, err := r.PlanClaim(x)
				if want := tc.want[i]; want == "" {
					if len(changes) > 0 || !errors.Is(err, vip.ErrNameTaken) || !strings.Contains(err.Error(), "rename") {
						t.Errorf("%s: %v, %v, want ErrNameTaken that says what to do", x.Key, changes, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				r.Apply(changes)
				if e, _ := r.Get(x.Key); e.ServiceName != tc.want[i] {
					t.Errorf("%s is %q, want %q", x.Key, e.ServiceName, tc.want[i])
				}
			}
			check(t, r)
		})
	}
}

func TestANameIsKeptWhenItsClashIsGone(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	first, second := export("c1", federation.Service("default", "webapp"), 80), export("c1", federation.Service("shop", "webapp"), 80)
	claim(t, r, first)
	had := claim(t, r, second)
	r.Apply(r.PlanRelease(first.Key, start))
	r.Apply(r.PlanExpire(start.Add(quarantine)))
	second.Ports[0].Port = 81
	if e := claim(t, r, second); e.ServiceName != had.ServiceName || e.Name != had.Name {
		t.Errorf("renamed from %q to %q", had.ServiceName, e.ServiceName)
	}
	check(t, r)
}

func TestAListenersNameIsKeptWhenItsPortChanges(t *testing.T) {
	r := vip.New(vip.Options{})
	claim(t, r, export("c1", federation.Listener("infra", "gw", "http"), 80))
	if e := claim(t, r, export("c1", federation.Listener("infra", "gw", "http"), 8080)); e.Name != "gateway-gw-http-80" || e.Ports[0].Port != 8080 {
		t.Errorf("got %q with %v", e.Name, e.Ports)
	}
}

// FuzzNames claims two exports, whatever they are called: their names are labels and differ, they are the same in another
// registry, and they stay when the other export is gone.
func FuzzNames(f *testing.F) {
	f.Add("production", "default", "webapp", "c1", "production", "shop", "webapp", "c1", false)
	f.Add("p", "a", "gw/x-y", "c1", "p", "a", "gw-x/y", "c1", true)
	f.Add("p-x", "a", "y", "c1", "p", "a", "x-y", "c1", false)
	f.Add("P", "", "日本語", "c1", "p", "", "日本", "c1", false)
	f.Add("", "", "", "c1", "", "", "-", "c1", false)
	f.Add("\xff", "n", "...", "c1", "\xfe", "n", "----", "c2", true)
	f.Add("t", "n", strings.Repeat("a", 80), "c1", "t", "n", strings.Repeat("a", 81), strings.Repeat("c", 63), false)
	f.Fuzz(func(t *testing.T, tailnet, namespace, name, cluster, tailnet2, namespace2, name2, cluster2 string, listener bool) {
		kind := federation.KindService
		if listener {
			kind = federation.KindListener
		}
		one := export(federation.ClusterID(cluster), federation.ServiceID{Kind: kind, Namespace: namespace, Name: name}, 80)
		two := export(federation.ClusterID(cluster2), federation.ServiceID{Kind: kind, Namespace: namespace2, Name: name2}, 80)
		one.Tailnet, two.Tailnet, one.Federated, two.Federated = tailnet, tailnet2, true, true
		if one.Key.Cluster.Validate() != nil || two.Key.Cluster.Validate() != nil {
			t.Skip("no cluster ids")
		}
		claimBoth := func() (*vip.Registry, []vip.Entry) {
			r := vip.New(vip.Options{})
			for _, x := range []federation.Export{one, two} {
				changes, err := r.PlanClaim(x)
				if err != nil {
					t.Fatalf("two exports cannot clash with and without the namespace: %v", err)
				}
				r.Apply(changes)
				if changes, err = r.PlanClaimFederated(x.Key.Service, []federation.Export{x}); err != nil {
					t.Fatal(err)
				}
				r.Apply(changes)
			}
			return r, r.Entries()
		}
		r, entries := claimBoth()
		names := map[string]bool{}
		for _, e := range entries {
			names[e.ServiceName] = true
			if !federation.IsLabel(e.Name) || !federation.IsLabel(e.ServiceName) {
				t.Errorf("%s: %q and %q are no labels", e.Owner, e.Name, e.ServiceName)
			}
		}
		owners := map[federation.ExportKey]bool{one.Key: true, two.Key: true, {Service: one.Key.Service}: true, {Service: two.Key.Service}: true}
		if len(names) != len(owners) {
			t.Errorf("%d owners have %d names: %v", len(owners), len(names), names)
		}
		if _, again := claimBoth(); len(again) != len(entries) || again[0].ServiceName != entries[0].ServiceName || again[len(again)-1].ServiceName != entries[len(entries)-1].ServiceName {
			t.Error("the same claims gave other names")
		}
		if had, _ := r.Get(two.Key); one.Key != two.Key {
			r.Apply(r.PlanRelease(one.Key, start))
			r.Apply(r.PlanExpire(start))
			if e := claim(t, r, two); e.ServiceName != had.ServiceName {
				t.Errorf("renamed from %q to %q when the other was gone", had.ServiceName, e.ServiceName)
			}
		}
		check(t, r)
	})
}
