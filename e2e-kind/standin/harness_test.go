package standin_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/standin"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/bootstrap"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/xds"
)

// controlPlane is an ADS and EDS server that serves what it is told.
type controlPlane struct {
	t      *testing.T
	caches map[string]*cachev3.LinearCache

	mu       sync.Mutex
	requests []*discoveryv3.DeltaDiscoveryRequest
	grpc     *grpc.Server
	address  string
}

var typeURLs = []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.SecretType}

func newControlPlane(t *testing.T) *controlPlane {
	c := &controlPlane{t: t, caches: map[string]*cachev3.LinearCache{}}
	for _, u := range typeURLs {
		c.caches[u] = cachev3.NewLinearCache(u)
	}
	return c
}

// start serves on address, or on a free port if it is empty.
func (c *controlPlane) start(address string, creds credentials.TransportCredentials) {
	c.t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	mux := &cachev3.MuxCache{
		Classify: func(r *cachev3.Request) string { return r.GetTypeUrl() }, ClassifyDelta: func(r *cachev3.DeltaRequest) string { return r.GetTypeUrl() },
		Caches: map[string]cachev3.Cache{},
	}
	for u, cache := range c.caches {
		mux.Caches[u] = cache
	}
	srv := serverv3.NewServer(c.t.Context(), mux, serverv3.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.requests = append(c.requests, proto.Clone(r).(*discoveryv3.DeltaDiscoveryRequest))
			return nil
		},
	})
	opts := []grpc.ServerOption{}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	g := grpc.NewServer(opts...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, srv)
	endpointservicev3.RegisterEndpointDiscoveryServiceServer(g, srv)
	c.grpc, c.address = g, ln.Addr().String()
	go func() { _ = g.Serve(ln) }() // ends with Stop
	c.t.Cleanup(g.Stop)
}

func (c *controlPlane) port() string {
	_, port, _ := net.SplitHostPort(c.address)
	return port
}

// seen returns the requests so far and forgets them.
func (c *controlPlane) seen() []*discoveryv3.DeltaDiscoveryRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.requests
	c.requests = nil
	return all
}

// set parses resources in YAML, one document each, and serves them.
func (c *controlPlane) set(docs string) {
	c.t.Helper()
	for doc := range strings.SplitSeq(docs, "\n---\n") {
		typeURL, name, m := parseResource(c.t, doc)
		if err := c.caches[typeURL].UpdateResource(name, m); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *controlPlane) remove(typeURL, name string) {
	c.t.Helper()
	if err := c.caches[typeURL].DeleteResource(name); err != nil {
		c.t.Fatal(err)
	}
}

// parseResource parses a resource whose first line is "# <kind>".
func parseResource(t *testing.T, doc string) (typeURL, name string, m types.Resource) {
	t.Helper()
	doc = strings.TrimSpace(doc)
	j, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(doc, "# "), "\n")
	switch kind {
	case "cluster":
		typeURL, m = xds.ClusterType, &clusterv3.Cluster{}
	case "endpoints":
		typeURL, m = xds.EndpointType, &endpointv3.ClusterLoadAssignment{}
	case "listener":
		typeURL, m = xds.ListenerType, &listenerv3.Listener{}
	case "routes":
		typeURL, m = xds.RouteType, &routev3.RouteConfiguration{}
	case "secret":
		typeURL, m = xds.SecretType, &tlsv3.Secret{}
	default:
		t.Fatalf("resource without a kind:\n%s", doc)
	}
	if err := protojson.Unmarshal(j, m); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return typeURL, cachev3.GetResourceName(m), m
}

// world is a stand-in with its two control planes.
type world struct {
	t        *testing.T
	ads, eds *controlPlane
	admin    string
	events   *events.Log
	creds    credentials.TransportCredentials
	dir      string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ads: newControlPlane(t), eds: newControlPlane(t), events: events.New(1000, time.Now, nil)}
	w.dir = t.TempDir()
	w.creds = writeCerts(t, w.dir)
	w.ads.start("", w.creds)
	w.eds.start("", nil)
	return w
}

