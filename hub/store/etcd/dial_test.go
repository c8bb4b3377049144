package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store/etcd"
)

func TestBadOptionsAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		change func(*etcd.Options)
		want   string
	}{
		"no-endpoint":         {func(o *etcd.Options) { o.Endpoints = nil }, "name at least one"},
		"no-url":              {func(o *etcd.Options) { o.Endpoints = []string{"etcd:2379"} }, "want a URL like"},
		"bad-url":             {func(o *etcd.Options) { o.Endpoints = []string{"https://user:s3cret@[::1"} }, "is no URL"},
		"path":                {func(o *etcd.Options) { o.Endpoints = []string{"https://etcd:2379/v3"} }, "want a URL like"},
		"password-in-url":     {func(o *etcd.Options) { o.Endpoints = []string{"https://user:s3cret@etcd:2379"} }, "does not belong in a URL"},
		"two-schemes":         {func(o *etcd.Options) { o.Endpoints = []string{"http://a:1", "https://b:1"} }, "https for all"},
		"certificates-unused": {func(o *etcd.Options) { o.TLS = &tls.Config{} }, "certificates are given"},
		"no-prefix":           {func(o *etcd.Options) { o.Prefix = "//" }, "no prefix"},
		"short-lease":         {func(o *etcd.Options) { o.LeaseTTL = time.Second }, "a lease has 2s at least"},
		"user-alone":          {func(o *etcd.Options) { o.Username = "hub" }, "go together"},
		"readable-password": {func(o *etcd.Options) {
			o.Username, o.PasswordFile, o.Endpoints = "hub", file("p", "s3cret"), []string{"http://etcd:2379"}
		}, "use https"},
		"no-password":    {func(o *etcd.Options) { o.Username, o.PasswordFile = "hub", filepath.Join(dir, "none") }, "no such file"},
		"empty-password": {func(o *etcd.Options) { o.Username, o.PasswordFile = "hub", file("e", "\n") }, "is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			o := shared.options(t)
			c.change(&o)
			_, err := etcd.Open(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
		})
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate and its key, in files of the name.
func (a *authority) sign(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// TestCertificatesAndPasswords runs a store on an etcd that wants both, as one in production does.
func TestCertificatesAndPasswords(t *testing.T) {
	a := newAuthority(t)
	a.sign(t, "server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	a.sign(t, "", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}) // has no name, so etcd takes it for no user
	secure, err := etcd.LoadTLS(a.file("ca.crt"), a.file(".crt"), a.file(".key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := launch(t.Context(), t.TempDir(), clientv3.Config{TLS: secure}, "--cert-file="+a.file("server.crt"), "--key-file="+a.file("server.key"),
		"--trusted-ca-file="+a.file("ca.crt"), "--client-cert-auth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.kill(); err != nil {
			t.Error(err)
		}
	})
	addUser(t, clientv3.Config{Endpoints: []string{s.url}, TLS: secure}, "hub", "s3cret", "/federation/")
	good := s.options(t)
	good.TLS, good.Username, good.PasswordFile, good.Prefix, good.Timeout = secure, "hub", a.file("password"), "/federation", 2*time.Second
	if err := os.WriteFile(good.PasswordFile, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := a.file("wrong-password")
	if err := os.WriteFile(wrong, []byte("Sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*etcd.Options)
		want   string
	}{
		"wrong-password":  {func(o *etcd.Options) { o.PasswordFile = wrong }, "check the user and the password"},
		"other-prefix":    {func(o *etcd.Options) { o.Prefix = "/theirs" }, "read and write of the prefix /theirs"},
		"no-certificate":  {func(o *etcd.Options) { o.TLS = &tls.Config{RootCAs: secure.RootCAs, MinVersion: tls.VersionTLS12} }, "gives no answer"},
		"other-authority": {func(o *etcd.Options) { o.TLS = nil }, "gives no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := etcd.Open(ctx, o)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "Sesame") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
		})
	}
	db := open(t, good)
	for _, b := range history() {
		commit(t, db, b)
	}
	if !matches(t, db, history()) {
		t.Error("the store is not what was committed")
	}
}

// addUser makes a user who may do anything below a prefix, and lets etcd ask for passwords from then on.
func addUser(t *testing.T, config clientv3.Config, name, password, prefix string) {
	t.Helper()
	c, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err1 := c.UserAdd(ctx, "root", "root-"+password)
	_, err2 := c.UserGrantRole(ctx, "root", "root")
	_, err3 := c.RoleAdd(ctx, "federation")
	_, err4 := c.RoleGrantPermission(ctx, "federation", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	_, err5 := c.UserAdd(ctx, name, password)
	_, err6 := c.UserGrantRole(ctx, name, "federation")
	_, err7 := c.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, c.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutFilesTLSIsTheDefault(t *testing.T) {
	secure, err := etcd.LoadTLS("", "", "")
	if err != nil || secure != nil {
		t.Fatalf("LoadTLS: %v, err %v", secure, err)
	}
	o := shared.options(t) // which is http
	o.TLS = secure
	open(t, o)
}

func TestBadCertificatesAreRefused(t *testing.T) {
	a := newAuthority(t)
	if err := os.WriteFile(a.file("text"), []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		authority, certificate, key string
		want                        string
	}{
		"no-authority":  {a.file("none"), "", "", "no such file"},
		"text":          {a.file("text"), "", "", "no PEM certificate"},
		"no-key":        {"", a.file("ca.crt"), "", "go together"},
		"key-of-others": {a.file("ca.crt"), a.file("ca.crt"), a.file("text"), "certificate for etcd"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := etcd.LoadTLS(c.authority, c.certificate, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("LoadTLS: %v, want %q", err, c.want)
			}
		})
	}
}
