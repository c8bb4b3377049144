package proxyserver_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxyserver"
)

const patience = 2 * time.Minute

// nobody is an extension that nobody listens to.
type nobody struct{}

func (nobody) SetStructure(spoke.Structure)                       {}
func (nobody) SetEndpoints(map[spoke.Assignment][]spoke.Endpoint) {}

// start runs a spoke with its server, and returns the spoke and a client.
func start(t *testing.T) (*spoke.Spoke, proxyapi.SpokeClient, string) {
	t.Helper()
	s, err := spoke.New(spoke.Config{
		Cluster: "c1", StateDir: t.TempDir(), EgressAddr: netip.MustParseAddr("127.0.0.1"), EgressPorts: spoke.PortRange{Low: 20000, High: 20009},
		Extension: nobody{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tg") // short: the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s", "proxy.sock")
	ln, err := proxyserver.Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- proxyserver.New(s, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return s, proxyapi.NewSpokeClient(conn), socket
}

func update(version uint64) linkstate.Update {
	web := federation.Service("a", "web")
	ports := []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}
	return linkstate.Update{Epoch: 1, Version: version, Full: true, Upserts: []linkstate.Resource{
		{VIP: &federation.VIP{Owner: federation.ExportKey{Cluster: "c1", Service: web}, ServiceName: "web-c1", Ports: ports}},
		{EndpointSet: &federation.EndpointSet{Consumer: "c1", Service: web, Endpoints: []federation.Endpoint{
			{Cluster: "c2", Addr: netip.MustParseAddr("100.100.0.2"), Ports: ports, Weight: 1},
		}}},
		{Peer: &federation.Peer{Cluster: "c2", Ingress: []netip.AddrPort{netip.MustParseAddrPort("100.64.0.2:9440")}}},
	}}
}

func TestConfigAndProbesGoRound(t *testing.T) {
	s, client, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Apply(ctx, update(1)); err != nil {
		t.Fatal(err)
	}
	configs, err := client.Watch(ctx, &proxyapi.WatchRequest{Role: "egress"})
	if err != nil {
		t.Fatal(err)
	}
	config := next(t, configs, func(c *proxyapi.Config) bool { return len(c.GetEgress()) > 0 })
	e := config.GetEgress()[0]
	if e.GetListen() != "127.0.0.1:20000" || e.GetRemote() != "100.100.0.2:80" || e.GetCluster() != "c2" || e.GetReset_() || e.GetService() != "Service/a/web" {
		t.Errorf("egress %v", e)
	}
	probes := map[string]*proxyapi.Probe{}
	for _, p := range config.GetProbes() {
		probes[p.GetId()] = p
	}
	fast, slow := probes["cluster/c2"], probes["vip/c2/Service/a/web"]
	if fast.GetIntervalMs() != 500 || fast.GetTimeoutMs() != 500 || fast.GetIngressOf() != "c2" || strings.Join(fast.GetAddrs(), " ") != "100.64.0.2:9440" {
		t.Errorf("fast probe %v", fast)
	}
	if slow.GetIntervalMs() != 5000 || slow.GetIngressOf() != "" || strings.Join(slow.GetAddrs(), " ") != "100.100.0.2:80" {
		t.Errorf("slow probe %v", slow)
	}

	report, err := client.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = report.Send(&proxyapi.Status{
		Role: "egress", NodeId: "n", Addr: "100.64.0.9", AppliedVersion: config.GetVersion(),
		Results: []*proxyapi.ProbeResult{{Id: "cluster/c2", AgeMs: 10, Error: "timeout"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	after := next(t, configs, func(c *proxyapi.Config) bool { return c.GetVersion() > config.GetVersion() })
	if !after.GetEgress()[0].GetReset_() {
		t.Error("the cluster is unreachable and its connections are not reset")
	}
}

func next(t *testing.T, from grpc.ServerStreamingClient[proxyapi.Config], f func(*proxyapi.Config) bool) *proxyapi.Config {
	t.Helper()
	for {
		c, err := from.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if f(c) {
			return c
		}
	}
}

func TestBadReportsAreRefused(t *testing.T) {
	_, client, _ := start(t)
	for name, tc := range map[string][]*proxyapi.Status{
		"unknown-role":     {{Role: "both"}},
		"bad-address":      {{Role: "ingress", Addr: "somewhere"}},
		"two-in-one":       {{Role: "ingress"}, {Role: "ingress", Replica: 1}},
		"change-of-a-role": {{Role: "ingress"}, {Role: "egress"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := client.Report(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, st := range tc {
				if stream.Send(st) != nil {
					break // the answer says why
				}
			}
			if _, err := stream.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("error %v, want InvalidArgument", err)
			}
		})
	}
}

func TestSocketInUse(t *testing.T) {
	_, _, socket := start(t)
	if _, err := proxyserver.Listen(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "--proxy-socket") {
		t.Errorf("error %v, want one that names the flag", err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v; want it for the own user only", info.Mode(), err)
	}
	if _, err := proxyserver.Listen(t.Context(), "/tmp/"+strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "--proxy-socket") {
		t.Errorf("error %v for a long path, want one that names the flag", err)
	}
}
