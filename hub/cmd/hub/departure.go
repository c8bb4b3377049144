package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
)

// The deletion of a member's devices may take devicesTimeout, and deviceTimeout more for each. Where the API does not answer,
// the others must not wait for long before they hear that the member left.
const (
	devicesTimeout = 10 * time.Second
	deviceTimeout  = time.Second
)

// usher sees members out.
type usher struct {
	members interface {
		Dismiss(ctx context.Context, id federation.ClusterID, farewell func(context.Context, *v1alpha1.MemberCluster) (bool, error)) error
	}
	hub interface {
		RemoveCluster(ctx context.Context, id federation.ClusterID) error
		DismissCluster(ctx context.Context, id federation.ClusterID) error
	}
	// deleteDevice deletes a node from the tailnet that a TailscaleTailnet names; one that is gone is no error.
	deleteDevice func(ctx context.Context, tailnet, nodeID string) error
	// tailnet is the TailscaleTailnet of hub and spokes.
	tailnet string
	log     *slog.Logger
}

func newUsher(o options, p provider, members *member.Registry, h *hub.Hub, log *slog.Logger) usher {
	return usher{members: members, hub: h, tailnet: o.tailnet, log: log, deleteDevice: func(ctx context.Context, tailnet, nodeID string) error {
		api, err := p.tailnets.Get(tailnet)
		if err != nil {
			return err
		}
		return api.DeleteDevice(ctx, nodeID, o.spokeTag, o.proxyTag)
	}}
}

// dismiss takes a cluster out of the federation: its MemberCluster is refused, then the devices of its spoke and proxies are
// deleted, and then its VIPs. A VIP's address may be given to another one as soon as it is deleted, so where a device is left,
// or not known, that may come back as a host of the old one, they rest first, and the MemberCluster stays for the next try.
func (u usher) dismiss(ctx context.Context, cluster federation.ClusterID) (d operator.Departure, found bool, err error) {
	err = u.members.Dismiss(ctx, cluster, func(ctx context.Context, object *v1alpha1.MemberCluster) (bool, error) {
		if found = object != nil; !found {
			return false, u.hub.RemoveCluster(ctx, cluster)
		}
		if d.Devices, d.Left = u.deleteDevices(ctx, object); len(d.Left) > 0 {
			d.Resting = true
			d.Left = append(d.Left, fmt.Sprintf("the MemberCluster %s, not accepted, for what is left: delete those devices in the admin console, "+
				"or give the OAuth client the scope devices:core, and say it again", cluster))
			return false, u.hub.RemoveCluster(ctx, cluster)
		}
		return true, u.hub.DismissCluster(ctx, cluster)
	})
	if err == nil && found {
		u.log.Info("a member left", "cluster", string(cluster), "devices", d.Devices, "left", len(d.Left))
	}
	return d, found, err
}

// deleteDevices deletes the nodes of a member, and says what is left.
func (u usher) deleteDevices(ctx context.Context, object *v1alpha1.MemberCluster) (deleted int, left []string) {
	devices := slices.Clone(object.Status.Devices)
	if id := object.Status.NodeID; id != "" {
		devices = append(devices, v1alpha1.MemberDevice{NodeID: id})
	}
	ctx, cancel := context.WithTimeout(ctx, devicesTimeout+time.Duration(len(devices))*deviceTimeout)
	defer cancel()
	for _, d := range devices {
		name := cmp.Or(d.Tailnet, u.tailnet)
		if err := u.deleteDevice(ctx, name, d.NodeID); err != nil {
			left = append(left, fmt.Sprintf("device %s of TailscaleTailnet %s: %v", d.NodeID, name, err))
			continue
		}
		deleted++
	}
	return deleted, left
}
