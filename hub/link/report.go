package link

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// Report takes what the member sees, for as long as it is heard.
func (s *Server) Report(stream grpc.ClientStreamingServer[link.ReportRequest, link.ReportResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	c, err := s.owned(ctx, first.GetClusterId())
	if err != nil {
		return err
	}
	m := s.member(c)
	generation, err := m.open(ctx)
	defer m.closed(ctx, generation)
	if err != nil {
		return status.FromContextError(err).Err()
	}
	for r := first; ; {
		if err := m.heard(ctx, generation, func() error { return s.take(ctx, c, r) }); err != nil {
			return err
		}
		if r, err = m.next(ctx, stream); err != nil {
			if errors.Is(err, io.EOF) {
				return stream.SendAndClose(&link.ReportResponse{})
			}
			return err
		}
	}
}

// take gives one report to the hub.
func (s *Server) take(ctx context.Context, c federation.ClusterID, r *link.ReportRequest) error {
	s.Members.Applied(ctx, c, r.GetAppliedEpoch(), r.GetAppliedVersion())
	for _, f := range r.GetRefused() {
		s.Log.Warn("a member refused a resource", "cluster", string(c), "key", f.GetKey(), "reason", f.GetReason())
	}
	if p := r.GetProxies(); p != nil {
		var hosts []ledger.Host
		for _, h := range p.GetIngress() {
			if _, err := netip.ParseAddrPort(h.GetAddr()); err != nil {
				return status.Errorf(codes.InvalidArgument, "ingress host %s: %v", h.GetNodeId(), err)
			}
			hosts = append(hosts, ledger.Host{NodeID: h.GetNodeId(), Addr: h.GetAddr()})
		}
		if err := s.Hub.Hosts(ctx, c, hosts); err != nil {
			return status.FromContextError(err).Err()
		}
		devices := make([]Device, 0, len(p.GetDevices()))
		for _, d := range p.GetDevices() {
			devices = append(devices, Device{Tailnet: d.GetTailnetRef(), NodeID: d.GetNodeId()})
		}
		s.Members.Devices(ctx, c, devices)
	}
	if i := r.GetInterest(); i != nil {
		in := federation.Interest{All: i.GetAll()}
		for _, p := range i.GetServices() {
			id, err := link.ToService(p)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			in.Services = append(in.Services, id)
		}
		slices.SortFunc(in.Services, federation.ServiceID.Compare)
		in.Services = slices.Compact(in.Services)
		if err := s.Hub.Interest(ctx, c, in); err != nil {
			return status.FromContextError(err).Err()
		}
	}
	return s.observe(ctx, c, r.GetObservations())
}

func (s *Server) observe(ctx context.Context, c federation.ClusterID, observations []*link.Observation) error {
	for _, o := range observations {
		t := federation.Target{Cluster: federation.ClusterID(o.GetCluster())}
		if err := t.Cluster.Validate(); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if p := o.GetService(); p != nil {
			id, err := link.ToService(p)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			t.Service = id
		}
		age := time.Duration(o.GetAgeMs()) * time.Millisecond
		if err := s.Hub.Observed(ctx, c, t, o.GetReachable(), age); err != nil {
			return status.FromContextError(err).Err()
		}
		if s.Probed != nil {
			s.Probed(Probe{
				Observer: c, Target: t, Reachable: o.GetReachable(), Age: age,
				RTT: time.Duration(o.GetRttUs()) * time.Microsecond, Error: o.GetError(),
			})
		}
	}
	return nil
}
