package probe_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// patience bounds every wait for what comes at once on a machine that has nothing else to do.
const patience = 2 * time.Minute

// loopback dials for real, and knows one name.
func loopback(ctx context.Context, r probe.Remote) (net.Conn, error) {
	addr := r.Addr
	switch {
	case r.Name == "Web.example.":
		addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.Addr.Port())
	case r.Name != "":
		return nil, fmt.Errorf("dial %v: %w", r, probe.ErrUnknownName)
	}
	var d net.Dialer
	return d.DialContext(ctx, strings.ToLower(string(r.Protocol)), addr.String())
}

// first returns the first result of a target.
func first(t *testing.T, target probe.Target) probe.Result {
	t.Helper()
	results := make(chan probe.Result, 1)
	p := probe.New(probe.Options{Dial: loopback, Report: func(r probe.Result) {
		select {
		case results <- r:
		default:
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	target.ID, target.Interval = "target", time.Millisecond
	if target.Timeout == 0 {
		target.Timeout = patience
	}
	p.Set([]probe.Target{target})
	select {
	case r := <-results:
		return r
	case <-time.After(2 * patience):
		t.Fatal("no result")
		return probe.Result{}
	}
}

// serve handles each connection to an address that it returns, until the test ends.
func serve(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return address(l.Addr())
}

// nobody is where nobody listens.
var nobody = netip.MustParseAddrPort("127.0.0.1:1")

func address(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// web answers a path such as /503 with that status; the others say what they are.
func web(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	switch r.URL.Path {
	case "/slow":
		<-r.Context().Done()
		return
	case "/slow-body":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	case "/huge":
		for range 1000 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
		return
	case "/told":
		if r.Host != "app.example:8443" || r.URL.RawQuery != "deep=1" || r.UserAgent() != "tailgate-health-check" {
			status = http.StatusTeapot
		}
	case "/named":
		if !strings.HasPrefix(r.Host, "Web.example:") {
			status = http.StatusTeapot
		}
	case "/redirect":
		http.Redirect(w, r, "/503", http.StatusFound)
		return
	case "/two":
		if r.ProtoMajor != 2 {
			status = http.StatusTeapot
		}
	default:
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err != nil {
			status = http.StatusOK
		}
	}
	w.WriteHeader(status)
}

// webServer is a server to be started. It does not log what its clients do wrong.
func webServer(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(web))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// secret is a certificate that nobody has reason to believe.
func secret(t *testing.T) tls.Certificate {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
}

// healthServer is a gRPC server whose services "well" and "" are serving, and "ill" is not.
func healthServer(t *testing.T, options ...grpc.ServerOption) netip.AddrPort {
	t.Helper()
	h := health.NewServer()
	h.SetServingStatus("well", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("ill", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	return grpcServer(t, h, options...)
}

func grpcServer(t *testing.T, h grpc_health_v1.HealthServer, options ...grpc.ServerOption) netip.AddrPort {
	t.Helper()
	s := grpc.NewServer(options...)
	if h != nil {
		grpc_health_v1.RegisterHealthServer(s, h)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return address(l.Addr())
}

// never does not answer a call before its caller gives up.
type never struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (never) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// checkServers starts those who are checked, and returns where.
func checkServers(t *testing.T) map[string]netip.AddrPort {
	t.Helper()
	plain, one, two := webServer(t), webServer(t), webServer(t)
	plain.Start()
	one.StartTLS()
	two.EnableHTTP2 = true
	two.StartTLS()
	certificate := secret(t)
	return map[string]netip.AddrPort{
		"http": address(plain.Listener.Addr()), "https": address(one.Listener.Addr()), "http2": address(two.Listener.Addr()),
		"grpc":      healthServer(t),
		"grpcs":     healthServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&certificate))),
		"no-health": grpcServer(t, nil),
		"hung":      grpcServer(t, never{}),
		"mute":      serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }),
		"ssh":       serve(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n"); _, _ = io.Copy(io.Discard, c) }),
		"hangs-up":  serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 4<<10)) }),
		"resets":    serve(t, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }),
		"rejects": serve(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			_ = c.(*net.TCPConn).SetLinger(0)
		}),
		"old-tls": serve(t, func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MaxVersion: tls.VersionTLS11}).Handshake()
		}),
		"sni": serve(t, func(c net.Conn) {
			s := tls.Server(c, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if h.ServerName != "app.example" {
					return nil, fmt.Errorf("no certificate for %q", h.ServerName)
				}
				return &certificate, nil
			}})
			_ = s.Handshake()
		}),
	}
}

