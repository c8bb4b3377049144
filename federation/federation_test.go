package federation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
)

func TestClusterIDValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		id    federation.ClusterID
		valid bool
	}{
		"plain":          {"cluster1", true},
		"one-letter":     {"a", true},
		"inner-hyphen":   {"eu-west-1", true},
		"longest":        {federation.ClusterID(strings.Repeat("a", 63)), true},
		"empty":          {"", false},
		"too-long":       {federation.ClusterID(strings.Repeat("a", 64)), false},
		"upper-case":     {"Cluster1", false},
		"leading-hyphen": {"-a", false},
		"final-hyphen":   {"a-", false},
		"dot":            {"a.b", false},
		"umlaut":         {"müller", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.id.Validate()
			if (err == nil) != tc.valid || err != nil && !errors.Is(err, federation.ErrInvalidClusterID) {
				t.Errorf("Validate(%q) = %v, want valid %v", tc.id, err, tc.valid)
			}
		})
	}
}

func FuzzServiceIDRoundTrip(f *testing.F) {
	f.Add("default", "webapp", "")
	f.Add("infra", "main-gateway", "http")
	f.Fuzz(func(t *testing.T, namespace, name, listener string) {
		id := federation.Service(namespace, name)
		if listener != "" {
			id = federation.Listener(namespace, name, listener)
		}
		got, err := federation.ParseServiceID(id.String())
		if strings.Contains(namespace, "/") || namespace == "" || name == "" {
			return // no Kubernetes name
		}
		if err != nil || got != id {
			t.Errorf("ParseServiceID(%q) = %v, %v", id, got, err)
		}
	})
}

func TestParseServiceIDRefuses(t *testing.T) {
	for _, s := range []string{"", "Service", "Service/default", "Service//web", "Service/default/", "Pod/default/web"} {
		if id, err := federation.ParseServiceID(s); err == nil {
			t.Errorf("ParseServiceID(%q) = %v, want an error", s, id)
		}
	}
}

func TestHealthText(t *testing.T) {
	for _, h := range []federation.Health{federation.Healthy, federation.Degraded, federation.Unhealthy} {
		text, err := h.MarshalText()
		var got federation.Health
		if err2 := got.UnmarshalText(text); err != nil || err2 != nil || got != h {
			t.Errorf("%v became %q and then %v (%v, %v)", h, text, got, err, err2)
		}
	}
	if err := new(federation.Health).UnmarshalText([]byte("sick")); err == nil {
		t.Error("an unknown health was read without an error")
	}
}

