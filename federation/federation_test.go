package federation_test

import (
	"errors"
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