// checkTests are checks of those servers. At "closed" nobody listens.
var checkTests = map[string]struct {
	server  string
	check   probe.Check
	timeout time.Duration
	want    probe.Reason
	// or is what else may be said, by how much of what the server says arrives before it hangs up.
	or []probe.Reason
}{
	"connect":                      {server: "mute"},
	"http":                         {server: "http", check: probe.Check{Kind: probe.HTTP}},
	"http-status":                  {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/503"}, want: "status-503"},
	"http-status-expected":         {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/404", Expected: []probe.StatusRange{{Low: 200, High: 204}, {Low: 404, High: 404}}}},
	"http-status-not-expected":     {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/205", Expected: []probe.StatusRange{{Low: 200, High: 204}}}, want: "status-205"},
	"http-redirects-are-answers":   {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/redirect"}},
	"http-redirects-are-not-200":   {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/redirect", Expected: []probe.StatusRange{{Low: 200, High: 200}}}, want: "status-302"},
	"http-host-and-query":          {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/told?deep=1", Host: "app.example:8443"}},
	"http-another-host":            {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/told?deep=1"}, want: "status-418"},
	"http-huge-body":               {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/huge"}},
	"http-slow":                    {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/slow"}, timeout: 50 * time.Millisecond, want: probe.Timeout},
	"http-slow-body":               {server: "http", check: probe.Check{Kind: probe.HTTP, Path: "/slow-body"}, timeout: 50 * time.Millisecond, want: probe.Timeout},
	"http-to-nobody":               {server: "closed", check: probe.Check{Kind: probe.HTTP}, want: probe.Refused},
	"http-to-silence":              {server: "mute", check: probe.Check{Kind: probe.HTTP}, timeout: 50 * time.Millisecond, want: probe.Timeout},
	"http-to-ssh":                  {server: "ssh", check: probe.Check{Kind: probe.HTTP}, want: probe.WrongProtocol},
	"http-to-grpc":                 {server: "grpc", check: probe.Check{Kind: probe.HTTP}, want: probe.WrongProtocol},
	"http-to-one-who-hangs-up":     {server: "hangs-up", check: probe.Check{Kind: probe.HTTP}, want: probe.Closed},
	"http-to-one-who-resets":       {server: "resets", check: probe.Check{Kind: probe.HTTP}, want: probe.Reset},
	"http-to-tls":                  {server: "https", check: probe.Check{Kind: probe.HTTP}, want: "status-400"},
	"https":                        {server: "https", check: probe.Check{Kind: probe.HTTPS, Path: "/200"}},
	"https-without-http2":          {server: "https", check: probe.Check{Kind: probe.HTTPS, Path: "/two"}, want: "status-418"},
	"https-with-http2":             {server: "http2", check: probe.Check{Kind: probe.HTTPS, Path: "/two"}},
	"https-host-and-query":         {server: "http2", check: probe.Check{Kind: probe.HTTPS, Path: "/told?deep=1", Host: "app.example:8443"}},
	"https-status":                 {server: "http2", check: probe.Check{Kind: probe.HTTPS, Path: "/500"}, want: "status-500"},
	"https-slow":                   {server: "http2", check: probe.Check{Kind: probe.HTTPS, Path: "/slow"}, timeout: 100 * time.Millisecond, want: probe.Timeout},
	"https-huge-body":              {server: "http2", check: probe.Check{Kind: probe.HTTPS, Path: "/huge"}},
	"https-to-http":                {server: "http", check: probe.Check{Kind: probe.HTTPS}, want: probe.WrongProtocol},
	"https-to-silence":             {server: "mute", check: probe.Check{Kind: probe.HTTPS}, timeout: 50 * time.Millisecond, want: probe.Timeout},
	"tls":                          {server: "https", check: probe.Check{Kind: probe.TLS}},
	"tls-too-old":                  {server: "old-tls", check: probe.Check{Kind: probe.TLS}, want: probe.TLSHandshake},
	"tls-by-name":                  {server: "sni", check: probe.Check{Kind: probe.TLS, Host: "app.example"}},
	"tls-by-name-without-its-port": {server: "sni", check: probe.Check{Kind: probe.TLS, Host: "app.example:8443"}},
	"tls-another-name":             {server: "sni", check: probe.Check{Kind: probe.TLS, Host: "other.example"}, want: probe.TLSHandshake},
	"tls-to-one-who-resets":        {server: "resets", check: probe.Check{Kind: probe.TLS}, want: probe.Reset},
	"tls-to-ssh":                   {server: "ssh", check: probe.Check{Kind: probe.TLS}, want: probe.WrongProtocol},
	"grpc":                         {server: "grpc", check: probe.Check{Kind: probe.GRPC}},
	"grpc-service":                 {server: "grpc", check: probe.Check{Kind: probe.GRPC, Service: "well"}},
	"grpc-not-serving":             {server: "grpc", check: probe.Check{Kind: probe.GRPC, Service: "ill"}, want: probe.NotServing},
	"grpc-unknown-service":         {server: "grpc", check: probe.Check{Kind: probe.GRPC, Service: "other"}, want: probe.UnknownService},
	"grpc-long-service":            {server: "grpc", check: probe.Check{Kind: probe.GRPC, Service: strings.Repeat("x", 300)}, want: probe.UnknownService},
	"grpc-without-health":          {server: "no-health", check: probe.Check{Kind: probe.GRPC}, want: probe.NoHealthService},
	"grpc-hung":                    {server: "hung", check: probe.Check{Kind: probe.GRPC}, timeout: 100 * time.Millisecond, want: probe.Timeout},
	"grpc-to-http":                 {server: "http", check: probe.Check{Kind: probe.GRPC}, want: probe.WrongProtocol, or: []probe.Reason{probe.Reset}},
	"grpc-to-one-who-rejects":      {server: "rejects", check: probe.Check{Kind: probe.GRPC}, want: probe.WrongProtocol, or: []probe.Reason{probe.Reset}},
	"grpc-to-one-who-resets":       {server: "resets", check: probe.Check{Kind: probe.GRPC}, want: probe.Reset},
	"grpc-to-one-who-hangs-up":     {server: "hangs-up", check: probe.Check{Kind: probe.GRPC}, want: probe.Closed, or: []probe.Reason{probe.Reset}},
	"http-to-one-who-rejects":      {server: "rejects", check: probe.Check{Kind: probe.HTTP}, want: "status-400", or: []probe.Reason{probe.Reset}},
	"grpc-to-tls":                  {server: "grpcs", check: probe.Check{Kind: probe.GRPC}, want: probe.WrongProtocol, or: []probe.Reason{probe.Closed, probe.Reset}},
	"grpc-to-nobody":               {server: "closed", check: probe.Check{Kind: probe.GRPC}, want: probe.Refused},
	"grpcs":                        {server: "grpcs", check: probe.Check{Kind: probe.GRPCS, Service: "well"}},
	"grpcs-not-serving":            {server: "grpcs", check: probe.Check{Kind: probe.GRPCS, Service: "ill"}, want: probe.NotServing},
	"grpcs-to-a-web-server":        {server: "http2", check: probe.Check{Kind: probe.GRPCS}, want: probe.WrongProtocol},
	"grpcs-to-one-without-http2":   {server: "https", check: probe.Check{Kind: probe.GRPCS}, want: probe.TLSHandshake},
	"grpcs-to-one-without-tls":     {server: "grpc", check: probe.Check{Kind: probe.GRPCS}, want: probe.WrongProtocol},
}

func TestChecks(t *testing.T) {
	servers := checkServers(t)
	for name, tc := range checkTests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tc.check.Validate(federation.TCP); err != nil {
				t.Fatal(err)
			}
			addr, ok := servers[tc.server]
			if !ok {
				addr = nobody
			}
			got := first(t, probe.Target{Addrs: []netip.AddrPort{addr}, Check: &tc.check, Timeout: tc.timeout})
			if got.Reason != tc.want && !slices.Contains(tc.or, got.Reason) || got.Reachable != (tc.want == "") || got.Reachable != (got.RTT > 0) {
				t.Errorf("got %+v, want reason %q", got, tc.want)
			}
		})
	}
}

func TestNamedTargets(t *testing.T) {
	s := webServer(t)
	s.Start()
	port := address(s.Listener.Addr()).Port()
	for name, tc := range map[string]struct {
		target string
		check  *probe.Check
		want   probe.Reason
	}{
		"connect":          {target: "Web.example."},
		"host-is-the-name": {target: "Web.example.", check: &probe.Check{Kind: probe.HTTP, Path: "/named"}},
		"nobody-has-it":    {target: "elsewhere", want: probe.UnknownName},
		"nobody-to-check":  {target: "elsewhere", check: &probe.Check{Kind: probe.GRPC}, want: probe.UnknownName},
	} {
		t.Run(name, func(t *testing.T) {
			got := first(t, probe.Target{Name: tc.target, Port: port, Check: tc.check})
			if got.Reason != tc.want || got.Reachable != (tc.want == "") {
				t.Errorf("got %+v, want reason %q", got, tc.want)
			}
		})
	}
}

// udpServer answers each datagram with one of its own, if it answers.
func udpServer(t *testing.T, answers bool) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, from, err := conn.ReadFrom(make([]byte, 100))
			if err != nil {
				return
			}
			if answers {
				_, _ = conn.WriteTo([]byte("an answer"), from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return address(conn.LocalAddr())
}

func TestUDP(t *testing.T) {
	for name, tc := range map[string]struct {
		addr    netip.AddrPort
		timeout time.Duration
		rtt     bool
		want    probe.Reason
	}{
		"answers":         {addr: udpServer(t, true), rtt: true},
		"does-not-refuse": {addr: udpServer(t, false), timeout: 50 * time.Millisecond},
		"refuses":         {addr: nobody, want: probe.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			for _, check := range []*probe.Check{nil, {}} {
				got := first(t, probe.Target{Addrs: []netip.AddrPort{tc.addr}, Protocol: federation.UDP, Check: check, Timeout: tc.timeout})
				if got.Reason != tc.want || got.Reachable != (tc.want == "") || (got.RTT > 0) != tc.rtt {
					t.Errorf("got %+v, want reason %q, with a time %v", got, tc.want, tc.rtt)
				}
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		check    probe.Check
		protocol federation.Protocol
		want     string
	}{
		"connect":               {},
		"connect-over-udp":      {protocol: federation.UDP},
		"http-over-udp":         {check: probe.Check{Kind: probe.HTTP}, protocol: federation.UDP, want: "leave the kind empty"},
		"unknown-kind":          {check: probe.Check{Kind: "smtp"}, want: "use http, https"},
		"path":                  {check: probe.Check{Kind: probe.HTTP, Path: "/a/b%20c?d=e&f"}},
		"path-without-slash":    {check: probe.Check{Kind: probe.HTTP, Path: "healthz"}, want: "begin it with /"},
		"path-of-another-host":  {check: probe.Check{Kind: probe.HTTP, Path: "http://elsewhere/"}, want: "begin it with /"},
		"path-with-a-line":      {check: probe.Check{Kind: probe.HTTP, Path: "/\r\nX: y"}, want: "begin it with /"},
		"host":                  {check: probe.Check{Kind: probe.HTTP, Host: "app.example:8443"}},
		"host-address":          {check: probe.Check{Kind: probe.HTTP, Host: "[fd7a::1]:80"}},
		"host-with-path":        {check: probe.Check{Kind: probe.HTTP, Host: "app.example/x"}, want: "use a host name"},
		"host-with-user":        {check: probe.Check{Kind: probe.HTTP, Host: "me@app.example"}, want: "use a host name"},
		"host-with-space":       {check: probe.Check{Kind: probe.HTTP, Host: "app example"}, want: "use a host name"},
		"statuses":              {check: probe.Check{Kind: probe.HTTP, Expected: []probe.StatusRange{{Low: 100, High: 599}}}},
		"statuses-out-of-range": {check: probe.Check{Kind: probe.HTTP, Expected: []probe.StatusRange{{Low: 200, High: 600}}}, want: "200-600"},
		"statuses-turned-round": {check: probe.Check{Kind: probe.HTTP, Expected: []probe.StatusRange{{Low: 300, High: 200}}}, want: "the lower first"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.check.Validate(tc.protocol)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
