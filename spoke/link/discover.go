package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation/discovery"
)

// ErrNoTailnet reports a TailscaleTailnet that the hub does not have.
var ErrNoTailnet = errors.New("the hub has no such TailscaleTailnet")

// Found is what a tailnet has of what was asked for.
type Found struct {
	discovery.Inventory
	// Problem says why it may be old; empty if it is not.
	Problem string
	// LeftOut counts what the answer has no room for.
	LeftOut int
}

// Discover asks the hub what a TailscaleTailnet has. It fails with [ErrNoLink] or [ErrNoTailnet], or with what keeps the hub
// from listing it.
func (c *Client) Discover(ctx context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (Found, error) {
	hub := c.hub.Load()
	if hub == nil {
		return Found{}, fmt.Errorf("ask the hub what is in the tailnet %s: %w", tailnet, ErrNoLink)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	request := link.FromQuery(q)
	request.ClusterId, request.Tailnet, request.MaxAgeMs = string(c.Cluster), tailnet, uint32(maxAge.Milliseconds())
	r, err := (*hub).Discover(ctx, request)
	switch {
	case status.Code(err) == codes.NotFound:
		return Found{}, fmt.Errorf("%w: %s", ErrNoTailnet, tailnet)
	case err != nil:
		return Found{}, fmt.Errorf("ask the hub what is in the tailnet %s: %s", tailnet, status.Convert(err).Message())
	}
	found, err := link.ToInventory(r)
	if err != nil {
		return Found{}, fmt.Errorf("read what is in the tailnet %s: %w", tailnet, err)
	}
	return Found{Inventory: found, Problem: r.GetProblem(), LeftOut: int(r.GetLeftOut())}, nil
}
