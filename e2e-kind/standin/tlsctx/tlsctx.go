// Package tlsctx makes crypto/tls configurations of Envoy's TLS contexts. Test equipment, never part of the product.
//
// Certificates, keys and trusted CAs are looked up at every handshake, wherever they come from (inline, a file, an
// SDS file or an SDS secret that arrived by xDS), so that a rotated secret is used by the next connection.
package tlsctx

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// Store holds the SDS secrets that arrived by xDS. The zero value is empty and ready to use.
type Store struct {
	mu      sync.Mutex
	secrets map[string]*tlsv3.Secret
}

// Set adds or replaces a secret.
func (s *Store) Set(secret *tlsv3.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.secrets == nil {
		s.secrets = map[string]*tlsv3.Secret{}
	}
	s.secrets[secret.GetName()] = secret
}

// Get returns the secret of that name, or nil if it has not arrived.
func (s *Store) Get(name string) *tlsv3.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets[name]
}

// Client returns the configuration for connections to an upstream. As in Envoy, the peer is verified only if there
// is a validation context, its chain against the trusted CA and its names only against match_typed_subject_alt_names.
func Client(ctx *tlsv3.UpstreamTlsContext, store *Store) (*tls.Config, error) {
	c := common{ctx.GetCommonTlsContext(), store}
	cfg := &tls.Config{
		ServerName: ctx.GetSni(),
		NextProtos: c.ctx.GetAlpnProtocols(),
		// Verification is done below with the CA of the moment; Envoy does not compare the host name by itself.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS12,
	}
	if err := c.versions(cfg); err != nil {
		return nil, err
	}
	if c.hasCertificate() {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certs, err := c.certificates()
			if err != nil {
				return nil, err
			}
			return &certs[0], nil
		}
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error { return c.verify(state, x509.ExtKeyUsageServerAuth) }
	return cfg, nil
}

// Server returns the configuration for connections from downstream.
func Server(ctx *tlsv3.DownstreamTlsContext, store *Store) (*tls.Config, error) {
	c := common{ctx.GetCommonTlsContext(), store}
	cfg := &tls.Config{NextProtos: c.ctx.GetAlpnProtocols(), MinVersion: tls.VersionTLS12}
	if err := c.versions(cfg); err != nil {
		return nil, err
	}
	if !c.hasCertificate() {
		return nil, errors.New("a downstream TLS context has no certificate")
	}
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		certs, err := c.certificates()
		if err != nil {
			return nil, err
		}
		for i := range certs {
			if hello.SupportsCertificate(&certs[i]) == nil {
				return &certs[i], nil
			}
		}
		return &certs[0], nil
	}
	if ctx.GetRequireClientCertificate().GetValue() {
		cfg.ClientAuth = tls.RequireAnyClientCert
	} else if c.ctx.GetValidationContextType() != nil {
		cfg.ClientAuth = tls.RequestClientCert
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // require_client_certificate has been checked by ClientAuth
		}
		return c.verify(state, x509.ExtKeyUsageClientAuth)
	}
	return cfg, nil
}

// Wanted returns the names of the secrets that a context needs by xDS.
func Wanted(ctx *tlsv3.CommonTlsContext) []string {
	var names []string
	for _, s := range sdsConfigs(ctx) {
		if s.GetSdsConfig().GetAds() != nil {
			names = append(names, s.GetName())
		}
	}
	return names
}

// Read returns the bytes that a data source points at.
func Read(src *corev3.DataSource) ([]byte, error) {
	switch s := src.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("read data source: %w", err)
		}
		return b, nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_EnvironmentVariable:
		v, ok := os.LookupEnv(s.EnvironmentVariable)
		if !ok {
			return nil, fmt.Errorf("data source: environment variable %s is not set", s.EnvironmentVariable)
		}
		return []byte(v), nil
	default:
		return nil, errors.New("data source is empty")
	}
}

type common struct {
	ctx   *tlsv3.CommonTlsContext
	store *Store
}

