// Package proxytls is how a spoke and its proxies know one another over TCP: TLS 1.3 with certificates on both sides,
// each for a name that says what its holder is.
package proxytls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc/credentials"
)

// The names that certificates must have, as DNS names. The CA signs for others too, and who has another name is not let in.
const (
	// SpokeName is a spoke's, whatever address it was dialled at.
	SpokeName = "tailgate-spoke"
	// ProxyName is a proxy's.
	ProxyName = "tailgate-proxy"
)

// The files of a proxy's directory, as a Secret volume has them.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	caFile   = "ca.crt"
)

// Server returns the settings of the spoke's listener. base says, now and in what its functions return, which certificate
// to show and which CAs to trust; what Server returns lets in none but proxies.
func Server(base *tls.Config) *tls.Config {
	config := base.Clone()
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{"h2"}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	// A resumed session would not be checked against a CA that was taken away.
	config.SessionTicketsDisabled = true
	if config.ClientCAs == nil {
		config.ClientCAs = x509.NewCertPool() // nil would be the system's
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if base.VerifyConnection != nil {
			if err := base.VerifyConnection(state); err != nil {
				return err
			}
		}
		return verifyProxy(state)
	}
	if choose := base.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if err != nil || chosen == nil {
				return nil, err
			}
			chosen = chosen.Clone()
			chosen.GetConfigForClient = nil
			return Server(chosen), nil
		}
	}
	return config
}

func verifyProxy(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("no certificate: want one for %s", ProxyName)
	}
	if names := state.PeerCertificates[0].DNSNames; !slices.Contains(names, ProxyName) {
		return fmt.Errorf("a certificate for %q: want one for %s", names, ProxyName)
	}
	return nil
}

// Client returns the credentials of a proxy whose directory has its certificate in tls.crt and tls.key, and in ca.crt the
// CAs that a spoke's certificate may be of. They are read for each handshake: files that were swapped count from the next
// one on. Files that are swapped while they are read fail that one only.
func Client(dir string) credentials.TransportCredentials { return &client{dir: dir} }

// Check reports what is wrong with the files of a proxy's directory.
func Check(dir string) error {
	_, err := read(dir)
	return err
}

type client struct{ dir string }

func read(dir string) (*tls.Config, error) {
	path := func(name string) string { return filepath.Join(dir, name) }
	cert, err := tls.LoadX509KeyPair(path(certFile), path(keyFile))
	if err != nil {
		return nil, fmt.Errorf("read the proxy's certificate in %s: %w", dir, err)
	}
	data, err := os.ReadFile(path(caFile))
	if err != nil {
		return nil, fmt.Errorf("read the CA of the spoke's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read the CA of the spoke's certificate: no certificate in %s", path(caFile))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: SpokeName, RootCAs: pool, Certificates: []tls.Certificate{cert},
	}, nil
}

// ClientHandshake implements [credentials.TransportCredentials].
func (c *client) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := read(c.dir)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, SpokeName, conn)
}

// ServerHandshake implements [credentials.TransportCredentials]. A proxy serves nobody.
func (c *client) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("a proxy's certificate in %s is for a client", c.dir)
}

// Info implements [credentials.TransportCredentials].
func (c *client) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (c *client) Clone() credentials.TransportCredentials { return &client{dir: c.dir} }

// OverrideServerName implements [credentials.TransportCredentials]. The name is always [SpokeName].
func (c *client) OverrideServerName(string) error { return nil }
