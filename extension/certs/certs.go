// Package certs makes and renews the certificates by which Envoy Gateway, Envoy and the extension know one another.
//
// Its functions are pure but for the random numbers of new keys: PEM and the time in, PEM out. Where the PEM is kept
// is the caller's business.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// How long certificates are valid. Each is renewed when two thirds of its time are over.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	LeafLifetime = 90 * 24 * time.Hour
	// skew is how far a clock that checks may be behind the one that issued.
	skew = 5 * time.Minute
)

// ErrInvalidPEM reports PEM that holds no usable certificate or key.
var ErrInvalidPEM = errors.New("invalid PEM")

// Pair is a certificate with its private key, both PEM.
type Pair struct{ Cert, Key []byte }

// Bundle is all that the extension's parties need.
type Bundle struct {
	// CA signs; its key never leaves whoever keeps the bundle.
	CA Pair
	// Trust are the CA certificates that verify leaves: the CA's and, after a change of CA, the one before.
	Trust []byte
	// Server is for the hook server and the endpoint discovery server, Client for Envoy Gateway, and Proxy for the proxies,
	// which are clients of another server that shows Server as well.
	Server, Client, Proxy Pair
}

// ClientName is the DNS name in Envoy Gateway's certificate.
const ClientName = "envoy-gateway"

// Names are the names that the server is called by.
type Names struct {
	// DNS must hold the host name in Envoy Gateway's settings and the SNI of the bootstrap.
	DNS []string
	IPs []net.IP
	// Proxy is what the proxies' certificate calls them; where it is empty they get none.
	Proxy string
}

// Renew returns the bundle with everything that is missing, unreadable, too old or not for these names made anew,
// and whether anything was. The zero bundle becomes a whole one. The server's names must not be empty.
func Renew(b Bundle, names Names, now time.Time) (Bundle, bool, error) {
	if len(names.DNS) == 0 && len(names.IPs) == 0 {
		return b, false, errors.New("issue server certificate: no DNS name or IP address is given")
	}
	changed := false
	ca, err := parse(b.CA)
	if err != nil || !ca.cert.IsCA || due(ca.cert, now) {
		trust := stillValid(b.Trust, now)
		if b.CA, err = newCA(now); err != nil {
			return b, false, err
		}
		if ca, err = parse(b.CA); err != nil {
			return b, false, err
		}
		b.Trust = append(bytes.Clone(b.CA.Cert), trust...)
		changed = true
	} else if !bytes.Contains(b.Trust, bytes.TrimSpace(b.CA.Cert)) {
		b.Trust = append(bytes.Clone(b.CA.Cert), stillValid(b.Trust, now)...)
		changed = true
	}
	for _, leaf := range []struct {
		pair    *Pair
		request x509.Certificate
	}{
		{&b.Server, x509.Certificate{
			Subject: pkix.Name{CommonName: "tailgate-extension"}, DNSNames: names.DNS, IPAddresses: names.IPs,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}},
		{&b.Client, x509.Certificate{
			Subject: pkix.Name{CommonName: "tailgate-envoy-gateway"}, DNSNames: []string{ClientName},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}},
		{&b.Proxy, x509.Certificate{
			Subject: pkix.Name{CommonName: names.Proxy}, DNSNames: []string{names.Proxy},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}},
	} {
		if good(*leaf.pair, leaf.request, ca, now) || leaf.pair == &b.Proxy && names.Proxy == "" {
			continue
		}
		if *leaf.pair, err = issue(ca, leaf.request, now); err != nil {
			return b, false, err
		}
		changed = true
	}
	return b, changed, nil
}

// Pool returns the certificates of PEM as a pool.
func Pool(certs []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certs) {
		return nil, fmt.Errorf("%w: no CA certificate", ErrInvalidPEM)
	}
	return pool, nil
}

// Certificate returns the pair for a [tls.Config].
func (p Pair) Certificate() (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidPEM, err)
	}
	return &c, nil
}

// signer is a parsed [Pair].
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func parse(p Pair) (signer, error) {
	c, err := p.Certificate()
	if err != nil {
		return signer{}, err
	}
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return signer{}, fmt.Errorf("%w: the key is not ECDSA", ErrInvalidPEM)
	}
	return signer{c.Leaf, key}, nil
}

func newCA(now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generate CA key: %w", err)
	}
	request := x509.Certificate{
		Subject: pkix.Name{CommonName: "tailgate-extension-ca"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: now.Add(-skew), NotAfter: now.Add(CALifetime),
	}
	return sign(request, signer{&request, key}, key)
}

func issue(ca signer, request x509.Certificate, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generate key: %w", err)
	}
	request.KeyUsage = x509.KeyUsageDigitalSignature
	request.BasicConstraintsValid = true
	request.NotBefore, request.NotAfter = now.Add(-skew), now.Add(LeafLifetime)
	if request.NotAfter.After(ca.cert.NotAfter) {
		request.NotAfter = ca.cert.NotAfter
	}
	return sign(request, ca, key)
}

func sign(request x509.Certificate, by signer, key *ecdsa.PrivateKey) (Pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, fmt.Errorf("generate serial number: %w", err)
	}
	request.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, &request, by.cert, key.Public(), by.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate of %s: %w", request.Subject.CommonName, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode key of %s: %w", request.Subject.CommonName, err)
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// good reports whether a leaf may stay: signed by the CA, not due, and for the names that are asked for.
func good(p Pair, request x509.Certificate, ca signer, now time.Time) bool {
	leaf, err := parse(p)
	if err != nil || due(leaf.cert, now) || leaf.cert.CheckSignatureFrom(ca.cert) != nil {
		return false
	}
	return slices.Equal(leaf.cert.DNSNames, request.DNSNames) &&
		slices.EqualFunc(leaf.cert.IPAddresses, request.IPAddresses, net.IP.Equal)
}

func dueAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

// due reports whether two thirds of the certificate's time are over, or it is not valid yet.
func due(c *x509.Certificate, now time.Time) bool {
	return now.Before(c.NotBefore) || !now.Before(dueAt(c))
}

// stillValid returns the certificates of PEM that have not expired.
func stillValid(certs []byte, now time.Time) []byte {
	var out []byte
	for block, rest := pem.Decode(certs); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil && now.Before(c.NotAfter) {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
	return out
}
