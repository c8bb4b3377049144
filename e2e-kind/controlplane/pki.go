package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity is long enough for any demo that is left running.
const validity = 365 * 24 * time.Hour

// keyPair is a certificate with its key.
type keyPair struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	keyPEM  []byte
}

type keys struct {
	ca    keyPair
	admin keyPair
}

// loadKeys makes what is missing in the directory: authority and service-account key are kept for ever, the certificates
// signed anew at each start, because names may have changed.
func loadKeys(o *Options) (keys, error) {
	dir := filepath.Join(o.Dir, "pki")
	ca, err := loadKeyPair(dir, "ca")
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = newKeyPair(&x509.Certificate{
			Subject:               pkix.Name{CommonName: "test cluster"},
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			IsCA:                  true,
			BasicConstraintsValid: true,
		}, nil)
		if err == nil {
			err = ca.write(dir, "ca")
		}
	}
	if err != nil {
		return keys{}, err
	}
	serving := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{o.BindAddress.AsSlice(), {127, 0, 0, 1}, o.ServiceCIDR.Masked().Addr().Next().AsSlice()},
	}
	for _, san := range o.ExtraSANs {
		if ip := net.ParseIP(san); ip != nil {
			serving.IPAddresses = append(serving.IPAddresses, ip)
		} else {
			serving.DNSNames = append(serving.DNSNames, san)
		}
	}
	pair, err := newKeyPair(serving, &ca)
	if err == nil {
		err = pair.write(dir, "serving")
	}
	if err != nil {
		return keys{}, err
	}
	admin, err := newKeyPair(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, &ca)
	if err != nil {
		return keys{}, err
	}
	return keys{ca: ca, admin: admin}, keepServiceAccountKey(dir)
}

// keepServiceAccountKey makes the key that signs service-account tokens, once.
func keepServiceAccountKey(dir string) error {
	path := filepath.Join(dir, "service-account.key")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make service-account key: %w", err)
	}
	b, err := keyPEM(key)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// newKeyPair makes a key and signs a certificate for it by the authority, or by itself if that is nil.
func newKeyPair(template *x509.Certificate, authority *keyPair) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return keyPair{}, fmt.Errorf("make serial number: %w", err)
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(validity)
	template.KeyUsage |= x509.KeyUsageDigitalSignature
	parent, signer := template, key
	if authority != nil {
		parent, signer = authority.cert, authority.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return keyPair{}, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return keyPair{}, fmt.Errorf("parse certificate: %w", err)
	}
	keyBytes, err := keyPEM(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{cert: cert, key: key, keyPEM: keyBytes, certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	// Not PKCS #8: the API server takes the public key for service accounts only out of this form.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// loadKeyPair reads what write wrote; an error that nothing is there is fs.ErrNotExist.
func loadKeyPair(dir, name string) (keyPair, error) {
	certBytes, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return keyPair{}, err
	}
	keyBytes, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return keyPair{}, err
	}
	pair, err := tls.X509KeyPair(certBytes, keyBytes)
	if err != nil {
		return keyPair{}, fmt.Errorf("read %s in %s: %w", name, dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return keyPair{}, fmt.Errorf("read %s in %s: not an ECDSA key", name, dir)
	}
	return keyPair{cert: pair.Leaf, key: key, certPEM: certBytes, keyPEM: keyBytes}, nil
}

// write writes the key first: a certificate without its key would never be made again.
func (p keyPair) write(dir, name string) error {
	if err := writeFile(filepath.Join(dir, name+".key"), p.keyPEM); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), p.certPEM)
}

// writeFile writes a whole file or none.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
