// Package tlstest is test equipment: a CA, and the certificates that a spoke and its proxies show one another.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
)

// CA signs certificates.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// PEM is its own certificate.
	PEM []byte
}

// NewCA returns a new one.
func NewCA(t testing.TB) *CA {
	t.Helper()
	request := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, request, request, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{t: t, cert: cert, key: key, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Pool trusts the CA.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// Leaf says what a certificate is like.
type Leaf struct {
	// Name is its DNS name.
	Name string
	// Usage is what it may be used for.
	Usage x509.ExtKeyUsage
	// Expired makes it one that was valid until a minute ago.
	Expired bool
}

// Spoke is a spoke's certificate, Proxy a proxy's, and EnvoyGateway one of the same CA for somebody else.
var (
	Spoke        = Leaf{Name: proxytls.SpokeName, Usage: x509.ExtKeyUsageServerAuth}
	Proxy        = Leaf{Name: proxytls.ProxyName, Usage: x509.ExtKeyUsageClientAuth}
	EnvoyGateway = Leaf{Name: "envoy-gateway", Usage: x509.ExtKeyUsageClientAuth}
)

// Issue signs a certificate and returns it with its key, both PEM.
func (c *CA) Issue(l Leaf) (cert, key []byte) {
	c.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		c.t.Fatal(err)
	}
	request := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: l.Name}, DNSNames: []string{l.Name}, ExtKeyUsage: []x509.ExtKeyUsage{l.Usage},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if l.Expired {
		request.NotAfter = time.Now().Add(-time.Minute)
	}
	private := newKey(c.t)
	der, err := x509.CreateCertificate(rand.Reader, request, c.cert, private.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		c.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// Dir returns a directory as --tls-dir has it: a leaf of the CA, and the CA itself as the one to trust.
func (c *CA) Dir(l Leaf) string {
	c.t.Helper()
	dir := c.t.TempDir()
	c.Write(dir, l)
	return dir
}

// Write replaces the files of a directory.
func (c *CA) Write(dir string, l Leaf) {
	c.t.Helper()
	cert, key := c.Issue(l)
	for name, data := range map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": c.PEM} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Live are a spoke's certificate and its trust, which can be replaced.
type Live struct {
	cert atomic.Pointer[tls.Certificate]
	pool atomic.Pointer[x509.CertPool]
}

// Set replaces both: a leaf of one CA, and the CA whose leaves are trusted.
func (l *Live) Set(of *CA, leaf Leaf, trust *CA) {
	of.t.Helper()
	cert, key := of.Issue(leaf)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		of.t.Fatal(err)
	}
	l.cert.Store(&pair)
	l.pool.Store(trust.Pool())
}

// Config are the settings of a listener, in the shape of the extension's: a function chooses for each handshake.
func (l *Live) Config() *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.cert.Load(), nil },
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = l.pool.Load()
		return c, nil
	}
	return base
}