func sdsConfigs(ctx *tlsv3.CommonTlsContext) []*tlsv3.SdsSecretConfig {
	all := slices.Clone(ctx.GetTlsCertificateSdsSecretConfigs())
	for _, s := range []*tlsv3.SdsSecretConfig{
		ctx.GetValidationContextSdsSecretConfig(),
		ctx.GetCombinedValidationContext().GetValidationContextSdsSecretConfig(),
	} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (c common) hasCertificate() bool {
	return len(c.ctx.GetTlsCertificates())+len(c.ctx.GetTlsCertificateSdsSecretConfigs()) > 0
}

func (c common) versions(cfg *tls.Config) error {
	for _, s := range sdsConfigs(c.ctx) {
		if src := s.GetSdsConfig(); src.GetAds() == nil && sdsPath(src) == "" {
			return strict.Unsupported("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig.sds_config other than ads or a path")
		}
	}
	versions := map[tlsv3.TlsParameters_TlsProtocol]uint16{
		tlsv3.TlsParameters_TLSv1_0: tls.VersionTLS10, tlsv3.TlsParameters_TLSv1_1: tls.VersionTLS11,
		tlsv3.TlsParameters_TLSv1_2: tls.VersionTLS12, tlsv3.TlsParameters_TLSv1_3: tls.VersionTLS13,
	}
	params := c.ctx.GetTlsParams()
	if v, ok := versions[params.GetTlsMinimumProtocolVersion()]; ok {
		cfg.MinVersion = v
	}
	if v, ok := versions[params.GetTlsMaximumProtocolVersion()]; ok {
		cfg.MaxVersion = v
	}
	return nil
}

func (c common) certificates() ([]tls.Certificate, error) {
	all := slices.Clone(c.ctx.GetTlsCertificates())
	for _, s := range c.ctx.GetTlsCertificateSdsSecretConfigs() {
		secret, err := c.secret(s)
		if err != nil {
			return nil, err
		}
		all = append(all, secret.GetTlsCertificate())
	}
	var certs []tls.Certificate
	for _, t := range all {
		chain, err := Read(t.GetCertificateChain())
		if err != nil {
			return nil, fmt.Errorf("certificate chain: %w", err)
		}
		key, err := Read(t.GetPrivateKey())
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		cert, err := tls.X509KeyPair(chain, key)
		if err != nil {
			return nil, fmt.Errorf("parse key pair: %w", err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// validations returns the contexts that a peer must satisfy, all of them.
func (c common) validations() ([]*tlsv3.CertificateValidationContext, error) {
	var all []*tlsv3.CertificateValidationContext
	for _, v := range []*tlsv3.CertificateValidationContext{
		c.ctx.GetValidationContext(), c.ctx.GetCombinedValidationContext().GetDefaultValidationContext(),
	} {
		if v != nil {
			all = append(all, v)
		}
	}
	for _, s := range []*tlsv3.SdsSecretConfig{
		c.ctx.GetValidationContextSdsSecretConfig(), c.ctx.GetCombinedValidationContext().GetValidationContextSdsSecretConfig(),
	} {
		if s == nil {
			continue
		}
		secret, err := c.secret(s)
		if err != nil {
			return nil, err
		}
		all = append(all, secret.GetValidationContext())
	}
	return all, nil
}

func (c common) secret(s *tlsv3.SdsSecretConfig) (*tlsv3.Secret, error) {
	if path := sdsPath(s.GetSdsConfig()); path != "" {
		return readSDSFile(path, s.GetName())
	}
	if secret := c.store.Get(s.GetName()); secret != nil {
		return secret, nil
	}
	return nil, fmt.Errorf("secret %s has not arrived yet", s.GetName())
}

func sdsPath(src *corev3.ConfigSource) string { return src.GetPathConfigSource().GetPath() }

// readSDSFile reads a secret out of an SDS file, which is a DiscoveryResponse in JSON or YAML.
func readSDSFile(path, name string) (*tlsv3.Secret, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read SDS file: %w", err)
	}
	if b, err = yaml.YAMLToJSON(b); err != nil {
		return nil, fmt.Errorf("parse SDS file %s: %w", path, err)
	}
	var resp discoveryv3.DiscoveryResponse
	if err := protojson.Unmarshal(b, &resp); err != nil {
		return nil, fmt.Errorf("parse SDS file %s: %w", path, err)
	}
	for _, r := range resp.GetResources() {
		var secret tlsv3.Secret
		if err := r.UnmarshalTo(&secret); err != nil {
			return nil, fmt.Errorf("parse SDS file %s: %w", path, err)
		}
		if err := strict.Check(&secret); err != nil {
			return nil, fmt.Errorf("SDS file %s: %w", path, err)
		}
		if secret.GetName() == name {
			return &secret, nil
		}
	}
	return nil, fmt.Errorf("SDS file %s has no secret %s", path, name)
}

func (c common) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) error {
	contexts, err := c.validations()
	if err != nil {
		return err
	}
	for _, v := range contexts {
		if v.GetTrustedCa() != nil || v.GetSystemRootCerts() != nil {
			if err := verifyChain(v, state, usage); err != nil && v.GetTrustChainVerification() != tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED {
				return err
			}
		}
		if sans := v.GetMatchTypedSubjectAltNames(); len(sans) > 0 && !slices.ContainsFunc(sans, func(m *tlsv3.SubjectAltNameMatcher) bool {
			return matchSAN(m, state.PeerCertificates[0])
		}) {
			return errors.New("verify SAN list: no name of the peer's certificate matches match_typed_subject_alt_names")
		}
	}
	return nil
}

func verifyChain(v *tlsv3.CertificateValidationContext, state tls.ConnectionState, usage x509.ExtKeyUsage) error {
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	if v.GetTrustedCa() != nil {
		pem, err := Read(v.GetTrustedCa())
		if err != nil {
			return fmt.Errorf("trusted CA: %w", err)
		}
		opts.Roots = x509.NewCertPool()
		if !opts.Roots.AppendCertsFromPEM(pem) {
			return errors.New("trusted CA has no PEM certificate")
		}
	}
	for _, cert := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
		return fmt.Errorf("verify peer certificate: %w", err)
	}
	return nil
}

func matchSAN(m *tlsv3.SubjectAltNameMatcher, cert *x509.Certificate) bool {
	var names []string
	switch m.GetSanType() {
	case tlsv3.SubjectAltNameMatcher_DNS:
		names = cert.DNSNames
	case tlsv3.SubjectAltNameMatcher_EMAIL:
		names = cert.EmailAddresses
	case tlsv3.SubjectAltNameMatcher_URI:
		for _, u := range cert.URIs {
			names = append(names, u.String())
		}
	case tlsv3.SubjectAltNameMatcher_IP_ADDRESS:
		for _, ip := range cert.IPAddresses {
			names = append(names, ip.String())
		}
	default:
		return false
	}
	exact, prefix, suffix := m.GetMatcher().GetExact(), m.GetMatcher().GetPrefix(), m.GetMatcher().GetSuffix()
	return slices.ContainsFunc(names, func(name string) bool {
		switch {
		case exact != "" && m.GetSanType() == tlsv3.SubjectAltNameMatcher_DNS:
			return strings.EqualFold(name, exact) || wildcardCovers(name, exact)
		case exact != "":
			return name == exact
		case prefix != "":
			return strings.HasPrefix(name, prefix)
		case suffix != "":
			return strings.HasSuffix(name, suffix)
		}
		return false
	})
}

// wildcardCovers reports whether a certificate's name such as *.example.com covers host.
func wildcardCovers(pattern, host string) bool {
	rest, ok := strings.CutPrefix(pattern, "*")
	_, domain, found := strings.Cut(host, ".")
	return ok && found && strings.EqualFold(rest, "."+domain)
}
