package console

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// MaxHorizon is how far a forecast looks, MaxRamp how long a drain may take.
const (
	MaxHorizon = 24 * time.Hour
	MaxRamp    = 24 * time.Hour
)

type actorKey struct{}

// As returns a context in which a wish is somebody's, as [operator.Operation] tells it.
func As(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, actorKey{}, name)
}

// event checks a wish against what there is and returns what the loop is told of it.
func (c *Console) event(ctx context.Context, w operator.Wish) (failover.Operated, error) {
	t := federation.Target{Cluster: w.Cluster, Service: w.Service.ServiceID}
	switch w.Mode {
	case failover.Normal, failover.Drain, failover.Cordon:
	case failover.Pin:
		if w.Service.IsZero() {
			return failover.Operated{}, fmt.Errorf("%w: a whole cluster cannot be pinned: name a service", operator.ErrInvalid)
		}
	default:
		return failover.Operated{}, fmt.Errorf("%w: mode %q: want Drain, Cordon, Pin, or nothing to take a wish back", operator.ErrInvalid, w.Mode)
	}
	if w.Ramp > MaxRamp {
		return failover.Operated{}, fmt.Errorf("%w: ramp %s: want at most %s", operator.ErrInvalid, w.Ramp, MaxRamp)
	}
	var member, exported bool
	if err := c.look(ctx, func(co *coordinator.Coordinator) {
		_, member = co.Member(t.Cluster)
		_, exported = co.State().Export(federation.ExportKey(t))
	}); err != nil {
		return failover.Operated{}, err
	}
	switch {
	case !member:
		return failover.Operated{}, c.noCluster(ctx, t.Cluster)
	case !w.Service.IsZero() && !exported:
		s, err := c.Service(ctx, t.Service)
		if err != nil {
			return failover.Operated{}, err
		}
		var where []string
		for _, x := range s.Exports {
			where = append(where, string(x.Cluster))
		}
		return failover.Operated{}, fmt.Errorf("%s of %s is %w: it is exported by %s", t.Service, t.Cluster, operator.ErrNotFound, few(where))
	}
	return failover.Operated{Subject: t, Mode: w.Mode, Ramp: w.Ramp}, nil
}

// Operate takes a wish.
func (c *Console) Operate(ctx context.Context, w operator.Wish) (operator.Operation, error) {
	e, err := c.event(ctx, w)
	if err != nil {
		return operator.Operation{}, err
	}
	if err := c.Hub.Operate(ctx, e); err != nil {
		return operator.Operation{}, fmt.Errorf("tell the hub's loop: %w", err)
	}
	by, _ := ctx.Value(actorKey{}).(string)
	c.mu.Lock()
	c.actors[e.Subject] = by
	c.mu.Unlock()
	out := operator.Operation{Wish: w, By: by, Share: 100, Done: true}
	// The loop answers after the wish was stored, or not at all.
	err = c.look(ctx, func(co *coordinator.Coordinator) {
		if o, stands := operation(co, e.Subject); stands {
			o.By, o.Ramp = by, w.Ramp
			out = o
		}
	})
	return out, err
}

// operation is the wish that stands for a subject.
func operation(co *coordinator.Coordinator, t federation.Target) (operator.Operation, bool) {
	mode, since := co.State().Mode(t)
	if mode == failover.Normal {
		return operator.Operation{}, false
	}
	var v failover.Verdict
	if t.Service == (federation.ServiceID{}) {
		v, _ = co.State().ClusterVerdict(t.Cluster, "")
	} else {
		v, _ = co.State().Verdict(federation.ExportKey(t), "")
	}
	return operator.Operation{
		Wish:  operator.Wish{Cluster: t.Cluster, Service: operator.ServiceID{ServiceID: t.Service}, Mode: mode, Ramp: -1},
		Since: since, Share: v.Share, Done: mode != failover.Drain || v.Share == 0,
	}, true
}

