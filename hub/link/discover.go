package link

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
)

// Discover answers what a member asks of a tailnet.
func (s *Server) Discover(ctx context.Context, r *link.DiscoverRequest) (*link.DiscoverResponse, error) {
	c, err := s.owned(ctx, r.GetClusterId())
	if err != nil {
		return nil, err
	}
	query, err := link.ToQuery(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	found, age, problem, err := s.Options.Discover(ctx, r.GetTailnet(), query, time.Duration(r.GetMaxAgeMs())*time.Millisecond)
	switch {
	case errors.Is(err, ErrNoTailnet):
		return nil, status.Errorf(codes.NotFound, "the hub has no TailscaleTailnet %q", r.GetTailnet())
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		s.Log.Warn("a member asks what is in a tailnet, and it cannot be listed", "cluster", string(c), "tailnet", r.GetTailnet(), "err", err)
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	out := link.FromInventory(found)
	out.AgeMs = uint32(age.Milliseconds())
	if problem != nil {
		out.Problem = problem.Error()
	}
	return out, nil
}