func TestParseAppProtocol(t *testing.T) {
	for name, want := range map[string]federation.AppProtocol{
		"":                      federation.AppUnknown,
		"http":                  federation.AppHTTP,
		"HTTP":                  federation.AppHTTP,
		"kubernetes.io/ws":      federation.AppHTTP,
		"kubernetes.io/h2c":     federation.AppH2C,
		"grpc":                  federation.AppH2C,
		"http2":                 federation.AppH2C,
		"https":                 federation.AppHTTPS,
		"kubernetes.io/wss":     federation.AppHTTPS,
		"grpcs":                 federation.AppGRPCS,
		"tls":                   federation.AppTLS,
		"tcp":                   federation.AppTCP,
		"mysql":                 federation.AppUnknown,
		"example.com/my-custom": federation.AppUnknown,
	} {
		if got := federation.ParseAppProtocol(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	for a := federation.AppUnknown; a <= federation.AppTCP; a++ {
		if got := federation.ParseAppProtocol(a.String()); got != a {
			t.Errorf("%q comes back as %q", a, got)
		}
	}
	if s := federation.AppProtocol(99).String(); s != "AppProtocol(99)" {
		t.Errorf("an unknown one is called %q", s)
	}
}

// TestCompare has each type's values in their order; every pair must compare so, both ways.
func TestCompare(t *testing.T) {
	web, api, http := federation.Service("shop", "web"), federation.Service("shop", "api"), federation.Listener("infra", "main", "http")
	inOrder(t, "services", federation.ServiceID.Compare, http, federation.Service("blog", "web"), api, web)
	inOrder(t, "exports, the copies of a service together", federation.ExportKey.Compare,
		federation.ExportKey{Cluster: "c2", Service: api}, federation.ExportKey{Cluster: "c1", Service: web}, federation.ExportKey{Cluster: "c2", Service: web})
	inOrder(t, "ports", federation.Port.Compare,
		federation.Port{Name: "z", Port: 53, Protocol: federation.TCP}, federation.Port{Name: "a", Port: 53, Protocol: federation.UDP},
		federation.Port{Name: "b", Port: 53, Protocol: federation.UDP}, federation.Port{Name: "b", Port: 53, Protocol: federation.UDP, App: federation.AppTLS},
		federation.Port{Name: "a", Port: 80, Protocol: federation.TCP})
	inOrder(t, "targets", federation.Target.Compare,
		federation.Target{Cluster: "c1"}, federation.Target{Cluster: "c1", Service: api}, federation.Target{Cluster: "c1", Service: web}, federation.Target{Cluster: "c2"})
}

func inOrder[T any](t *testing.T, what string, compare func(a, b T) int, values ...T) {
	t.Helper()
	for i := range values {
		for j := range values {
			if got := compare(values[i], values[j]); sign(got) != sign(i-j) {
				t.Errorf("%s: %v against %v is %d", what, values[i], values[j], got)
			}
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

func TestNames(t *testing.T) {
	web := federation.Service("shop", "web")
	for _, tc := range []struct {
		value interface{ String() string }
		want  string
	}{
		{web, "Service/shop/web"},
		{federation.Listener("infra", "main", "http"), "Listener/infra/main/http"},
		{federation.ExportKey{Cluster: "c1", Service: web}, "c1/Service/shop/web"},
		{federation.Target{Cluster: "c1"}, "c1"},
		{federation.Target{Cluster: "c1", Service: web}, "c1/Service/shop/web"},
		{federation.Degraded, "degraded"},
		{federation.Health(9), "Health(9)"},
	} {
		if got := tc.value.String(); got != tc.want {
			t.Errorf("%#v is written %q, want %q", tc.value, got, tc.want)
		}
	}
	if gateway, listener := federation.Listener("infra", "main", "http").Gateway(); gateway != "main" || listener != "http" {
		t.Errorf("the listener is %q of the Gateway %q", listener, gateway)
	}
}

func TestInterest(t *testing.T) {
	web, api := federation.Service("shop", "web"), federation.Service("shop", "api")
	some := federation.Interest{Services: []federation.ServiceID{api}}
	for name, tc := range map[string]struct {
		in    federation.Interest
		wants []federation.ServiceID
	}{
		"nothing":    {federation.Interest{}, nil},
		"one":        {some, []federation.ServiceID{api}},
		"everything": {federation.Interest{All: true}, []federation.ServiceID{api, web}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, id := range []federation.ServiceID{api, web} {
				if got := tc.in.Wants(id); got != slices.Contains(tc.wants, id) {
					t.Errorf("wants %s: %v", id, got)
				}
			}
			if !tc.in.Equal(tc.in) || (name == "one") != tc.in.Equal(some) {
				t.Error("it is equal to what it is not, or not to itself")
			}
		})
	}
}

// TestEqualSeesEachField changes one field of an export at a time.
func TestEqualSeesEachField(t *testing.T) {
	make := func(edit func(*federation.Export)) federation.Export {
		x := federation.Export{
			Key: federation.ExportKey{Cluster: "c1", Service: federation.Service("shop", "web")}, Tailnet: "production", TailnetRef: "production-tailnet",
			Ports: []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}, Ready: 1, Desired: 2, Labels: map[string]string{"tier": "web"}, Federated: true,
		}
		edit(&x)
		return x
	}
	same := make(func(*federation.Export) {})
	if !same.Equal(make(func(*federation.Export) {})) {
		t.Error("two of the same are not equal")
	}
	for name, edit := range map[string]func(*federation.Export){
		"key":         func(x *federation.Export) { x.Key.Cluster = "c2" },
		"tailnet":     func(x *federation.Export) { x.Tailnet = "staging" },
		"tailnet-ref": func(x *federation.Export) { x.TailnetRef = "staging" },
		"ports":       func(x *federation.Export) { x.Ports[0].App = federation.AppH2C },
		"ready":       func(x *federation.Export) { x.Ready = 2 },
		"desired":     func(x *federation.Export) { x.Desired = 1 },
		"labels":      func(x *federation.Export) { x.Labels["tier"] = "db" },
		"federated":   func(x *federation.Export) { x.Federated = false },
		"weight":      func(x *federation.Export) { x.Weight = 2 },
		"pinned":      func(x *federation.Export) { x.ClusterPinned = true },
	} {
		if same.Equal(make(edit)) {
			t.Errorf("%s: the change is not seen", name)
		}
	}
}

func TestAVIPWithoutAClusterIsFederated(t *testing.T) {
	own := federation.VIP{Owner: federation.ExportKey{Cluster: "c1", Service: federation.Service("shop", "web")}}
	if own.Federated() || !(federation.VIP{Owner: federation.ExportKey{Service: own.Owner.Service}}).Federated() {
		t.Error("the VIP of an export is federated, or that of a service is not")
	}
}
