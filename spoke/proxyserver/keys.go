package proxyserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// Key is what a proxy needs to join its tailnet.
type Key struct {
	// AuthKey is secret.
	AuthKey string
	// ControlURL is the tailnet's control server; empty means Tailscale's.
	ControlURL string
	// Tags are those that the key gives.
	Tags []string
}

// KeyFunc makes an auth key for a proxy.
type KeyFunc func(ctx context.Context, id spoke.ProxyID) (Key, error)

// How long a proxy has to wait between two keys. Each answer, good or bad, doubles it, so that a proxy that cannot join
// and asks for ever does not use up what the Tailscale API allows; after a time without questions it begins anew.
const (
	minKeyPause = 2 * time.Second
	maxKeyPause = 2 * time.Minute
	keyCalm     = 15 * time.Minute
	// maxAsking is how many proxies are remembered that asked lately.
	maxAsking = 10000
)

// pace is how a proxy has asked lately.
type pace struct {
	busy  bool
	pause time.Duration
	// answered is when it got its last answer.
	answered time.Time
}

// pacer lets each proxy ask for one key at a time, and not too often.
type pacer struct {
	now func() time.Time

	mu     sync.Mutex
	askers map[spoke.ProxyID]*pace
}

func newPacer(now func() time.Time) *pacer {
	return &pacer{now: now, askers: map[spoke.ProxyID]*pace{}}
}

var (
	errAsking = errors.New("another request of this proxy is being answered")
	errMany   = errors.New("too many proxies have asked for keys")
)

// begin lets a proxy ask, or says why it may not. The caller calls end when it has an answer.
func (p *pacer) begin(a spoke.ProxyID) (end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	maps.DeleteFunc(p.askers, func(_ spoke.ProxyID, x *pace) bool { return !x.busy && now.Sub(x.answered) >= keyCalm })
	x := p.askers[a]
	switch {
	case x == nil && len(p.askers) >= maxAsking:
		return nil, errMany
	case x == nil:
		x = &pace{}
		p.askers[a] = x
	case x.busy:
		return nil, errAsking
	case now.Sub(x.answered) < x.pause:
		return nil, fmt.Errorf("it asked a short time ago and may again in %v", (x.pause - now.Sub(x.answered)).Round(time.Second))
	}
	x.busy = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		x.busy, x.answered, x.pause = false, p.now(), min(max(2*x.pause, minKeyPause), maxKeyPause)
	}, nil
}

// AuthKey gives a proxy what it needs to join its tailnet. No key is ever logged.
func (s *Server) AuthKey(ctx context.Context, r *proxyapi.AuthKeyRequest) (*proxyapi.AuthKeyResponse, error) {
	role, err := parseRole(r.GetRole())
	if err != nil {
		return nil, err
	}
	id := spoke.ProxyID{Role: role, Tailnet: r.GetTailnet(), Replica: r.GetReplica()}
	if s.Key == nil {
		return nil, status.Error(codes.Unimplemented, "this spoke gives no auth keys: give the proxy one")
	}
	end, err := s.pacer.begin(id)
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	defer end()
	log := s.log.With("role", string(id.Role), "tailnet", id.Tailnet, "replica", id.Replica)
	key, err := s.Key(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "no auth key: %v", err)
	case key.AuthKey == "":
		return nil, status.Error(codes.Unavailable, "no auth key: the answer was empty")
	}
	log.Info("gave a proxy an auth key")
	return &proxyapi.AuthKeyResponse{Key: key.AuthKey, ControlUrl: key.ControlURL, Tags: key.Tags}, nil
}
