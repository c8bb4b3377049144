package clusters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// failuresForDown is how many probes in a row must fail before an API server counts as lost.
const failuresForDown = 2

// prober asks a member's API server, through the connection of its watches, whether it is there.
//
// It is what tells the hub of a broken path: client-go takes a watch that cannot be dialled for one that ended, and
// tries again without telling anybody.
type prober struct {
	cluster           federation.ClusterID
	url               string
	client            *http.Client
	interval, timeout time.Duration
	sink              Sink
	wake              chan struct{}

	mu     sync.Mutex
	synced bool
	// reason is why the member's objects cannot be read, as far as is known.
	reason error
}

func newProber(o Options, m Member, c *http.Client) *prober {
	return &prober{
		cluster: m.ID, url: m.url() + "/version", client: c,
		interval: o.Probe, timeout: o.ProbeTimeout, sink: o.Sink, wake: make(chan struct{}, 1),
	}
}

// setSynced says that all objects of the member are read, or that reading begins anew. A member that was up stays up
// then: it has only more to say.
func (p *prober) setSynced(synced bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced, p.reason = synced, nil
	p.signal()
}

// trouble says why the member's objects cannot be read. It counts until they are.
func (p *prober) trouble(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.synced {
		return // what is read stays; if the API server is away, the probes fail
	}
	p.reason = err
	p.signal()
}

func (p *prober) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run probes until ctx ends, and reports each change. Its error is the sink's.
func (p *prober) run(ctx context.Context) error {
	ticker := time.NewTicker(p.interval)
	defer ticker.Stop()
	var last *bool
	for failures := 0; ; {
		err := p.probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failures = 0
		} else {
			failures++
		}
		up, reason, known := p.verdict(err, failures)
		if known && (last == nil || *last != up) {
			if err := p.sink.APIState(ctx, p.cluster, up, reason); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("report the API server of %s: %w", p.cluster, err)
			}
			last = &up
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-p.wake:
		}
	}
}

// verdict says what the last probe and the state of the informers mean together, if anything yet.
func (p *prober) verdict(probe error, failures int) (up bool, reason string, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case probe != nil:
		return false, "the API server does not answer: " + probe.Error(), failures >= failuresForDown
	case p.synced:
		return true, "the API server answers and its objects are read", true
	case p.reason != nil:
		return false, "its objects cannot be read: " + p.reason.Error(), true
	}
	return false, "", false
}

func (p *prober) probe(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", res.Status)
	}
	return nil
}
