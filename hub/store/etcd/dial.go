package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/logutil"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// keepAlive is after how long without a word the connection is tested, keepAliveTimeout how long that may take. etcd
	// refuses clients that test more often than every 5 s.
	keepAlive        = 10 * time.Second
	keepAliveTimeout = 5 * time.Second
)

// dial makes a client. That it works is seen by the first request.
func dial(o Options) (*clientv3.Client, error) {
	secure, err := checkEndpoints(o)
	if err != nil {
		return nil, err
	}
	if secure && o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	password, err := readPassword(o)
	if err != nil {
		return nil, err
	}
	quiet := logutil.DefaultZapLoggerConfig // what the client would log, its callers are told
	quiet.OutputPaths, quiet.ErrorOutputPaths = nil, nil
	client, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Username: o.Username, Password: password,
		DialTimeout: o.Timeout, DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveTimeout, LogConfig: &quiet,
	})
	if err != nil {
		return nil, explain(o, err)
	}
	return client, nil
}

// checkEndpoints reports whether the endpoints are spoken to over TLS.
func checkEndpoints(o Options) (secure bool, err error) {
	if len(o.Endpoints) == 0 {
		return false, errors.New("no endpoint of etcd: name at least one, like https://etcd-0:2379")
	}
	schemes := map[string]bool{}
	for i, e := range o.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil:
			return false, fmt.Errorf("endpoint %d of etcd is no URL: want one like https://etcd-0:2379", i+1)
		case u.User != nil:
			return false, fmt.Errorf("endpoint %s: a password does not belong in a URL, put it in a file", u.Redacted())
		case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "":
			return false, fmt.Errorf("endpoint %q: want a URL like https://etcd-0:2379", e)
		case u.Scheme == "http" && o.Username != "" && !loopback(u.Hostname()):
			return false, fmt.Errorf("endpoint %s: a password would be readable on the way: use https", e)
		case u.Scheme == "http" && o.TLS != nil:
			return false, fmt.Errorf("endpoint %s: certificates are given, which http does not use: use https", e)
		}
		schemes[u.Scheme] = true
	}
	if len(schemes) > 1 {
		return false, errors.New("some endpoints of etcd are http, some https: use https for all")
	}
	return schemes["https"], nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func readPassword(o Options) (string, error) {
	if (o.Username == "") != (o.PasswordFile == "") {
		return "", errors.New("a user of etcd and a file with the password go together: give both or none")
	}
	if o.PasswordFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password of etcd: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("password of etcd: %s is empty", o.PasswordFile)
	}
	return password, nil
}

// LoadTLS returns how to speak to etcd: authority is a PEM file with those whose certificates are believed, empty for the
// system's; certificate and key are PEM files of this hub's own certificate, both empty for none. They are read again for
// every connection, so that one that is about to expire can be replaced. Of no files it returns nil, the default.
func LoadTLS(authority, certificate, key string) (*tls.Config, error) {
	if authority == "" && certificate == "" && key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if authority != "" {
		pem, err := os.ReadFile(authority)
		if err != nil {
			return nil, fmt.Errorf("authority of etcd: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authority of etcd: %s has no PEM certificate", authority)
		}
	}
	if (certificate == "") != (key == "") {
		return nil, errors.New("a certificate for etcd and its key go together: give both or none")
	}
	if certificate == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("certificate for etcd: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}
