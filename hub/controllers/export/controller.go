// Package export finds out what the members offer to the federation: it turns Services, EndpointSlices, Gateways and
// TailscaleGateways of all engaged members into federation.Exports and tells a sink what changed.
//
// The unit of work is one Service or one Gateway of one member, so that a change of an EndpointSlice costs work for its
// own Service only. What is exported is decided by pure functions (plan.go).
package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"
	mcreconcile "sigs.k8s.io/multicluster-runtime/pkg/reconcile"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// Sink keeps the exports.
type Sink interface {
	// SetExport says that a member offers an export, or offers it in a new state.
	SetExport(ctx context.Context, x federation.Export) error
	// RemoveExport says that a member no longer offers an export.
	RemoveExport(ctx context.Context, k federation.ExportKey) error
	// ExportsListed says that all exports that a member has were told.
	ExportsListed(ctx context.Context, c federation.ClusterID) error
	// RemoveCluster says that a member offers nothing any more because it is none.
	RemoveCluster(ctx context.Context, c federation.ClusterID) error
	// Exports returns what the sink has of a member. It is asked when a member is engaged, because no event tells of
	// what was deleted before, as while the hub was down.
	Exports(ctx context.Context, c federation.ClusterID) ([]federation.ExportKey, error)
}

// Clusters gives the engaged members.
type Clusters interface {
	Get(ctx context.Context, name multicluster.ClusterName) (cluster.Cluster, error)
	// Serves reports whether a member serves a kind that comes with a CRD.
	Serves(name multicluster.ClusterName, kind schema.GroupVersionKind) bool
}

// Controller computes the exports of all engaged members.
type Controller struct {
	clusters Clusters
	sink     Sink

	// leaving is held for reading while the sink is told of exports of an engaged member, and for writing while it is
	// told that one is gone. So nothing can be told of a member after it is gone.
	leaving sync.RWMutex

	mu sync.Mutex
	// known is what the sink has. An export that it had before the member was engaged is there by its key alone.
	known map[owner]exports
}

// owner is a Service or, for the kind Listener, a Gateway of a member.
type owner struct {
	cluster multicluster.ClusterName
	kind    federation.Kind
	object  types.NamespacedName
}

func ownerOf(k federation.ExportKey) owner {
	o := owner{multicluster.ClusterName(k.Cluster), k.Service.Kind, types.NamespacedName{Namespace: k.Service.Namespace, Name: k.Service.Name}}
	if k.Service.Kind == federation.KindListener {
		o.object.Name, _ = k.Service.Gateway()
	}
	return o
}

// New returns a controller. It works once it is added to a manager.
func New(c Clusters, s Sink) *Controller {
	return &Controller{clusters: c, sink: s, known: map[owner]exports{}}
}

// ClusterGone tells the sink that a member is gone. The member must not be among the engaged ones any more.
func (c *Controller) ClusterGone(ctx context.Context, id federation.ClusterID) error {
	c.leaving.Lock()
	defer c.leaving.Unlock()
	c.mu.Lock()
	for o := range c.known {
		if o.cluster == multicluster.ClusterName(id) {
			delete(c.known, o)
		}
	}
	c.mu.Unlock()
	return c.sink.RemoveCluster(ctx, id)
}

func (c *Controller) reconcileService(ctx context.Context, req mcreconcile.Request) (ctrl.Result, error) {
	cl, err := c.clusters.Get(ctx, req.ClusterName)
	if err != nil {
		return ctrl.Result{}, err
	}
	var wanted []federation.Export
	svc := &corev1.Service{}
	switch err = cl.GetClient().Get(ctx, req.NamespacedName, svc); {
	case err == nil:
		wanted, err = c.exportsOfService(ctx, req, cl, svc)
	case apierrors.IsNotFound(err):
		wanted, err = c.exportsOutside(ctx, req, cl)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read the Service: %w", err)
	}
	return ctrl.Result{}, c.tell(ctx, owner{req.ClusterName, federation.KindService, req.NamespacedName}, wanted)
}

func (c *Controller) exportsOfService(ctx context.Context, req mcreconcile.Request, cl cluster.Cluster, svc *corev1.Service) ([]federation.Export, error) {
	gateways, err := c.gateways(ctx, req.ClusterName, cl)
	if err != nil {
		return nil, err
	}
	endpoints, err := slicesOf(ctx, cl, req.NamespacedName)
	if err != nil {
		return nil, err
	}
	exported, err := c.hasServiceExport(ctx, member{cl, req.ClusterName}, req.NamespacedName)
	if err != nil {
		return nil, err
	}
	x, ok := planService(federation.ClusterID(req.ClusterName), gateways, offer{service: svc, slices: endpoints, exported: exported})
	if !ok {
		return nil, nil
	}
	return []federation.Export{x}, nil
}

// exportsOutside returns what is exported under the name of a Service that does not exist.
func (c *Controller) exportsOutside(ctx context.Context, req mcreconcile.Request, cl cluster.Cluster) ([]federation.Export, error) {
	sets, err := c.endpointsOf(ctx, member{cl, req.ClusterName}, req.Namespace)
	if err != nil || len(sets) == 0 {
		return nil, err
	}
	gateways, err := c.gateways(ctx, req.ClusterName, cl)
	if err != nil {
		return nil, err
	}
	if x, ok := planOutside(federation.ClusterID(req.ClusterName), gateways, sets, req.NamespacedName); ok {
		return []federation.Export{x}, nil
	}
	return nil, nil
}

