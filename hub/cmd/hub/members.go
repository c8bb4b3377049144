package main

import (
	"context"
	"errors"
	"fmt"

	apilink "github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/console"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
	"github.com/tailgate-project/tailgate/hub/link"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/hub/web"
)

// memberSink tells all who must know how a member's API server is.
type memberSink struct {
	metrics *web.Metrics
	hub     *hub.Hub
	members *member.Registry
	exports *export.Controller
	desk    *console.Console
}

// APIState tells the hub, for its decisions, and the registry, for the status of the MemberCluster.
func (s *memberSink) APIState(ctx context.Context, c federation.ClusterID, up bool, reason string) error {
	s.metrics.APIChanged(c, up)
	s.desk.APIChanged(c, up, reason)
	return errors.Join(s.hub.APIState(ctx, c, up, reason), s.members.APIState(ctx, c, up, reason))
}

// ClusterGone ends the member's exports.
func (s *memberSink) ClusterGone(ctx context.Context, c federation.ClusterID) error {
	s.metrics.Forget(c)
	s.desk.Forget(c)
	return s.exports.ClusterGone(ctx, c)
}

// linkMembers is the registry as the link sees it.
type linkMembers struct {
	registry *member.Registry
	hub      *hub.Hub
	metrics  *web.Metrics
	desk     *console.Console
}

// Join admits a claim.
func (m linkMembers) Join(ctx context.Context, c link.Claim) (federation.Locality, error) {
	got, err := m.registry.Join(ctx, member.Claim{
		Cluster: c.Cluster, NodeID: c.Node.StableID, NodeName: c.Node.Name, Tags: c.Node.Tags, Addr: c.API, Locality: c.Locality,
		Versions: versions(c.Versions),
	})
	switch {
	case errors.Is(err, member.ErrClusterIDTaken):
		err = fmt.Errorf("%w: %w", link.ErrTaken, err)
	case errors.Is(err, member.ErrNotAccepted):
		err = fmt.Errorf("%w: %w", link.ErrNotAccepted, err)
	}
	if err == nil {
		v := versions(c.Versions)
		m.desk.Joined(c.Cluster, operator.Versions{Spoke: v.Spoke, Kubernetes: v.Kubernetes, EnvoyGateway: v.EnvoyGateway})
	}
	return got.Locality, err
}

// Owns reports whether a node is the accepted member.
func (m linkMembers) Owns(c federation.ClusterID, stableID string) bool {
	return m.registry.Owns(c, stableID)
}

// Connected is told when the link comes and goes.
func (m linkMembers) Connected(ctx context.Context, c federation.ClusterID, up bool, reason string) {
	m.metrics.LinkChanged(c, up)
	m.desk.LinkChanged(c, up, reason)
	m.registry.SetConnected(ctx, c, up, reason)
}

// Applied is told which state the member has.
func (m linkMembers) Applied(ctx context.Context, c federation.ClusterID, epoch, version uint64) {
	m.desk.Applied(c, epoch, version)
	exports, err := m.hub.CountExports(ctx, c)
	if err != nil {
		return // the hub ends
	}
	m.registry.SetProgress(c, member.Progress{Epoch: epoch, Version: version, Exports: exports})
}

// Devices is told which nodes the member's proxies are.
func (m linkMembers) Devices(_ context.Context, c federation.ClusterID, devices []link.Device) {
	out := make([]v1alpha1.MemberDevice, 0, len(devices))
	for _, d := range devices {
		out = append(out, v1alpha1.MemberDevice{NodeID: d.NodeID, Tailnet: d.Tailnet})
	}
	m.registry.SetDevices(c, out)
}

func versions(v *apilink.Versions) v1alpha1.MemberVersions {
	return v1alpha1.MemberVersions{Spoke: v.GetSpoke(), Kubernetes: v.GetKubernetes(), EnvoyGateway: v.GetEnvoyGateway()}
}

// whoIs names the node behind a connection to the hub.
func whoIs(n *tailnet.Node) func(context.Context, string) (link.Node, error) {
	return func(ctx context.Context, remote string) (link.Node, error) {
		p, err := n.WhoIs(ctx, remote)
		if err != nil {
			return link.Node{}, err
		}
		return link.Node{StableID: p.StableID, Name: p.Name, Tags: p.Tags}, nil
	}
}
