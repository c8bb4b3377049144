package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
)

// The Secrets of the extension, in the spoke's namespace.
const (
	// secretCAKey has the CA with its private key; only the spoke reads it.
	secretCAKey = "tailgate-extension-ca-key"
	// secretCA has the CA certificates in tls.crt, which is where Envoy Gateway looks for them.
	secretCA     = "tailgate-extension-ca"
	secretServer = "tailgate-extension-server"
	secretClient = "tailgate-extension-client"
	// secretProxy is what proxies that are pods show the spoke, and by which CA they know it.
	secretProxy = "tailgate-proxy-tls"
	// envoySecret is Envoy Gateway's, with the CA of its Envoys' certificates in ca.crt.
	envoySecret = "envoy"
)

const (
	// certRetry and certInterval are between two looks at the Secrets, while something is missing and otherwise.
	certRetry    = 2 * time.Second
	certInterval = time.Minute
	// conflictTries is how often a Secret that somebody else has just written is read again.
	conflictTries = 5
)

// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=secrets,resourceNames=tailgate-extension-ca-key;tailgate-extension-ca;tailgate-extension-server;tailgate-extension-client;tailgate-proxy-tls,verbs=get;update
// +kubebuilder:rbac:groups="",namespace=envoy-gateway-system,resources=secrets,resourceNames=envoy,verbs=get

// keeper keeps the certificates of the extension in Secrets, renews them, and knows whom to let in.
type keeper struct {
	client           kubernetes.Interface
	namespace        string
	gatewayNamespace string
	names            certs.Names
	log              *slog.Logger

	server  certs.Live
	clients atomic.Pointer[x509.CertPool] // of Envoy Gateway
	envoys  atomic.Pointer[x509.CertPool] // of Envoy Gateway's Envoys
}

// serverNames are the names in the server's certificate: that of the bootstrap, and the hosts of the addresses.
func serverNames(addrs []string, more string) certs.Names {
	hosts := map[string]bool{extension.EDSServerName: true, proxytls.SpokeName: true, "localhost": true, "127.0.0.1": true}
	for _, a := range addrs {
		if host, _, err := net.SplitHostPort(a); err == nil && host != "" {
			hosts[host] = true
		}
	}
	for h := range strings.SplitSeq(more, ",") {
		if h = strings.TrimSpace(h); h != "" {
			hosts[h] = true
		}
	}
	n := certs.Names{Proxy: proxytls.ProxyName}
	for _, h := range slices.Sorted(maps.Keys(hosts)) {
		if addr, err := netip.ParseAddr(h); err == nil {
			n.IPs = append(n.IPs, addr.AsSlice())
		} else {
			n.DNS = append(n.DNS, h)
		}
	}
	return n
}

// ensure makes the certificates that are missing or due, stores them, and takes them into use.
func (k *keeper) ensure(ctx context.Context) (certs.Bundle, error) {
	for try := 1; ; try++ {
		b, err := k.renew(ctx)
		if err == nil || try == conflictTries || (!apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err)) {
			return b, err
		}
	}
}

func (k *keeper) renew(ctx context.Context) (certs.Bundle, error) {
	var b certs.Bundle
	have := map[string]*corev1.Secret{}
	for name, into := range map[string]*certs.Pair{secretCAKey: &b.CA, secretServer: &b.Server, secretClient: &b.Client, secretProxy: &b.Proxy} {
		s, err := k.get(ctx, name)
		if err != nil {
			return b, err
		}
		have[name] = s
		if s != nil {
			*into = certs.Pair{Cert: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}
		}
	}
	trust, err := k.get(ctx, secretCA)
	if err != nil {
		return b, err
	}
	have[secretCA] = trust
	if trust != nil {
		b.Trust = trust.Data[corev1.TLSCertKey]
	}
	b, changed, err := certs.Renew(b, k.names, time.Now())
	if err != nil {
		return b, fmt.Errorf("make the extension's certificates: %w", err)
	}
	if changed {
		if err := k.store(ctx, b, have); err != nil {
			return b, err
		}
		k.log.Info("made new certificates for the extension", "namespace", k.namespace)
	}
	return b, nil
}

