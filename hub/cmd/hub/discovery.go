package main

import (
	"context"
	"errors"
	"time"

	"github.com/tailgate-project/tailgate/federation/discovery"
	tailnetcontroller "github.com/tailgate-project/tailgate/hub/controllers/tailnet"
	"github.com/tailgate-project/tailgate/hub/inventory"
	"github.com/tailgate-project/tailgate/hub/link"
)

// inventories are what there is in the tailnets.
type inventories struct{ *inventory.Cache }

// inventories returns those of all TailscaleTailnets, without Tailgate's own devices: a route to those leads in circles.
func (p provider) inventories(o options) inventories {
	own := []string{o.spokeTag, o.proxyTag, hubTag}
	return inventories{inventory.New(func(ctx context.Context, tailnet string) (discovery.Inventory, error) {
		api, err := p.tailnets.Get(tailnet)
		if err != nil {
			return discovery.Inventory{}, err
		}
		return api.Inventory(ctx, own)
	}, time.Now)}
}

// hubTag is what hubs carry.
const hubTag = "tag:tailgate-hub"

// discover answers a member.
func (i inventories) discover(ctx context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (discovery.Inventory, time.Duration, error, error) {
	all, age, err := i.Get(ctx, tailnet, maxAge)
	switch {
	case errors.Is(err, tailnetcontroller.ErrNoTailnet):
		return discovery.Inventory{}, 0, nil, errors.Join(link.ErrNoTailnet, err)
	case err != nil && len(all.Devices)+len(all.Services) == 0:
		return discovery.Inventory{}, 0, nil, err
	}
	return q.Select(all), age, err, nil
}
