package proxytls_test

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls/tlstest"
)

// shake has a spoke and a proxy shake hands, and returns what either says of it.
func shake(t *testing.T, spoke *tls.Config, proxy credentials.TransportCredentials) (spokeErr, proxyErr error) {
	t.Helper()
	a, z := net.Pipe()
	defer a.Close()
	done := make(chan error, 1)
	go func() {
		_, _, err := credentials.NewTLS(proxytls.Server(spoke)).ServerHandshake(z)
		done <- err
		z.Close()
	}()
	conn, _, proxyErr := proxy.ClientHandshake(t.Context(), "10.0.0.1:5007", a)
	if proxyErr == nil {
		_, _ = conn.Read(make([]byte, 1)) // takes what the spoke says after the proxy's half
	} else {
		a.Close()
	}
	return <-done, proxyErr
}

func TestWhoIsLetIn(t *testing.T) {
	ca, stranger := tlstest.NewCA(t), tlstest.NewCA(t)
	expired := tlstest.Proxy
	expired.Expired = true
	late := tlstest.Spoke
	late.Expired = true
	for name, tc := range map[string]struct {
		spokeOf         *tlstest.CA
		spoke, proxy    tlstest.Leaf
		proxyOf         *tlstest.CA
		byProxy, tellsS string // what the proxy and the spoke say of it, if they do not agree
	}{
		"proxy":                        {ca, tlstest.Spoke, tlstest.Proxy, ca, "", ""},
		"proxy-of-another-ca":          {ca, tlstest.Spoke, tlstest.Proxy, stranger, "", "unknown authority"},
		"envoy-gateway":                {ca, tlstest.Spoke, tlstest.EnvoyGateway, ca, "", "want one for tailgate-proxy"},
		"a-spoke-as-proxy":             {ca, tlstest.Spoke, tlstest.Spoke, ca, "", "incompatible key usage"},
		"expired-proxy":                {ca, tlstest.Spoke, expired, ca, "", "expired"},
		"spoke-of-another-ca":          {stranger, tlstest.Spoke, tlstest.Proxy, ca, "unknown authority", "bad certificate"},
		"somebody-else-at-its-address": {ca, tlstest.EnvoyGateway, tlstest.Proxy, ca, "tailgate-spoke", "bad certificate"},
		"expired-spoke":                {ca, late, tlstest.Proxy, ca, "expired", "bad certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			var live tlstest.Live
			live.Set(tc.spokeOf, tc.spoke, ca)
			dir := tc.proxyOf.Dir(tc.proxy)
			if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca.PEM, 0o600); err != nil {
				t.Fatal(err)
			}
			spokeErr, proxyErr := shake(t, live.Config(), proxytls.Client(dir))
			says(t, "spoke", spokeErr, tc.tellsS)
			says(t, "proxy", proxyErr, tc.byProxy)
		})
	}
}

// says checks an error's text; an empty one stands for no error.
func says(t *testing.T, who string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("the %s says %v, want %q", who, err, want)
	}
}

func TestFilesAreReadForEachHandshake(t *testing.T) {
	old, next := tlstest.NewCA(t), tlstest.NewCA(t)
	var live tlstest.Live
	live.Set(old, tlstest.Spoke, old)
	dir := old.Dir(tlstest.Proxy)
	proxy := proxytls.Client(dir)
	both := func() error {
		spokeErr, proxyErr := shake(t, live.Config(), proxy)
		if spokeErr != nil {
			return spokeErr
		}
		return proxyErr
	}
	if err := both(); err != nil {
		t.Fatal(err)
	}
	live.Set(next, tlstest.Spoke, next)
	if err := both(); err == nil {
		t.Error("certificates of another CA were taken")
	}
	next.Write(dir, tlstest.Proxy)
	if err := both(); err != nil {
		t.Errorf("after the files were replaced: %v", err)
	}
}

func TestBadFilesSayWhatIsWrong(t *testing.T) {
	ca := tlstest.NewCA(t)
	for name, tc := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"no-directory":   {os.RemoveAll, "read the proxy's certificate in"},
		"no-key":         {func(dir string) error { return os.Remove(filepath.Join(dir, "tls.key")) }, "tls.key"},
		"no-ca":          {func(dir string) error { return os.Remove(filepath.Join(dir, "ca.crt")) }, "ca.crt"},
		"something-else": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o600) }, "no certificate in"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ca.Dir(tlstest.Proxy)
			if err := proxytls.Check(dir); err != nil {
				t.Fatal(err)
			}
			if err := tc.change(dir); err != nil {
				t.Fatal(err)
			}
			if err := proxytls.Check(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