func (k *keeper) get(ctx context.Context, name string) (*corev1.Secret, error) {
	s, err := k.client.CoreV1().Secrets(k.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get Secret %s/%s: %w", k.namespace, name, err)
	}
	return s, nil
}

// store writes the Secrets, the CA's first: whoever else starts now fails by conflict and takes over ours.
func (k *keeper) store(ctx context.Context, b certs.Bundle, have map[string]*corev1.Secret) error {
	pair := func(p certs.Pair) map[string][]byte {
		return map[string][]byte{corev1.TLSCertKey: p.Cert, corev1.TLSPrivateKeyKey: p.Key}
	}
	for _, s := range []struct {
		name string
		kind corev1.SecretType
		data map[string][]byte
	}{
		{secretCAKey, corev1.SecretTypeTLS, pair(b.CA)},
		{secretCA, corev1.SecretTypeOpaque, map[string][]byte{corev1.TLSCertKey: b.Trust}},
		{secretServer, corev1.SecretTypeTLS, pair(b.Server)},
		{secretClient, corev1.SecretTypeTLS, pair(b.Client)},
		{secretProxy, corev1.SecretTypeTLS, map[string][]byte{corev1.TLSCertKey: b.Proxy.Cert, corev1.TLSPrivateKeyKey: b.Proxy.Key, corev1.ServiceAccountRootCAKey: b.Trust}},
	} {
		var err error
		if old := have[s.name]; old != nil {
			old.Data = s.data
			_, err = k.client.CoreV1().Secrets(k.namespace).Update(ctx, old, metav1.UpdateOptions{})
		} else {
			_, err = k.client.CoreV1().Secrets(k.namespace).Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: s.name, Namespace: k.namespace}, Type: s.kind, Data: s.data,
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return fmt.Errorf("write Secret %s/%s (does `spoke bootstrap` have to be run first?): %w", k.namespace, s.name, err)
		}
	}
	return nil
}

// use takes the bundle into use.
func (k *keeper) use(b certs.Bundle) error {
	if err := k.server.Set(b.Server); err != nil {
		return fmt.Errorf("use the extension's certificate: %w", err)
	}
	pool, err := certs.Pool(b.Trust)
	if err != nil {
		return fmt.Errorf("use the extension's CA: %w", err)
	}
	k.clients.Store(pool)
	return nil
}

// errNoEnvoyCA reports that Envoy Gateway has not made its certificates yet.
var errNoEnvoyCA = errors.New("no certificates of Envoy Gateway yet: run `envoy-gateway certgen`, as its chart does")

// useEnvoys reads which CA the Envoys' certificates are of.
func (k *keeper) useEnvoys(ctx context.Context) error {
	s, err := k.client.CoreV1().Secrets(k.gatewayNamespace).Get(ctx, envoySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errNoEnvoyCA
	}
	if err != nil {
		return fmt.Errorf("get Secret %s/%s: %w", k.gatewayNamespace, envoySecret, err)
	}
	pool, err := certs.Pool(s.Data["ca.crt"])
	if err != nil {
		return fmt.Errorf("read key ca.crt of Secret %s/%s: %w", k.gatewayNamespace, envoySecret, err)
	}
	k.envoys.Store(pool)
	return nil
}

// run keeps the certificates fresh until ctx ends. What goes wrong is tried again: those in use stay.
func (k *keeper) run(ctx context.Context) error {
	last := ""
	for {
		b, err := k.ensure(ctx)
		if err == nil {
			err = k.use(b)
		}
		err = errors.Join(err, k.useEnvoys(ctx))
		wait := certInterval
		if err != nil {
			wait = certRetry
			if ctx.Err() == nil && err.Error() != last {
				k.log.Warn("the extension's certificates", "err", err)
			}
		}
		last = fmt.Sprint(err)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
