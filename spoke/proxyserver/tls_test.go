package proxyserver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls/tlstest"
	"github.com/tailgate-project/tailgate/spoke/proxyserver"
)

// port is a spoke whose proxies come over TCP.
type port struct {
	spoke *spoke.Spoke
	addr  string
	ca    *tlstest.CA
	live  tlstest.Live
	log   *record
}

// record is a log.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func startTLS(t *testing.T, key proxyserver.KeyFunc) *port {
	t.Helper()
	p := &port{ca: tlstest.NewCA(t), log: &record{}}
	p.live.Set(p.ca, tlstest.Spoke, p.ca)
	var err error
	p.spoke, err = spoke.New(spoke.Config{
		Cluster: "c1", StateDir: t.TempDir(), EgressAddr: netip.MustParseAddr("127.0.0.1"), EgressPorts: spoke.PortRange{Low: 20000, High: 20009},
		Extension: nobody{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	server := proxyserver.New(p.spoke, slog.New(slog.NewTextHandler(p.log, nil)))
	server.Key = key
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- p.spoke.Run(ctx) }()
	go func() { ended <- server.ServeTLS(ctx, ln, p.live.Config()) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

// client is a proxy with a directory of certificates.
func (p *port) client(t *testing.T, dir string) proxyapi.SpokeClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(proxytls.Client(dir)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return proxyapi.NewSpokeClient(conn)
}

func TestOverTLSTheSpokeKeepsTalking(t *testing.T) {
	p := startTLS(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.spoke.Apply(ctx, update(1)); err != nil {
		t.Fatal(err)
	}
	configs, err := p.client(t, p.ca.Dir(tlstest.Proxy)).Watch(ctx, &proxyapi.WatchRequest{Role: "egress"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, configs, func(c *proxyapi.Config) bool { return len(c.GetEgress()) > 0 })
	for range 2 {
		beat := next(t, configs, func(c *proxyapi.Config) bool { return c.GetUnchanged() })
		if beat.GetVersion() != 0 || len(beat.GetEgress()) > 0 {
			t.Errorf("a beat says %v", beat)
		}
	}
}

func TestOnlyProxiesAreLetIn(t *testing.T) {
	p := startTLS(t, nil)
	stranger := tlstest.NewCA(t)
	for name, dir := range map[string]string{
		"of-another-ca": stranger.Dir(tlstest.Proxy), "envoy-gateway": p.ca.Dir(tlstest.EnvoyGateway), "a-spoke": p.ca.Dir(tlstest.Spoke),
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.spoke.Apply(t.Context(), update(1)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			configs, err := p.client(t, dir).Watch(ctx, &proxyapi.WatchRequest{Role: "egress"})
			if err == nil {
				_, err = configs.Recv()
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, want to be refused", err)
			}
		})
	}
	if got := strings.Count(p.log.String(), "refused a peer at the proxies' port"); got < 2 {
		t.Errorf("the log tells of %d refusals: %s", got, p.log)
	}
}

func TestAuthKeys(t *testing.T) {
	const secret = "tskey-auth-secret"
	var asked []string
	p := startTLS(t, func(_ context.Context, id spoke.ProxyID) (proxyserver.Key, error) {
		asked = append(asked, string(id.Role)+" "+id.Tailnet)
		switch id.Replica {
		case 1:
			return proxyserver.Key{}, errors.New("the hub is away")
		case 2:
			return proxyserver.Key{}, nil
		}
		return proxyserver.Key{AuthKey: secret, ControlURL: "http://control", Tags: []string{"tag:p"}}, nil
	})
	client := p.client(t, p.ca.Dir(tlstest.Proxy))
	ask := func(role string, replica uint32) (*proxyapi.AuthKeyResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return client.AuthKey(ctx, &proxyapi.AuthKeyRequest{Role: role, Replica: replica, Tailnet: "acme"})
	}
	got, err := ask("ingress", 0)
	if err != nil || got.GetKey() != secret || got.GetControlUrl() != "http://control" || strings.Join(got.GetTags(), " ") != "tag:p" {
		t.Errorf("got %v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		role    string
		replica uint32
		want    codes.Code
		says    string
	}{
		"again-at-once": {"ingress", 0, codes.ResourceExhausted, "may again in"},
		"no-role":       {"", 0, codes.InvalidArgument, "ingress or egress"},
		"hub-away":      {"egress", 1, codes.Unavailable, "the hub is away"},
		"empty":         {"egress", 2, codes.Unavailable, "the answer was empty"},
	} {
		if _, err := ask(tc.role, tc.replica); status.Code(err) != tc.want || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %v %q", name, err, tc.want, tc.says)
		}
	}
	if len(asked) != 3 {
		t.Errorf("asked %q", asked)
	}
	if strings.Contains(p.log.String(), secret) {
		t.Errorf("the log tells the key: %s", p.log)
	}
}

func TestThePaceOfKeys(t *testing.T) {
	now := time.Unix(0, 0)
	p := proxyserver.NewPacer(func() time.Time { return now })
	pauses := []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second, 2 * time.Minute, 2 * time.Minute}
	for i, pause := range pauses {
		end, err := p.Begin(0)
		if err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if _, err := p.Begin(0); err == nil {
			t.Error("two questions at a time")
		}
		other, err := p.Begin(uint32(i + 1))
		if err != nil {
			t.Errorf("another proxy has to wait: %v", err)
		}
		other()
		end()
		now = now.Add(pause - time.Millisecond)
		if _, err := p.Begin(0); err == nil {
			t.Errorf("key %d came after less than %v", i+1, pause)
		}
		now = now.Add(time.Millisecond)
	}
	now = now.Add(15 * time.Minute)
	end, err := p.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	end()
	now = now.Add(2 * time.Second)
	if _, err := p.Begin(0); err != nil {
		t.Errorf("after a calm time: %v", err)
	}
}
