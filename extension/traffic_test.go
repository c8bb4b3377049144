package extension_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/standin"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// listener is what Envoy Gateway makes of an HTTP listener, as far as it matters here. In Envoy's place stands the
// stand-in, which refuses what it does not honour.
const listener = `
node: {id: envoy, cluster: default/eg}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: default/eg/http
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config: %s
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

// startEnvoy starts the stand-in with the routes and clusters, which reach the endpoint discovery server as the bootstrap
// has it, and returns its listener's address.
func startEnvoy(t *testing.T, w *wire, eds netip.AddrPort, port uint16, r translate.Resources) string {
	t.Helper()
	routes, err := protojson.Marshal(r.Routes[0])
	if err != nil {
		t.Fatal(err)
	}
	b := bootstrapOf(t, fmt.Sprintf(listener, port, routes))
	text, err := extension.EnvoyProxyBootstrap(eds.Addr().String(), eds.Port(), w.bundle.Trust)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, pem := range map[string][]byte{"tls.crt": w.bundle.Client.Cert, "tls.key": w.bundle.Client.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ours := bootstrapOf(t, strings.ReplaceAll(text, "/certs/", dir+"/"))
	b.StaticResources.Clusters = append(ours.GetStaticResources().GetClusters(), r.Clusters...)
	s := standin.New(standin.Options{
		Bootstrap: b, Events: events.New(1000, time.Now, nil), BackoffBase: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	run(t, s.Run)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	waitFor(t, "the stand-in's listener", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return address
}

func bootstrapOf(t *testing.T, text string) *bootstrapv3.Bootstrap {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b := new(bootstrapv3.Bootstrap)
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// waitFor polls a condition.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// open returns a listener on a free port of 127.0.0.1, which the test's end closes.
func open(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// freePort returns a port of 127.0.0.1 that is free, and that nobody is given who asks for any.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for {
		port := uint16(10000 + rand.N(20000)) // below the ephemeral ports of Linux
		l, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// serveHTTP serves a handler in HTTP/1.1, and in HTTP/2 as well, if it is allowed.
func serveHTTP(t *testing.T, pair *certs.Pair, http2 bool, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l := open(t)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(http2)
	srv.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(func() { _ = srv.Close() })
	if pair == nil {
		go func() { _ = srv.Serve(l) }() // ends with Close
		return addrOf(l)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	return addrOf(l)
}

// serveGRPC serves the standard health service.
func serveGRPC(t *testing.T, pair *certs.Pair) (netip.AddrPort, *health.Server) {
	t.Helper()
	creds := insecure.NewCredentials()
	if pair != nil {
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		creds = credentials.NewServerTLSFromCert(&cert)
	}
	l := open(t)
	g := grpc.NewServer(grpc.Creds(creds))
	h := health.NewServer()
	healthpb.RegisterHealthServer(g, h)
	go func() { _ = g.Serve(l) }() // ends with Stop
	t.Cleanup(g.Stop)
	return addrOf(l), h
}

// gateway is a gateway with services that speak all protocols.
type gateway struct {
	address string
	plain   *health.Server
	// release lets the streams of the web service go on.
	release chan struct{}
	// calls counts the requests that the web service was sent.
	calls atomic.Int32
}

// newGateway starts services, the endpoint discovery server, and the stand-in with the routes that Translate makes.
func newGateway(t *testing.T) *gateway {
	t.Helper()
	w := newWire(t)
	g := &gateway{release: make(chan struct{})}
	echo := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s SNI=%s %s", r.Proto, r.TLS.ServerName, r.URL.Path)
	}
	greeter, plain := serveGRPC(t, nil)
	secureGreeter, _ := serveGRPC(t, &w.bundle.Server)
	g.plain = plain
	endpoints := map[string]netip.AddrPort{
		"web": serveHTTP(t, nil, false, g.web), "secure": serveHTTP(t, &w.bundle.Server, true, echo), "secure1": serveHTTP(t, &w.bundle.Server, false, echo),
		"greeter": greeter, "secure-greeter": secureGreeter, "deaf": serveHTTP(t, nil, true, deaf),
	}
	apps := map[string]federation.AppProtocol{
		"web": federation.AppUnknown, "secure": federation.AppHTTPS, "secure1": federation.AppHTTPS,
		"greeter": federation.AppH2C, "secure-greeter": federation.AppGRPCS, "deaf": federation.AppH2C,
	}

	port := freePort(t) // for the listener, and for the route to it
	snap := translate.Snapshot{Cluster: "cluster1", Gateways: []translate.Gateway{{
		Namespace: "default", Name: "eg", Listeners: []translate.Listener{{Name: "http", Port: port}},
		Tailnets: []translate.Tailnet{{
			Egress:  translate.RouteTemplate{PathPrefix: "/api/{service}/"},
			Ingress: translate.RouteTemplate{HostPattern: "{service}.example.com"},
		}},
	}}}
	assignments := map[string]extension.Assignment{}
	for name, app := range apps {
		id := federation.Service("default", name)
		snap.Services = append(snap.Services, translate.Service{ID: id, App: app})
		assignments[extension.ClusterName(id)] = to(endpoints[name].String())
	}
	out, notes := translate.Translate(translate.Resources{Routes: []*routev3.RouteConfiguration{{Name: "default/eg/http"}}},
		[]translate.Policy{{Namespace: "default", Name: "p", Gateways: []string{"eg"}}}, snap)
	if len(notes) > 0 {
		t.Fatalf("notes: %v", notes)
	}
	g.address = startEnvoy(t, w, startRealEDS(t, w, assignments), port, out)
	for name := range apps {
		waitFor(t, "the endpoints of "+name, func() bool {
			return g.answers(t, "/api/"+name+"/x")
		})
	}
	g.calls.Store(0)
	return g
}

// startRealEDS starts the endpoint discovery server on a port of 127.0.0.1.
func startRealEDS(t *testing.T, w *wire, all map[string]extension.Assignment) netip.AddrPort {
	t.Helper()
	l := open(t)
	o := w.options(t)
	o.Listen = func(context.Context) (net.Listener, error) { return l, nil }
	s, err := extension.NewEDS(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetAssignments(all); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return addrOf(l)
}

// web answers as its path says.
func (g *gateway) web(w http.ResponseWriter, r *http.Request) {
	g.calls.Add(1)
	flush := func(text string) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
	switch r.URL.Path {
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		flush("data: first\n\n")
		<-g.release
		flush("data: second\n\n")
	case "/slow":
		<-g.release
		flush("done")
	case "/socket":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw) // echoes until the client ends
	case "/reset":
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	default:
		flush(r.Proto + " " + r.URL.Path)
	}
}

// answers reports whether somebody behind the gateway answers; a server of gRPC refuses the request, which is an answer, too.
// There may be none at all yet: while nobody listens on a port of 127.0.0.1, who dials it may even meet himself.
func (g *gateway) answers(t *testing.T, path string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode != http.StatusServiceUnavailable
}

// get returns the answer to a GET of a host, by default the gateway's address.
func (g *gateway) get(t *testing.T, host, path string) (int, string) {
	t.Helper()
	resp := g.do(t, http.MethodGet, host, path)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (g *gateway) do(t *testing.T, method, host, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// dialGRPC returns a client of a service at its virtual host.
func (g *gateway) dialGRPC(t *testing.T, service string) healthpb.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+g.address, grpc.WithAuthority(service+".example.com"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

// TestUpstreamProtocols asks services that speak different protocols through the routes that they get.
func TestUpstreamProtocols(t *testing.T) {
	g := newGateway(t)
	for _, tc := range []struct{ name, host, path, want string }{
		{"unknown-is-http1", "", "/api/web/x", "HTTP/1.1 /x"},
		{"https-with-http2", "", "/api/secure/x", "HTTP/2.0 SNI= /x"},
		{"https-with-http1", "", "/api/secure1/x", "HTTP/1.1 SNI= /x"},
		{"sni-is-the-host", "secure.example.com", "/x", "HTTP/2.0 SNI=secure.example.com /x"},
		{"own-listener", "", "/gateway/eg-http/api/web/x", "HTTP/1.1 /x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, body := g.get(t, tc.host, tc.path); code != http.StatusOK || body != tc.want {
				t.Errorf("%d %q, want %q", code, body, tc.want)
			}
		})
	}
	for _, service := range []string{"greeter", "secure-greeter"} {
		t.Run("grpc-"+service, func(t *testing.T) {
			got, err := g.dialGRPC(t, service).Check(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("got %v, %v", got, err)
			}
			_, err = g.dialGRPC(t, service).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unknown"})
			if status.Code(err) != codes.NotFound {
				t.Errorf("the service's own status came as %v", err)
			}
		})
	}
	t.Run("grpc-through-own-listener", func(t *testing.T) {
		frame := []byte{0, 0, 0, 0, 0}
		resp := g.callGRPC(t, "/gateway/eg-http/api/greeter/grpc.health.v1.Health/Check", "", frame)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(body, []byte{0, 0, 0, 0, 2, 8, 1}) || resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("got %v %v, trailers %v", body, err, resp.Trailer)
		}
	})
}

// callGRPC sends a call in HTTP/2 whose deadline nobody but the gateway knows.
func (g *gateway) callGRPC(t *testing.T, path, timeout string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.address+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	if timeout != "" {
		req.Header.Set("Grpc-Timeout", timeout)
	}
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2c.CloseIdleConnections)
	resp, err := h2c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// deaf keeps no deadline of gRPC: a call hangs until its caller has gone. A real server of gRPC would race the gateway.
func deaf(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Grpc-Timeout") != "" {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// TestGRPCTimeout gives a call a deadline that its server does not keep.
func TestGRPCTimeout(t *testing.T) {
	g := newGateway(t)
	resp := g.callGRPC(t, "/api/deaf/a.B/Hang", "50m", nil)
	defer resp.Body.Close()
	if got := resp.Header.Get("Grpc-Status"); resp.StatusCode != http.StatusOK || got != "4" {
		t.Errorf("answer %d, grpc-status %q, want DEADLINE_EXCEEDED (4)", resp.StatusCode, got)
	}
}

// TestRetries counts how often a request is sent whose connection breaks after it was.
func TestRetries(t *testing.T) {
	for _, tc := range []struct {
		method string
		again  bool
	}{{http.MethodGet, true}, {http.MethodDelete, true}, {http.MethodPost, false}, {http.MethodPatch, false}} {
		t.Run(tc.method, func(t *testing.T) {
			g := newGateway(t)
			resp := g.do(t, tc.method, "", "/api/web/reset")
			defer resp.Body.Close()
			want := int32(1)
			if tc.again {
				want = 4 // the only endpoint is asked again as often as a route allows
			}
			if n := g.calls.Load(); n != want {
				t.Errorf("sent %d times, want %d", n, want)
			}
		})
	}
}

// TestTheLastEndpointStays breaks connections until outlier detection has seen enough. What is left is asked all the same:
// with nobody else to ask, an ejection would make a fault that is over last for 5 seconds more.
func TestTheLastEndpointStays(t *testing.T) {
	g := newGateway(t)
	for range 3 {
		if code, body := g.get(t, "", "/api/web/reset"); code != http.StatusServiceUnavailable {
			t.Fatalf("a broken connection: %d %q, want 503", code, body)
		}
		if code, body := g.get(t, "", "/api/web/well"); code != http.StatusOK {
			t.Fatalf("after it: %d %q, want 200", code, body)
		}
	}
}

// TestLongStreams holds streams of all kinds for longer than Envoy's default of 15 seconds for a request.
func TestLongStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than 15 seconds")
	}
	t.Parallel()
	g := newGateway(t)
	events := g.do(t, http.MethodGet, "", "/api/web/events")
	defer events.Body.Close()
	lines := bufio.NewReader(events.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: first\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	socket := g.upgrade(t, "/api/web/socket")
	behind := g.upgrade(t, "/gateway/eg-http/api/web/socket")
	watch, err := g.dialGRPC(t, "greeter").Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	slow := make(chan string, 1)
	go func() {
		resp, err := http.Post("http://"+g.address+"/api/web/slow", "", nil)
		if err != nil {
			slow <- err.Error()
			return
		}
		defer resp.Body.Close()
		slow <- resp.Status
	}()

	<-time.After(16 * time.Second)
	close(g.release)
	g.plain.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\ndata: second\n\n" {
		t.Errorf("events: %q, %v", rest, err)
	}
	for _, ws := range []*websocket{socket, behind} {
		if got, err := ws.say("hello\n"); err != nil || got != "hello\n" {
			t.Errorf("WebSocket: %q, %v", got, err)
		}
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("stream of gRPC: %v, %v", got, err)
	}
	if got := <-slow; got != "200 OK" {
		t.Errorf("slow answer to a POST: %s", got)
	}
}
