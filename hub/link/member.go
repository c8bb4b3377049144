package link

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// goodbye is how long the hub may take to hear that a link is lost.
const goodbye = 10 * time.Second

// member joins the Report streams of one member, which overlap when its spoke comes back before the hub has noticed
// that it went. What they tell the hub, they tell in turn, so that it hears last what is true last.
type member struct {
	server *Server
	id     federation.ClusterID
	// turn holds one token. Who has it may touch the lease and tell the hub of the member. It is no mutex, because
	// telling the hub takes time, and waiting for one's turn ends with the stream.
	turn  chan struct{}
	lease *linkstate.Lease
}

// member returns the member of that name.
func (s *Server) member(c federation.ClusterID) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[c]
	if m == nil {
		m = &member{server: s, id: c, turn: make(chan struct{}, 1), lease: linkstate.NewLease(s.Heartbeat)}
		m.turn <- struct{}{}
		s.members[c] = m
	}
	return m
}

// inTurn runs f when it is its turn. It fails with ctx, or with what f returns.
func (m *member) inTurn(ctx context.Context, f func() error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.turn:
	}
	defer func() { m.turn <- struct{}{} }()
	return f()
}

// open makes the stream that called it the member's link, and returns its generation.
func (m *member) open(ctx context.Context) (generation uint64, err error) {
	err = m.inTurn(ctx, func() error {
		generation, _ = m.lease.Open(time.Now())
		// Told also when the link was up: the hub may have forgotten the member meanwhile.
		m.server.Members.Connected(ctx, m.id, true, "")
		return m.server.Hub.LinkState(ctx, m.id, true)
	})
	return generation, err
}

// heard has a report of a stream taken, unless another stream has replaced that one: what an old stream still brings
// must not undo what a newer one said.
func (m *member) heard(ctx context.Context, generation uint64, take func() error) error {
	err := m.inTurn(ctx, func() error {
		if !m.lease.Heard(generation, time.Now()) {
			return status.Error(codes.Aborted, "a newer stream of this member has replaced this one")
		}
		return take()
	})
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// next returns the next report of a stream, unless that is silent for too long.
func (m *member) next(ctx context.Context, stream grpc.ClientStreamingServer[link.ReportRequest, link.ReportResponse]) (*link.ReportRequest, error) {
	type result struct {
		r   *link.ReportRequest
		err error
	}
	received := make(chan result, 1)
	go func() {
		r, err := stream.Recv() // ends with the stream, which ends with the handler
		received <- result{r, err}
	}()
	silence := time.NewTimer(m.lease.Patience())
	defer silence.Stop()
	select {
	case got := <-received:
		return got.r, got.err
	case <-silence.C:
		return nil, m.silent(ctx)
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// silent takes the link for lost if it is the newest stream that was silent, and returns what to end the stream with.
func (m *member) silent(ctx context.Context) error {
	err := m.inTurn(ctx, func() error {
		if m.lease.Tick(time.Now()) {
			m.lost(ctx, "no report for three heartbeats")
		}
		return status.Error(codes.DeadlineExceeded, "no report for three heartbeats")
	})
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// closed takes the link for lost with its stream, unless a newer one has taken its place.
func (m *member) closed(ctx context.Context, generation uint64) {
	// Without a deadline: everybody's turn ends with a stream, and a link that nobody takes for lost would be up for ever.
	_ = m.inTurn(context.WithoutCancel(ctx), func() error {
		if m.lease.Closed(generation, time.Now()) {
			m.lost(ctx, "the stream was closed")
		}
		return nil
	})
}

// lost tells that the link is lost, also when the stream whose context this is has ended.
func (m *member) lost(ctx context.Context, why string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	m.server.Members.Connected(ctx, m.id, false, why)
	if err := m.server.Hub.LinkState(ctx, m.id, false); err != nil {
		m.server.Log.Debug("the hub ended before a link", "cluster", string(m.id), "err", err)
	}
}