func (c *Controller) reconcileGateway(ctx context.Context, req mcreconcile.Request) (ctrl.Result, error) {
	cl, err := c.clusters.Get(ctx, req.ClusterName)
	if err != nil {
		return ctrl.Result{}, err
	}
	var wanted []federation.Export
	if c.clusters.Serves(req.ClusterName, gatewayKind) {
		gw := &gatewayv1.Gateway{}
		err := cl.GetClient().Get(ctx, req.NamespacedName, gw)
		if err == nil {
			wanted, err = c.exportsOfGateway(ctx, req, cl, gw)
		}
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("read the Gateway: %w", err)
		}
	}
	return ctrl.Result{}, c.tell(ctx, owner{req.ClusterName, federation.KindListener, req.NamespacedName}, wanted)
}

func (c *Controller) exportsOfGateway(ctx context.Context, req mcreconcile.Request, cl cluster.Cluster, gw *gatewayv1.Gateway) ([]federation.Export, error) {
	gateways, err := c.gateways(ctx, req.ClusterName, cl)
	if err != nil {
		return nil, err
	}
	envoy, err := envoyServices(ctx, cl, gw)
	if err != nil {
		return nil, err
	}
	var endpoints []discoveryv1.EndpointSlice
	for _, svc := range envoy {
		s, err := slicesOf(ctx, cl, client.ObjectKeyFromObject(&svc))
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, s...)
	}
	return planGateway(federation.ClusterID(req.ClusterName), gateways, gw, endpoints), nil
}

// gateways lists the TailscaleGateways of a member; one without the CRD has none.
func (c *Controller) gateways(ctx context.Context, name multicluster.ClusterName, cl cluster.Cluster) ([]v1alpha1.TailscaleGateway, error) {
	if !c.clusters.Serves(name, tailscaleGatewayKind) {
		return nil, nil
	}
	var list v1alpha1.TailscaleGatewayList
	if err := cl.GetClient().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the TailscaleGateways: %w", err)
	}
	return list.Items, nil
}

func slicesOf(ctx context.Context, cl cluster.Cluster, svc types.NamespacedName) ([]discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := cl.GetClient().List(ctx, &list, client.InNamespace(svc.Namespace), client.MatchingFields{indexService: svc.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list the EndpointSlices of %s: %w", svc, err)
	}
	return list.Items, nil
}

// envoyServices lists the Services of the proxies of a Gateway, or of its class where its Gateways are merged.
func envoyServices(ctx context.Context, cl cluster.Cluster, gw *gatewayv1.Gateway) ([]corev1.Service, error) {
	for _, key := range []string{envoyOfGateway(gw.Namespace, gw.Name), envoyOfClass(string(gw.Spec.GatewayClassName))} {
		var list corev1.ServiceList
		if err := cl.GetClient().List(ctx, &list, client.MatchingFields{indexEnvoy: key}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list the Services of Envoy: %w", err)
		}
		if len(list.Items) > 0 {
			return list.Items, nil
		}
	}
	return nil, nil
}

// tell tells the sink what is new of an owner's exports.
func (c *Controller) tell(ctx context.Context, o owner, wanted []federation.Export) error {
	c.leaving.RLock()
	defer c.leaving.RUnlock()
	if _, err := c.clusters.Get(ctx, o.cluster); err != nil {
		return err // it left meanwhile
	}
	c.mu.Lock()
	known := c.known[o]
	c.mu.Unlock()
	next, err := c.update(ctx, known, wanted)
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, x := range c.known[o] { // what was adopted meanwhile is for the next time
		if _, had := known[k]; !had && !has(next, k) {
			next[k] = x
		}
	}
	delete(c.known, o)
	if len(next) > 0 {
		c.known[o] = next
	}
	return err
}

// exports are what the sink has of an owner.
type exports = map[federation.ExportKey]federation.Export

func has(x exports, k federation.ExportKey) bool { _, ok := x[k]; return ok }

// update tells the sink how wanted differs from known, and returns what the sink has then. Of what it failed to take it
// may have either, so only the key is kept.
func (c *Controller) update(ctx context.Context, known exports, wanted []federation.Export) (exports, error) {
	next := exports{}
	var errs []error
	for _, x := range wanted {
		next[x.Key] = x
		if reflect.DeepEqual(known[x.Key], x) {
			continue
		}
		if err := c.sink.SetExport(ctx, x); err != nil {
			next[x.Key] = federation.Export{}
			errs = append(errs, fmt.Errorf("set export %s: %w", x.Key, err))
		}
	}
	for k := range known {
		if has(next, k) {
			continue
		}
		if err := c.sink.RemoveExport(ctx, k); err != nil {
			next[k] = federation.Export{}
			errs = append(errs, fmt.Errorf("remove export %s: %w", k, err))
		}
	}
	return next, errors.Join(errs...)
}

// adopt remembers what the sink has of a member that is being engaged, and returns all owners that have to be looked at
// besides those that the member's first lists name.
func (c *Controller) adopt(ctx context.Context, name multicluster.ClusterName) ([]owner, error) {
	keys, err := c.sink.Exports(ctx, federation.ClusterID(name))
	if err != nil {
		return nil, fmt.Errorf("get the known exports of %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		if o := ownerOf(k); !has(c.known[o], k) {
			grown := exports{k: {}} // a new map: who tells the sink of this owner reads the old one
			maps.Copy(grown, c.known[o])
			c.known[o] = grown
		}
	}
	var owners []owner
	for o := range c.known {
		if o.cluster == name {
			owners = append(owners, o)
		}
	}
	return owners, nil
}
