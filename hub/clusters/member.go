package clusters

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"
)

const (
	lastRetry = 30 * time.Second
	// closeDelay is how long after its end a member's idle connections are closed: at once is too early, because the
	// streams of its watches are still being reset and keep the connection in use.
	closeDelay = 2 * time.Second
)

// errServesOthers ends an engagement because the member serves other kinds than before.
var errServesOthers = errors.New("the member serves other kinds than before")

// watch keeps a member engaged and probed until ctx ends. Its error is the sink's.
func (p *Provider) watch(ctx context.Context, m Member, aware multicluster.Aware) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := p.newClient(m)
	defer time.AfterFunc(closeDelay, client.CloseIdleConnections)
	probe := newProber(p.Options, m, client)
	var failed error
	var probing sync.WaitGroup
	probing.Go(func() {
		failed = probe.run(ctx)
		cancel()
	})
	for delay := p.Retry; ctx.Err() == nil; {
		err := p.engage(ctx, m, client, probe, aware)
		switch {
		case ctx.Err() != nil:
			continue
		case errors.Is(err, errServesOthers):
			p.Log.Info("member is engaged anew", "cluster", m.ID, "because", err)
			delay = p.Retry
			continue
		}
		probe.trouble(err)
		p.Log.Warn("member is not engaged, will retry", "cluster", m.ID, "in", delay, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, lastRetry)
	}
	probing.Wait()
	return failed
}

// engage syncs a member's informers, engages it, and stays until ctx ends or the member serves other kinds.
func (p *Provider) engage(ctx context.Context, m Member, client *http.Client, probe *prober, aware multicluster.Aware) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served, err := discover(ctx, m, client)
	if err != nil {
		return err
	}
	e, err := p.newCluster(ctx, m, client, served, probe)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- e.Start(ctx) // returns when all informers have ended
	}()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	// Without a bound: the reflectors try again by themselves, and a new cluster would begin from nothing.
	if !e.GetCache().WaitForCacheSync(ctx) {
		return fmt.Errorf("sync: %w", ctx.Err())
	}
	if !p.publish(m, e) {
		return context.Canceled
	}
	defer p.withdraw(m, e)
	if err := aware.Engage(ctx, multicluster.ClusterName(m.ID), e); err != nil {
		return fmt.Errorf("engage with the controllers: %w", err)
	}
	p.Log.Info("member is engaged", "cluster", m.ID, "addr", m.Addr)
	probe.setSynced(true)
	defer probe.setSynced(false)
	return p.recheck(ctx, m, client, served)
}

// publish lets the controllers get the cluster. It must come before Engage: they reconcile at once, and drop for good
// what they cannot get. It reports false when the member is not wanted as it is any more.
func (p *Provider) publish(m Member, e *engaged) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want[m.ID] != m {
		return false
	}
	p.engaged[multicluster.ClusterName(m.ID)] = e
	return true
}

func (p *Provider) withdraw(m Member, e *engaged) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name := multicluster.ClusterName(m.ID); p.engaged[name] == e {
		delete(p.engaged, name)
	}
}

// recheck returns when ctx ends or the member serves other kinds than before, as when a CRD was installed.
func (p *Provider) recheck(ctx context.Context, m Member, client *http.Client, served kinds) error {
	ticker := time.NewTicker(p.Recheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		now, err := discover(ctx, m, client)
		switch {
		case err != nil:
			p.Log.Debug("member cannot be asked what it serves", "cluster", m.ID, "err", err)
		case !now.equal(served):
			return errServesOthers
		}
	}
}

// newCluster makes a cluster with its indexes and informers, which do nothing before it is started.
func (p *Provider) newCluster(ctx context.Context, m Member, client *http.Client, served kinds, probe *prober) (*engaged, error) {
	config := &rest.Config{Host: m.url(), QPS: -1, UserAgent: "tailgate-hub"} // the API server has its own fairness
	c, err := cluster.New(config, func(o *cluster.Options) {
		o.Scheme, o.HTTPClient = p.Scheme, client
		o.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return restMapper(), nil }
		o.Cache.ReaderFailOnMissingInformer = true // a stray Get must not start a watch
		o.Cache.DefaultTransform = strip
		o.Cache.DefaultWatchErrorHandler = func(_ context.Context, _ *toolscache.Reflector, err error) {
			probe.trouble(err)
			p.Log.Debug("watch of a member failed, will retry", "cluster", m.ID, "err", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("make the cluster: %w", err)
	}
	p.mu.Lock()
	indexes := p.indexes
	p.mu.Unlock()
	for _, x := range indexes {
		if err := c.GetFieldIndexer().IndexField(ctx, x.object, x.field, x.values); err != nil {
			return nil, fmt.Errorf("index %T by %s: %w", x.object, x.field, err)
		}
	}
	for _, k := range watched {
		if k.optional && !served[k.gvk] {
			continue
		}
		if _, err := c.GetCache().GetInformer(ctx, k.object(), cache.BlockUntilSynced(false)); err != nil {
			return nil, fmt.Errorf("watch %s: %w", k.resource, err)
		}
	}
	return &engaged{Cluster: c, served: served}, nil
}

func (m Member) url() string { return "http://" + m.Addr.String() }
