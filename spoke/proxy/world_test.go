package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	tsapi "tailscale.com/client/tailscale/v2"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// patience bounds every wait. It is for a loaded machine: what waits ends as soon as it can.
const patience = 2 * time.Minute

const policy = `{
	"tagOwners": {"tag:tailgate-proxy": [], "tag:tailgate-spoke": [], "tag:other": []},
	"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
	"autoApprovers": {"services": {"tag:tailgate-proxy": ["tag:tailgate-proxy"]}},
}`

const apiKey = "tskey-api-test"

// world is a tailnet for one test.
type world struct {
	*tailnet.Tailnet
	t   *testing.T
	api *tsapi.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	tn := tailnet.ForTest(t, tailnet.Options{Policy: policy, APIKey: apiKey, FailoverAfter: time.Hour})
	base, err := url.Parse(tn.URL())
	if err != nil {
		t.Fatal(err)
	}
	return &world{Tailnet: tn, t: t, api: &tsapi.Client{BaseURL: base, APIKey: apiKey}}
}

// runInBackground runs until the test has ended and returns a function that ends it earlier.
func runInBackground(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// key mints an auth key.
func (w *world) key(tags ...string) string {
	w.t.Helper()
	key, err := w.MintKey(tailnet.KeyOptions{Tags: tags})
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// vip makes a Tailscale Service and returns its IPv4 address.
func (w *world) vip(name string) netip.Addr {
	w.t.Helper()
	ctx := w.t.Context()
	service := tsapi.VIPService{Name: "svc:" + name, Ports: []string{"tcp:80"}, Tags: []string{"tag:tailgate-proxy"}}
	if err := w.api.VIPServices().CreateOrUpdate(ctx, service); err != nil {
		w.t.Fatal(err)
	}
	made, err := w.api.VIPServices().Get(ctx, "svc:"+name)
	if err != nil {
		w.t.Fatal(err)
	}
	return netip.MustParseAddr(made.Addrs[0])
}

// spoke is a spoke's end of the protocol, under the test's command.
type spoke struct {
	proxyapi.UnimplementedSpokeServer
	t      *testing.T
	socket string
	// keys answers the requests for auth keys.
	keys func(*proxyapi.AuthKeyRequest) (*proxyapi.AuthKeyResponse, error)

	mu       sync.Mutex
	config   *proxyapi.Config
	changed  chan struct{}
	status   *proxyapi.Status
	results  map[string]*proxyapi.ProbeResult
	reported chan struct{}
	stop     func()
}

func newSpoke(t *testing.T) *spoke {
	t.Helper()
	// A socket's path must be short, which a test's temporary directory need not be.
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &spoke{
		t: t, socket: filepath.Join(dir, "spoke"), changed: make(chan struct{}), reported: make(chan struct{}),
		status: &proxyapi.Status{}, results: map[string]*proxyapi.ProbeResult{},
	}
	s.start()
	return s
}

func (s *spoke) start() {
	s.t.Helper()
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	server := grpc.NewServer()
	proxyapi.RegisterSpokeServer(server, s)
	s.stop = runInBackground(s.t, func(ctx context.Context) error {
		context.AfterFunc(ctx, server.Stop)
		return server.Serve(listener)
	})
}

func (s *spoke) AuthKey(ctx context.Context, r *proxyapi.AuthKeyRequest) (*proxyapi.AuthKeyResponse, error) {
	if s.keys == nil {
		return s.UnimplementedSpokeServer.AuthKey(ctx, r)
	}
	return s.keys(r)
}

func (s *spoke) Watch(_ *proxyapi.WatchRequest, stream grpc.ServerStreamingServer[proxyapi.Config]) error {
	for {
		s.mu.Lock()
		config, changed := s.config, s.changed
		s.mu.Unlock()
		if config != nil {
			if err := stream.Send(config); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *spoke) Report(stream grpc.ClientStreamingServer[proxyapi.Status, proxyapi.ReportResponse]) error {
	for {
		status, err := stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.status = status
		for _, r := range status.GetResults() {
			s.results[r.GetId()] = r
		}
		close(s.reported)
		s.reported = make(chan struct{})
		s.mu.Unlock()
	}
}

// set changes the configuration and waits until the proxy has applied it.
func (s *spoke) set(change func(*proxyapi.Config)) {
	s.t.Helper()
	version := s.send(change)
	s.await("version applied", func() bool { return s.status.GetAppliedVersion() >= version })
}

// send changes the configuration.
func (s *spoke) send(change func(*proxyapi.Config)) (version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &proxyapi.Config{}
	if s.config != nil {
		next = proto.Clone(s.config).(*proxyapi.Config)
	}
	change(next)
	next.Version++
	s.config = next
	close(s.changed)
	s.changed = make(chan struct{})
	return next.GetVersion()
}

// await waits until what was reported satisfies condition, which is called with the lock held.
func (s *spoke) await(what string, condition func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		ok, reported, status := condition(), s.reported, s.status
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-reported:
		case <-deadline:
			s.t.Fatalf("%s: not after %v; last status: %v", what, patience, status)
		}
	}
}

// options are those of a proxy of this spoke.
func (w *world) options(s *spoke, role proxy.Role, hostname string) proxy.Options {
	return proxy.Options{
		Role: role, Socket: s.socket, StateDir: w.t.TempDir(), ControlURL: w.URL(), Hostname: hostname,
		AuthKey: w.key("tag:tailgate-proxy"), Version: "v0.0.0-test", DrainTimeout: time.Second, Logger: testLogger(w.t),
	}
}

// tryLong has a proxy try to reach a VIP for longer than a test has patience: what ends sooner was not tried again.
func tryLong(o *proxy.Options) { o.DialTimeout = 2 * patience }

// poll checks again and again until check returns "", which tells what is still missing.
func poll(t *testing.T, check func() (missing string)) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := check()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still missing after %v: %s", patience, missing)
		}
	}
}

// testLogger shows a test's logs where the test fails or is verbose.
func testLogger(t *testing.T) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("PROXY_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// run starts a proxy in this process.
func (w *world) run(o proxy.Options) (stop func()) {
	w.t.Helper()
	return runInBackground(w.t, func(ctx context.Context) error { return proxy.Run(ctx, o) })
}

// spawn starts a proxy in a process of its own, which can be killed.
func (w *world) spawn(o proxy.Options) *os.Process {
	w.t.Helper()
	o.Logger = nil
	options, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childOptions+"="+string(options))
	cmd.Stdout, cmd.Stderr = w.t.Output(), w.t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process
}

// backend is a TCP server that answers each line with its name and the line, and ends after its client has ended.
func backend(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serveLines(conn, name)
			}()
		}
	}()
	return listener.Addr().String()
}

// serveLines writes back what it reads, prefixed, and a farewell once the client has said its last.
func serveLines(conn io.ReadWriter, name string) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			fmt.Fprintf(conn, "%s: %s", name, buffer[:n])
		}
		if err != nil {
			fmt.Fprintf(conn, "%s: bye\n", name)
			return
		}
	}
}