// run starts the stand-in, with the bootstrap as Envoy Gateway passes it.
func (w *world) run() {
	w.t.Helper()
	dir := w.dir
	text, err := os.ReadFile("testdata/bootstrap.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	yaml := strings.NewReplacer("XDS_PORT", w.ads.port(), "EDS_PORT", w.eds.port(), "SDS_DIR", dir).Replace(string(text))
	adminFile := filepath.Join(dir, "admin-address.txt")
	flags, err := bootstrap.ParseFlags([]string{
		"--service-cluster", "default/eg", "--service-node", "n1", "--config-yaml", yaml, "--log-level", "warn", "--cpuset-threads",
		"--drain-strategy", "immediate", "--drain-time-s", "60", "--admin-address-path", adminFile, "--", "--run-id", "1",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := bootstrap.Load(flags)
	if err != nil {
		w.t.Fatal(err)
	}
	s := standin.New(standin.Options{
		Bootstrap: b, AdminAddressPath: adminFile, DrainTime: flags.DrainTime, Events: w.events,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), BackoffBase: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("stand-in ended with: %v", err)
		}
	})
	eventually(w.t, "the admin interface is bound", func() bool {
		b, err := os.ReadFile(adminFile)
		w.admin = string(b)
		return err == nil && len(b) > 0
	})
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func (w *world) get(path string) (int, string) {
	w.t.Helper()
	return fetch(w.t, http.MethodGet, "http://"+w.admin+path)
}

func (w *world) ready() {
	eventually(w.t, "/ready is 200", func() bool { c, _ := w.get("/ready"); return c == 200 })
}

// listener returns the address that a listener is bound to.
func (w *world) listener(name string) string {
	w.t.Helper()
	var out struct {
		Statuses []struct{ Name, LocalAddress string } `json:"listener_statuses"`
	}
	address := ""
	eventually(w.t, "listener "+name+" is bound", func() bool {
		_, body := w.get("/listeners?format=json")
		if err := json.Unmarshal([]byte(strings.ReplaceAll(body, "local_address", "LocalAddress")), &out); err != nil {
			w.t.Fatal(err)
		}
		for _, l := range out.Statuses {
			if l.Name == name {
				address = l.LocalAddress
			}
		}
		return address != ""
	})
	return address
}

// event waits for an event.
func (w *world) event(what string, match func(events.Event) bool) events.Event {
	w.t.Helper()
	var found events.Event
	eventually(w.t, "event: "+what, func() bool {
		for _, e := range w.events.All() {
			if match(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// client keeps no connections, so that each request shows the configuration of the moment.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       20 * time.Second,
}

func fetch(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// backend serves handler and returns its address.
func backend(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}

func says(word string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, word) }
}

// resetter accepts connections, reads what comes first and resets, as a proxy in front of a dead service does.
func resetter(t *testing.T) (address string, accepted func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	var mu sync.Mutex
	n := 0
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
			_, _ = conn.Read(make([]byte, 1024))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	return ln.Addr().String(), func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// endpoints writes a load assignment: each argument is "priority address [health]".
func endpoints(name string, eps ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# endpoints\ncluster_name: %s\nendpoints:\n", name)
	for _, e := range eps {
		f := strings.Fields(e + " UNKNOWN")
		host, port, _ := net.SplitHostPort(f[1])
		fmt.Fprintf(&b, "- {priority: %s, locality: {region: p%s}, load_balancing_weight: 1, lb_endpoints: [{load_balancing_weight: 1, health_status: %s, endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}\n",
			f[0], f[0], f[2], host, port)
	}
	return b.String()
}

// writeCerts writes a CA and SDS files for the client into dir, and returns the server's credentials. The SDS files
// are as Envoy Gateway writes them.
func writeCerts(t *testing.T, dir string) credentials.TransportCredentials {
	t.Helper()
	ca, caKey := makeCert(t, nil, nil, "ca")
	caPEM := writePEM(t, dir, "ca.crt", "CERTIFICATE", ca.Raw)
	cert, key := makeCert(t, ca, caKey, "envoy")
	certFile, keyFile := writePEM(t, dir, "tls.crt", "CERTIFICATE", cert.Raw), writeKey(t, dir, "tls.key", key)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := `{"resources":[{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",`
	write("xds-certificate.json", secret+fmt.Sprintf(`"name":"xds_certificate","tls_certificate":{"certificate_chain":{"filename":%q},"private_key":{"filename":%q}}}]}`, certFile, keyFile))
	write("xds-trusted-ca.json", secret+fmt.Sprintf(`"name":"xds_trusted_ca","validation_context":{"trusted_ca":{"filename":%q},"match_typed_subject_alt_names":[{"san_type":"DNS","matcher":{"exact":"envoy-gateway"}}]}}]}`, caPEM))
	serverCert, serverKey := makeCert(t, ca, caKey, "envoy-gateway")
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{serverCert.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13,
	})
}

func makeCert(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: parent == nil,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pemText(kind, der), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemText(kind string, der []byte) []byte {
	return bytes.TrimSpace(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func keyDER(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writeKey(t *testing.T, dir, name string, key *ecdsa.PrivateKey) string {
	t.Helper()
	return writePEM(t, dir, name, "PRIVATE KEY", keyDER(t, key))
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
