package tailnet_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/netns"
	testnet "github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/spoke/tailnet"
)

func TestMain(m *testing.M) { os.Exit(netns.RunTests(m)) }

const (
	spokeTag = "tag:tailgate-spoke"
	hubTag   = "tag:tailgate-hub"
	patience = 2 * time.Minute
)

func start(t *testing.T) *testnet.Tailnet {
	t.Helper()
	return testnet.ForTest(t, testnet.Options{})
}

func mint(t *testing.T, tn *testnet.Tailnet, tag string) string {
	t.Helper()
	key, err := tn.MintKey(testnet.KeyOptions{Tags: []string{tag}})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func options(t *testing.T, url, host, key string) tailnet.Options {
	return tailnet.Options{
		Dir: t.TempDir(), Hostname: host, ControlURL: url, AuthKey: key, KeySource: "--join-key-file /k", Log: slog.New(slog.DiscardHandler),
	}
}

func join(t *testing.T, o tailnet.Options) *tailnet.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := tailnet.Join(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func closeAfter(t *testing.T, n *tailnet.Node) *tailnet.Node {
	t.Helper()
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close node: %v", err)
		}
	})
	return n
}

func TestBadKeysSayWhatToDo(t *testing.T) {
	tn := start(t)
	used := mint(t, tn, spokeTag)
	closeAfter(t, join(t, options(t, tn.URL(), "first", used)))
	for name, tc := range map[string]struct {
		options tailnet.Options
		is      error
		says    []string
	}{
		"no-key":    {options(t, tn.URL(), "spoke", ""), tailnet.ErrNoKey, []string{"never joined", "--join-key-file /k"}},
		"wrong-key": {options(t, tn.URL(), "spoke", "tskey-auth-wrong"), tailnet.ErrKeyRefused, []string{"--join-key-file /k", "not expired"}},
		"used-up":   {options(t, tn.URL(), "spoke", used), tailnet.ErrKeyRefused, []string{"--join-key-file /k", "not used up"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			n, err := tailnet.Join(ctx, tc.options)
			if err == nil {
				closeAfter(t, n)
			}
			if !errors.Is(err, tc.is) {
				t.Fatalf("error %v, want %v", err, tc.is)
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if k := tc.options.AuthKey; k != "" && strings.Contains(err.Error(), k) {
				t.Errorf("the error has the key in it: %v", err)
			}
		})
	}
}

func TestSilentControlServerIsATimeout(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	o := options(t, "http://"+ln.Addr().String(), "spoke", "tskey-auth-x")
	o.Timeout = 2 * time.Second
	_, err = tailnet.Join(t.Context(), o)
	if !errors.Is(err, tailnet.ErrTimeout) || !strings.Contains(err.Error(), "--control-url") {
		t.Errorf("error %v, want a timeout that names the flag", err)
	}
}

func TestRejoinsWithoutAKey(t *testing.T) {
	tn := start(t)
	o := options(t, tn.URL(), "spoke", mint(t, tn, spokeTag))
	n := join(t, o)
	before, _ := n.Addrs()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	o.AuthKey = ""
	after, _ := closeAfter(t, join(t, o)).Addrs()
	if before != after {
		t.Errorf("address %s before and %s after", before, after)
	}
}

func TestOnlyTheRightPeerIsDialled(t *testing.T) {
	tn := start(t)
	spoke := closeAfter(t, join(t, options(t, tn.URL(), "spoke", mint(t, tn, spokeTag))))
	hub := closeAfter(t, join(t, options(t, tn.URL(), "tailgate-hub", mint(t, tn, hubTag))))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hubAddr, _ := hub.Addrs()
	spokeAddr, _ := spoke.Addrs()

	ln, err := hub.Listen(7443)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- answerOnce(ctx, ln, hub) }()

	addr := find(ctx, t, spoke, "tailgate-hub")
	if addr != hubAddr {
		t.Errorf("found %s, want %s", addr, hubAddr)
	}
	if byAddr, err := spoke.Find(ctx, hubAddr.String(), hubTag); err != nil || byAddr != hubAddr {
		t.Errorf("by address: %s, %v", byAddr, err)
	}
	conn, err := spoke.DialPeer(ctx, netip.AddrPortFrom(addr, 7443), hubTag)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || string(text) != spokeTag {
		t.Errorf("the hub sees %q, %v; want the spoke's tag", text, err)
	}
	if err := errors.Join(conn.Close(), <-served); err != nil {
		t.Error(err)
	}

	for name, dial := range map[string]func() error{
		"peer-without-the-tag": func() error {
			_, err := spoke.DialPeer(ctx, netip.AddrPortFrom(hubAddr, 7443), "tag:tailgate-proxy")
			return err
		},
		"nobody-in-the-tailnet": func() error {
			_, err := spoke.DialPeer(ctx, netip.MustParseAddrPort("100.127.99.99:7443"), hubTag)
			return err
		},
		"an-address-of-the-host": func() error {
			_, err := spoke.DialPeer(ctx, netip.MustParseAddrPort("127.0.0.1:80"), hubTag)
			return err
		},
		"find-by-an-unknown-name": func() error {
			_, err := spoke.Find(ctx, "other-hub", hubTag)
			return err
		},
		"find-the-address-of-another": func() error {
			_, err := spoke.Find(ctx, spokeAddr.String(), hubTag)
			return err
		},
	} {
		if err := dial(); !errors.Is(err, tailnet.ErrNotPeer) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if _, err := spoke.Find(ctx, "other-hub", hubTag); !strings.Contains(err.Error(), "tailgate-hub") || !strings.Contains(err.Error(), "--hub") {
		t.Errorf("error %v does not name the flag and the hub that there is", err)
	}
}

// answerOnce tells the first peer which tag it is known by.
func answerOnce(ctx context.Context, ln net.Listener, hub *tailnet.Node) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	p, err := hub.WhoIs(ctx, conn.RemoteAddr().String())
	if err == nil {
		_, err = io.WriteString(conn, strings.Join(p.Tags, ","))
	}
	return errors.Join(err, conn.Close())
}

// find waits until the node has heard of the peer.
func find(ctx context.Context, t *testing.T, n *tailnet.Node, name string) netip.Addr {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		addr, err := n.Find(ctx, name, hubTag)
		if err == nil {
			return addr
		}
		select {
		case <-ctx.Done():
			t.Fatalf("find %s: %v", name, err)
		case <-ticker.C:
		}
	}
}
