package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/extension/certs"
)

var (
	start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	names = certs.Names{DNS: []string{"tailgate-eds", "spoke.tailgate.svc"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Proxy: "a-proxy"}
)

func renew(t *testing.T, b certs.Bundle, n certs.Names, now time.Time) (certs.Bundle, bool) {
	t.Helper()
	b, changed, err := certs.Renew(b, n, now)
	if err != nil {
		t.Fatal(err)
	}
	return b, changed
}

func leaf(t *testing.T, p certs.Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p.Cert)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRenew(t *testing.T) {
	whole, _ := renew(t, certs.Bundle{}, names, start)
	for _, tc := range []struct {
		name           string
		change         func(certs.Bundle) certs.Bundle
		names          certs.Names
		after          time.Duration
		ca, server, cl bool // which are new; of the proxies the client's says it as well
	}{
		{name: "nothing-to-do"},
		{name: "just-before-two-thirds", after: certs.LeafLifetime/3*2 - time.Hour},
		{name: "leaves-after-two-thirds", after: certs.LeafLifetime / 3 * 2, server: true, cl: true},
		{name: "ca-after-two-thirds", after: certs.CALifetime / 3 * 2, ca: true, server: true, cl: true},
		{name: "clock-before-issue", after: -time.Hour, ca: true, server: true, cl: true},
		{name: "other-names", names: certs.Names{DNS: []string{"tailgate-eds"}, Proxy: names.Proxy}, server: true},
		{name: "client-lost", change: func(b certs.Bundle) certs.Bundle { b.Client = certs.Pair{}; b.Proxy = certs.Pair{}; return b }, cl: true},
		{name: "server-broken", change: func(b certs.Bundle) certs.Bundle { b.Server.Key = []byte("x"); return b }, server: true},
		{name: "ca-lost", change: func(b certs.Bundle) certs.Bundle { b.CA = certs.Pair{}; return b }, ca: true, server: true, cl: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, n := whole, names
			if tc.change != nil {
				old = tc.change(old)
			}
			if len(tc.names.DNS) > 0 {
				n = tc.names
			}
			got, changed := renew(t, old, n, start.Add(tc.after))
			if want := tc.ca || tc.server || tc.cl; changed != want {
				t.Errorf("changed: got %v, want %v", changed, want)
			}
			for _, c := range []struct {
				what     string
				old, new certs.Pair
				want     bool
			}{{"ca", whole.CA, got.CA, tc.ca}, {"server", whole.Server, got.Server, tc.server}, {"client", whole.Client, got.Client, tc.cl}, {"proxy", whole.Proxy, got.Proxy, tc.cl}} {
				if isNew := !bytes.Equal(c.old.Cert, c.new.Cert); isNew != c.want {
					t.Errorf("%s new: got %v, want %v", c.what, isNew, c.want)
				}
			}
			pool, err := certs.Pool(got.Trust)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []certs.Pair{got.Server, got.Client, got.Proxy} {
				if _, err := leaf(t, p).Verify(x509.VerifyOptions{Roots: pool, CurrentTime: start.Add(tc.after), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
					t.Error(err)
				}
			}
			if again, changed := renew(t, got, n, start.Add(tc.after)); changed || !bytes.Equal(again.Trust, got.Trust) {
				t.Error("renewing twice changed something")
			}
		})
	}
}

func TestTrustOutlivesACA(t *testing.T) {
	old, _ := renew(t, certs.Bundle{}, names, start)
	now := start.Add(certs.CALifetime / 3 * 2)
	next, _ := renew(t, old, names, now)
	if !bytes.Contains(next.Trust, bytes.TrimSpace(old.CA.Cert)) {
		t.Error("the CA before is not trusted any more, so leaves of it fail until all parties are renewed")
	}
	last, _ := renew(t, next, names, now.Add(certs.CALifetime/3*2))
	if bytes.Contains(last.Trust, bytes.TrimSpace(old.CA.Cert)) {
		t.Error("an expired CA is still trusted")
	}
}

func TestShape(t *testing.T) {
	b, _ := renew(t, certs.Bundle{}, names, start)
	ca, server := leaf(t, b.CA), leaf(t, b.Server)
	if key, ok := server.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T", server.PublicKey)
	}
	if got := ca.NotAfter.Sub(start); got != certs.CALifetime {
		t.Errorf("CA lives %v", got)
	}
	if got := server.NotAfter.Sub(start); got != certs.LeafLifetime {
		t.Errorf("leaf lives %v", got)
	}
	for _, host := range []string{"tailgate-eds", "spoke.tailgate.svc", "127.0.0.1"} {
		if err := server.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := certs.Renew(certs.Bundle{}, certs.Names{}, start); err == nil {
		t.Error("a server without a name was issued")
	}
	if b, _ := renew(t, certs.Bundle{}, certs.Names{DNS: names.DNS}, start); b.Proxy.Cert != nil {
		t.Error("proxies without a name got a certificate")
	}
}

// TestHandshake checks who gets in, and that a renewed certificate is used without a restart.
func TestHandshake(t *testing.T) {
	now := time.Now()
	b, _ := renew(t, certs.Bundle{}, names, now)
	stranger, _ := renew(t, certs.Bundle{}, names, now)
	pool, err := certs.Pool(b.Trust)
	if err != nil {
		t.Fatal(err)
	}
	set := func(p certs.Pair) *certs.Live {
		l := new(certs.Live)
		if err := l.Set(p); err != nil {
			t.Fatal(err)
		}
		return l
	}
	server := set(b.Server)
	clients := pool
	serverConfig := certs.ServerConfig(server, func() *x509.CertPool { return clients }, certs.ClientName)
	shake := func(client *tls.Config) (*x509.Certificate, error) {
		a, z := net.Pipe()
		defer a.Close()
		defer z.Close()
		done := make(chan error, 1)
		go func() {
			err := tls.Server(z, serverConfig).Handshake()
			done <- err
			z.Close()
		}()
		c := tls.Client(a, client)
		err := c.Handshake()
		if err != nil {
			a.Close()
			<-done
			return nil, err
		}
		go func() { _, _ = c.Read(make([]byte, 1)) }() // takes what the server sends after its half of the handshake
		if err := <-done; err != nil {
			return nil, err
		}
		return c.ConnectionState().PeerCertificates[0], nil
	}
	good := certs.ClientConfig(set(b.Client), "tailgate-eds", pool)
	if _, err := shake(good); err != nil {
		t.Fatal(err)
	}
	if _, err := shake(certs.ClientConfig(set(stranger.Client), "tailgate-eds", pool)); err == nil {
		t.Error("a client of another CA got in")
	}
	if _, err := shake(certs.ClientConfig(set(b.Proxy), "tailgate-eds", pool)); err == nil {
		t.Error("a proxy got in where Envoy Gateway is expected")
	}
	if _, err := shake(&tls.Config{RootCAs: pool, ServerName: "tailgate-eds"}); err == nil {
		t.Error("a client without a certificate got in")
	}
	if _, err := shake(certs.ClientConfig(set(b.Client), "other", pool)); err == nil {
		t.Error("a server of another name was believed")
	}
	renewed := b
	renewed.Server = certs.Pair{}
	renewed, _ = renew(t, renewed, names, now)
	if err := server.Set(renewed.Server); err != nil {
		t.Fatal(err)
	}
	if got, err := shake(good); err != nil || !got.Equal(leaf(t, renewed.Server)) {
		t.Errorf("the renewed certificate is not used: %v", err)
	}
	if err := server.Set(certs.Pair{Cert: []byte("x")}); err == nil {
		t.Error("an invalid pair was accepted")
	}
	clients = nil
	if _, err := shake(good); err == nil {
		t.Error("with no pool a client got in")
	}
}
