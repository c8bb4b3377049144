package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	tailnetcontroller "github.com/tailgate-project/tailgate/hub/controllers/tailnet"
	"github.com/tailgate-project/tailgate/hub/link"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

// proxyKeyExpiry is short: a spoke uses a key as soon as it has it.
const proxyKeyExpiry = 10 * time.Minute

// publicControl is the control server of tailnets that name none, unless they are the hub's own.
const publicControl = "https://controlplane.tailscale.com"

// provider makes VIPs real in the tailnet that each names.
type provider struct {
	tailnets *tailnetcontroller.Tailnets
}

// EnsureVIP makes a VIP and returns its addresses.
func (p provider) EnsureVIP(ctx context.Context, v federation.VIP) ([]netip.Addr, error) {
	api, err := p.tailnets.Get(v.TailnetRef)
	if err != nil {
		return nil, err
	}
	return api.EnsureVIP(ctx, v)
}

// DeleteVIP deletes a VIP. One that somebody else has taken is not ours to delete: to the hub it is gone.
func (p provider) DeleteVIP(ctx context.Context, v federation.VIP) error {
	api, err := p.tailnets.Get(v.TailnetRef)
	if err != nil {
		return err
	}
	if err := api.DeleteVIP(ctx, v.ServiceName); !errors.Is(err, tailnet.ErrForeignVIP) {
		return err
	}
	return nil
}

// ListVIPs returns the VIPs of all tailnets. One that cannot be asked does not hide the others: what is known is
// returned with the error.
func (p provider) ListVIPs(ctx context.Context) ([]federation.VIP, error) {
	names, err := p.tailnets.Names(ctx)
	if err != nil {
		return nil, err
	}
	var (
		out  []federation.VIP
		errs []error
	)
	for _, name := range names {
		api, err := p.tailnets.Get(name)
		var found []federation.VIP
		if err == nil {
			found, err = api.ListVIPs(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tailnet %s: %w", name, err))
		}
		for _, v := range found {
			v.TailnetRef = name
			out = append(out, v)
		}
	}
	return out, errors.Join(errs...)
}

// Refusal says what a member is told of an error that it can do something about.
func (p provider) Refusal(v federation.VIP, err error) (federation.Notice, bool) {
	switch {
	case errors.Is(err, tailnetcontroller.ErrNoTailnet):
		return federation.Notice{
			Subject: "tailnet/" + v.Tailnet, Reason: "TailnetNotFound",
			Message: fmt.Sprintf("the hub has no TailscaleTailnet %q: make one in the management cluster, or name another in tailscaleTailnetRef", v.TailnetRef),
		}, true
	case errors.Is(err, tailnet.ErrForeignVIP):
		return federation.Notice{
			Subject: "export/" + v.Owner.Service.String(), Reason: "VIPConflict",
			Message: fmt.Sprintf("the Tailscale Service svc:%s belongs to somebody else: delete or rename it there", v.ServiceName),
		}, true
	}
	return federation.Notice{}, false
}

// mintKey makes an auth key for a proxy.
func (p provider) mintKey(ctx context.Context, o options, proxy link.Proxy) (link.ProxyKey, error) {
	name := cmp.Or(proxy.Tailnet, o.tailnet)
	api, err := p.tailnets.Get(name)
	if errors.Is(err, tailnetcontroller.ErrNoTailnet) {
		return link.ProxyKey{}, errors.Join(link.ErrNoTailnet, err)
	}
	if err != nil {
		return link.ProxyKey{}, err
	}
	control, err := p.tailnets.ControlURL(ctx, name)
	if err != nil {
		return link.ProxyKey{}, err
	}
	if control == "" && name == o.tailnet {
		control = o.controlURL
	} else if control == "" {
		control = publicControl
	}
	key, err := api.MintKey(ctx, tailnet.KeyOptions{
		Tags: []string{o.proxyTag}, Expiry: proxyKeyExpiry, Description: fmt.Sprintf("tailgate %s %s %d", proxy.Cluster, proxy.Role, proxy.Replica),
	})
	return link.ProxyKey{Key: key, ControlURL: control}, err
}
