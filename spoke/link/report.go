package link

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/probes"
	"github.com/tailgate-project/tailgate/spoke"
)

// report sends what the spoke sees: at once when it changed, and at every heartbeat.
func (c *Client) report(ctx context.Context, hub link.HubClient, heartbeat time.Duration, refused <-chan []*link.Refusal) error {
	stream, err := hub.Report(ctx)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	sent := memory{}
	var bad []*link.Refusal
	for {
		now, changed := c.Spoke.LastReport()
		request := sent.next(now, time.Now())
		request.ClusterId, request.Refused = string(c.Cluster), bad
		if err := stream.Send(request); err != nil {
			return fmt.Errorf("report: %w", ending(stream, err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			bad = nil
		case <-ticker.C:
			bad = nil
		case bad = <-refused:
		}
	}
}

// ending returns why the hub ended the stream; Send says only that it did.
func ending(stream grpc.ClientStreamingClient[link.ReportRequest, link.ReportResponse], err error) error {
	if _, why := stream.CloseAndRecv(); why != nil {
		return why
	}
	return err
}

// memory is what has been sent on a stream.
type memory struct {
	began    bool
	observed map[federation.Target]time.Time
	all      bool
	known    bool
	hosts    []spoke.Host
	devices  []spoke.Device
}

// next returns the request that brings the hub from what was sent to r, and remembers it as sent.
func (m *memory) next(r spoke.Report, now time.Time) *link.ReportRequest {
	out := &link.ReportRequest{AppliedEpoch: r.Epoch, AppliedVersion: r.Version}
	for _, t := range slices.SortedFunc(maps.Keys(r.Observations), federation.Target.Compare) {
		if o := r.Observations[t]; o.At.After(m.observed[t]) {
			out.Observations = append(out.Observations, observation(t, o, now))
		}
	}
	if !m.began || m.all != r.All {
		out.Interest = &link.Interest{All: r.All}
	}
	if r.HostsKnown && (!m.known || !slices.Equal(m.hosts, r.Hosts) || !slices.Equal(m.devices, r.Devices)) {
		out.Proxies = &link.Proxies{}
		for _, h := range r.Hosts {
			out.Proxies.Ingress = append(out.Proxies.Ingress, &link.ProxyHost{NodeId: h.NodeID, Addr: h.Addr.String()})
		}
		for _, d := range r.Devices {
			out.Proxies.Devices = append(out.Proxies.Devices, &link.ProxyDevice{TailnetRef: d.Tailnet, NodeId: d.NodeID})
		}
	}
	m.began, m.all, m.known, m.hosts, m.devices = true, r.All, r.HostsKnown, r.Hosts, r.Devices
	m.observed = make(map[federation.Target]time.Time, len(r.Observations))
	for t, o := range r.Observations {
		m.observed[t] = o.At
	}
	return out
}

func observation(t federation.Target, o probes.Result, now time.Time) *link.Observation {
	out := &link.Observation{
		Cluster: string(t.Cluster), Reachable: o.Reachable, Error: o.Error,
		AgeMs: clamp(now.Sub(o.At).Milliseconds()), RttUs: clamp(o.RTT.Microseconds()),
	}
	if t.Service != (federation.ServiceID{}) {
		out.Service = link.FromService(t.Service)
	}
	return out
}

func clamp(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