// Operations are the wishes that stand.
func (c *Console) Operations(ctx context.Context) ([]operator.Operation, error) {
	var members []federation.ClusterID
	if err := c.look(ctx, func(co *coordinator.Coordinator) { members = co.Members() }); err != nil {
		return nil, err
	}
	out := []operator.Operation{}
	for _, m := range members {
		if err := c.look(ctx, func(co *coordinator.Coordinator) {
			if o, stands := operation(co, federation.Target{Cluster: m}); stands {
				out = append(out, o)
			}
			for _, k := range co.State().Exports(m) {
				if o, stands := operation(co, federation.Target(k)); stands {
					out = append(out, o)
				}
			}
		}); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range out {
		out[i].By = c.actors[federation.Target{Cluster: out[i].Cluster, Service: out[i].Service.ServiceID}]
	}
	return out, nil
}

// Forecast says what a wish would do.
func (c *Console) Forecast(ctx context.Context, w operator.Wish, horizon time.Duration) (operator.Forecast, error) {
	if horizon <= 0 || horizon > MaxHorizon {
		return operator.Forecast{}, fmt.Errorf("%w: horizon %s: want more than 0 and at most %s", operator.ErrInvalid, horizon, MaxHorizon)
	}
	e, err := c.event(ctx, w)
	if err != nil {
		return operator.Forecast{}, err
	}
	out := operator.Forecast{Decisions: []operator.Record{}, Before: []operator.EndpointSet{}, After: []operator.EndpointSet{}}
	err = c.look(ctx, func(co *coordinator.Coordinator) {
		f := co.DryRun([]failover.Event{e}, c.Now(), horizon)
		for _, d := range f.Decisions {
			out.Decisions = append(out.Decisions, record(0, d))
		}
		for _, after := range f.Changed {
			before := co.Set(after.Consumer, after.Service)
			before.Consumer, before.Service = after.Consumer, after.Service
			out.Before = append(out.Before, endpoints(before))
			out.After = append(out.After, endpoints(after))
			if id := (operator.ServiceID{ServiceID: after.Service}); healthy(before) && !healthy(after) && !slices.Contains(out.Orphans, id) {
				out.Orphans = append(out.Orphans, id)
			}
		}
	})
	return out, err
}

func healthy(s federation.EndpointSet) bool {
	return slices.ContainsFunc(s.Endpoints, func(e federation.Endpoint) bool { return e.Health == federation.Healthy })
}

// Invite readies the federation for a new member.
func (c *Console) Invite(ctx context.Context, cluster federation.ClusterID) (operator.Invitation, error) {
	if err := cluster.Validate(); err != nil {
		return operator.Invitation{}, fmt.Errorf("%w: %w", operator.ErrInvalid, err)
	}
	return c.Options.Invite(ctx, cluster)
}

// Leave takes a cluster out of the federation for good.
func (c *Console) Leave(ctx context.Context, cluster federation.ClusterID) (operator.Departure, error) {
	if err := cluster.Validate(); err != nil {
		return operator.Departure{}, fmt.Errorf("%w: %w", operator.ErrInvalid, err)
	}
	known := false
	vips := []string{}
	if err := c.look(ctx, func(co *coordinator.Coordinator) {
		_, known = co.Member(cluster)
		for v := range co.Registry().All() {
			if v.Owner.Cluster == cluster {
				vips = append(vips, v.ServiceName)
			}
		}
	}); err != nil {
		return operator.Departure{}, err
	}
	d, member, err := c.Dismiss(ctx, cluster)
	if err != nil {
		return operator.Departure{}, err
	}
	if !member && !known && len(vips) == 0 {
		return operator.Departure{}, c.noCluster(ctx, cluster)
	}
	d.Cluster, d.VIPs = cluster, vips
	if member {
		return d, nil
	}
	if err := c.look(ctx, func(co *coordinator.Coordinator) {
		for v := range co.Registry().All() {
			d.Resting = d.Resting || v.Owner.Cluster == cluster && co.Registry().Rests(*v, c.Now())
		}
	}); err != nil {
		return operator.Departure{}, err
	}
	if d.Resting {
		d.Left = append(d.Left, fmt.Sprintf("devices of %s in the tailnets: its MemberCluster is gone, and with it what they are called; delete them in the admin console", cluster))
	}
	return d, nil
}
