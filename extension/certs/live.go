package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// errNone reports that no certificate was set yet.
var errNone = errors.New("no certificate was set yet")

// Live holds a certificate that can be replaced while connections come and go. The zero value is ready to use.
type Live struct {
	current atomic.Pointer[tls.Certificate]
}

// Set makes the pair the certificate of all later handshakes. An invalid pair changes nothing.
func (l *Live) Set(p Pair) error {
	c, err := p.Certificate()
	if err != nil {
		return err
	}
	l.current.Store(c)
	return nil
}

func (l *Live) get() (*tls.Certificate, error) {
	if c := l.current.Load(); c != nil {
		return c, nil
	}
	return nil, errNone
}

// ServerConfig returns settings of a gRPC server that shows the certificate and lets in only clients whose
// certificates one of the pool's CAs has signed for the client's DNS name; an empty name stands for any. The pool is asked
// for at each handshake; nil lets nobody in.
func ServerConfig(cert *Live, clientCAs func() *x509.CertPool, client string) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2"},
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      x509.NewCertPool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.get() },
		// A resumed session would not be checked against a CA that was taken away.
		SessionTicketsDisabled: true,
	}
	if client != "" {
		base.VerifyConnection = func(state tls.ConnectionState) error {
			if names := state.PeerCertificates[0].DNSNames; !slices.Contains(names, client) {
				return fmt.Errorf("a certificate for %q: want one for %s", names, client)
			}
			return nil
		}
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		if pool := clientCAs(); pool != nil {
			c.ClientCAs = pool
		}
		return c, nil
	}
	return base
}

// ClientConfig returns settings of a client that shows the certificate and accepts a server of the given name.
func ClientConfig(cert *Live, serverName string, servers *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		RootCAs:    servers,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert.get()
		},
	}
}
