package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

// counted counts calls by method and whether they are about one service.
type counted struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.calls[r.Method]++
	c.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

// TestManyVIPsAtOnce makes many VIPs as the hub does after its first start: what that costs is the writes and little more.
func TestManyVIPsAtOnce(t *testing.T) {
	const vips, workers = 200, 16
	tn := start(t)
	calls := &counted{calls: map[string]int{}}
	api := newAPI(t, tailnet.APIOptions{
		BaseURL: tn.URL(), Transport: calls, Sleep: func(context.Context, time.Duration) error { return nil },
	})
	var g errgroup.Group
	g.SetLimit(workers)
	given := make([][]netip.Addr, vips)
	for i := range vips {
		g.Go(func() (err error) {
			given[i], err = api.EnsureVIP(t.Context(), numbered(i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	owner := map[netip.Addr]int{}
	for i, addrs := range given {
		if j, taken := owner[addrs[0]]; taken {
			t.Errorf("VIPs %d and %d were both given %v", i, j, addrs[0])
		}
		owner[addrs[0]] = i
	}
	if calls.calls[http.MethodPut] != vips || calls.calls[http.MethodGet] > vips {
		t.Errorf("%v calls for %d VIPs: want a write each, and reads together", calls.calls, vips)
	}
	found, err := api.ListVIPs(t.Context())
	if err != nil || len(found) != vips {
		t.Errorf("the tailnet has %d VIPs, %v", len(found), err)
	}
}

func numbered(i int) federation.VIP {
	v := webVIP()
	v.Owner.Service.Name = fmt.Sprint("web-", i)
	v.ServiceName = fmt.Sprint("local-prod-web-", i, "-c1")
	return v
}

// TestOneOfManyGivesUp has a caller end while its read waits for the others: they get their answers.
func TestOneOfManyGivesUp(t *testing.T) {
	tn := start(t)
	held, release := make(chan struct{}, 64), make(chan struct{})
	slow := roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet {
			held <- struct{}{}
			<-release
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL(), Transport: slow, Sleep: func(context.Context, time.Duration) error { return nil }})
	var g errgroup.Group
	g.Go(func() error { _, err := api.EnsureVIP(t.Context(), numbered(0)); return err })
	<-held
	for i := range 8 {
		g.Go(func() error { _, err := api.EnsureVIP(t.Context(), numbered(1+i)); return err })
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := api.EnsureVIP(ctx, numbered(9)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	close(release)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
