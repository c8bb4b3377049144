package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store/mem"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// mint makes the spoke give auth keys, and returns a function that returns those given and what was asked.
func (w *world) mint(s *spoke) (given func() (keys []string, asked []*proxyapi.AuthKeyRequest)) {
	var mu sync.Mutex
	var keys []string
	var asked []*proxyapi.AuthKeyRequest
	s.keys = func(r *proxyapi.AuthKeyRequest) (*proxyapi.AuthKeyResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r)
		if len(asked) == 1 {
			return nil, status.Error(codes.ResourceExhausted, "it asked a short time ago")
		}
		keys = append(keys, w.key("tag:tailgate-proxy"))
		return &proxyapi.AuthKeyResponse{Key: keys[len(keys)-1], ControlUrl: w.URL(), Tags: []string{"tag:tailgate-proxy"}}, nil
	}
	return func() ([]string, []*proxyapi.AuthKeyRequest) {
		mu.Lock()
		defer mu.Unlock()
		return keys, asked
	}
}

// awaitReady waits until the proxy says that it does its work.
func awaitReady(t *testing.T, r *proxy.Readiness) {
	t.Helper()
	poll(t, func() string {
		if err := r.Err(); err != nil {
			return err.Error()
		}
		return ""
	})
}

func TestAKeyFromTheSpoke(t *testing.T) {
	w := newWorld(t)
	s := newSpoke(t)
	given := w.mint(s)
	var log bytes.Buffer
	var mu sync.Mutex
	o := w.options(s, proxy.Egress, "egress-c1")
	o.AuthKey, o.ControlURL, o.Tailnet, o.Replica, o.Ready = "", "", "acme", 3, &proxy.Readiness{}
	o.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Ready.Err() == nil {
		t.Error("ready before it has begun")
	}
	stop := w.run(o)
	poll(t, func() string {
		if err := fmt.Sprint(o.Ready.Err()); !strings.Contains(err, "first configuration") {
			return "joined without a configuration: " + err
		}
		return ""
	})
	s.set(func(c *proxyapi.Config) { c.Cluster = "c1" })
	awaitReady(t, o.Ready)
	keys, asked := given()
	if len(keys) != 1 || len(asked) != 2 || asked[1].GetRole() != "egress" || asked[1].GetReplica() != 3 || asked[1].GetTailnet() != "acme" {
		t.Errorf("%d keys, asked %v", len(keys), asked)
	}
	stop()
	if err := o.Ready.Err(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("after its end it is %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, key := range keys {
		if strings.Contains(log.String(), key) {
			t.Error("the key is in the log")
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// keptStore outlives a node. The tailnet library takes a plain store in memory for ephemeral nodes only.
type keptStore struct{ mem.Store }

// TestIdentity follows one identity, kept outside the state directory, through restarts and the loss of its device.
func TestIdentity(t *testing.T) {
	w := newWorld(t)
	s := newSpoke(t)
	given := w.mint(s)
	store := &keptStore{}
	start := func() (o proxy.Options, id func() string, ended chan error, stop func()) {
		o = w.options(s, proxy.Ingress, "ingress-c1")
		o.AuthKey, o.ControlURL, o.StateDir, o.Store, o.Ready = "", "", t.TempDir(), store, &proxy.Readiness{}
		ctx, cancel := context.WithCancel(t.Context())
		ended = make(chan error, 1)
		s.mu.Lock()
		s.status = &proxyapi.Status{}
		s.mu.Unlock()
		go func() { ended <- proxy.Run(ctx, o) }()
		return o, func() string {
			s.await("its report", func() bool { return s.status.GetNodeId() != "" })
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.status.GetNodeId()
		}, ended, cancel
	}
	_, id, ended, stop := start()
	first := id()
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if v, err := store.ReadState(ipn.CurrentProfileStateKey); err != nil || len(v) == 0 {
		t.Fatalf("the identity is not in the store: %q, %v", v, err)
	}

	_, id, ended, _ = start()
	if again := id(); again != first {
		t.Errorf("after a restart it is %s, not %s", again, first)
	}
	if keys, _ := given(); len(keys) != 1 {
		t.Errorf("it took %d keys", len(keys))
	}
	if err := w.api.Devices().Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "does not know this node any more") {
		t.Errorf("the device was deleted and it ended with %v", err)
	}

	_, id, ended, stop = start()
	if after := id(); after == first {
		t.Errorf("it is %s again, which was deleted", after)
	}
	if keys, _ := given(); len(keys) != 2 {
		t.Errorf("it took %d keys in all", len(keys))
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestOwnListenAddress(t *testing.T) {
	w := newWorld(t)
	s := newSpoke(t)
	o := w.options(s, proxy.Egress, "egress-c1")
	o.ListenAddr = netip.MustParseAddr("127.0.0.7")
	w.run(o)
	s.set(func(c *proxyapi.Config) {
		c.Egress = []*proxyapi.Egress{{Listen: "0.0.0.0:18080", Remote: "100.100.0.1:80", Protocol: "TCP", Cluster: "c2"}}
	})
	s.await("its address", func() bool { return s.status.GetListenAddr() == "127.0.0.7" && len(s.status.GetErrors()) == 0 })
	conn, err := net.Dial("tcp", "127.0.0.7:18080")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := net.Dial("tcp", "127.0.0.1:18080"); err == nil {
		conn.Close()
		t.Error("it listens elsewhere, too")
	}
}
