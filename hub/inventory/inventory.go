// Package inventory remembers what there is in each tailnet, so that many who ask cost the admin API one list.
package inventory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tailgate-project/tailgate/federation/discovery"
)

// retryAfter is how long a tailnet that could not be listed is not asked again, whatever age somebody wants.
const retryAfter = 5 * time.Second

// Cache has the inventories. Use [New].
type Cache struct {
	list func(ctx context.Context, tailnet string) (discovery.Inventory, error)
	now  func() time.Time

	flights singleflight.Group
	mu      sync.Mutex
	known   map[string]entry
}

type entry struct {
	inventory discovery.Inventory
	// at is when it was listed, zero for never; tried and err are of the last attempt.
	at, tried time.Time
	err       error
}

// New returns a cache of what list returns of a TailscaleTailnet.
func New(list func(ctx context.Context, tailnet string) (discovery.Inventory, error), now func() time.Time) *Cache {
	return &Cache{list: list, now: now, known: map[string]entry{}}
}

// Get returns what there is in a tailnet, and how old that is: at most maxAge, unless the tailnet cannot be listed. Then the
// last inventory counts, and err says why it is old. Only where there has never been one is it empty.
func (c *Cache) Get(ctx context.Context, tailnet string, maxAge time.Duration) (i discovery.Inventory, age time.Duration, err error) {
	e := c.get(tailnet)
	now := c.now()
	if fresh, failed := !e.at.IsZero() && now.Sub(e.at) < maxAge, e.err != nil && now.Sub(e.tried) < retryAfter; !fresh && !failed {
		// The first who asks does not take the others along when he goes.
		flight := c.flights.DoChan(tailnet, func() (any, error) { return c.look(context.WithoutCancel(ctx), tailnet), nil })
		select {
		case done := <-flight:
			e, _ = done.Val.(entry) // look returns nothing else
		case <-ctx.Done():
			return i, 0, ctx.Err()
		}
	}
	if e.at.IsZero() {
		return i, 0, fmt.Errorf("list the tailnet: %w", e.err)
	}
	return e.inventory, c.now().Sub(e.at), e.err
}

func (c *Cache) get(tailnet string) entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[tailnet]
}

// look lists a tailnet and keeps what it finds.
func (c *Cache) look(ctx context.Context, tailnet string) entry {
	i, err := c.list(ctx, tailnet)
	e := c.get(tailnet)
	e.tried, e.err = c.now(), err
	if err == nil {
		e.inventory, e.at = i, e.tried
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[tailnet] = e
	return e
}
