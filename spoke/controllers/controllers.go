// Package controllers is the spoke's view of its own cluster: the caches, and the reconcilers that tell the spoke's
// loop of what is in them.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/exportevent"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
	"github.com/tailgate-project/tailgate/spoke/controllers/route"
	"github.com/tailgate-project/tailgate/spoke/controllers/routepolicy"
	"github.com/tailgate-project/tailgate/spoke/controllers/service"
	"github.com/tailgate-project/tailgate/spoke/controllers/serviceexport"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailnetendpoints"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscalegateway"
	"github.com/tailgate-project/tailgate/spoke/controllers/vipservice"
)

// quiet is the shortest time between two looks at the spoke for the objects' status.
const quiet = 100 * time.Millisecond

// ErrMissingKind reports a cluster that lacks a CRD.
var ErrMissingKind = errors.New("the cluster does not serve a kind that the spoke needs")

// Scheme has all kinds that the spoke reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("make the scheme: %w", err)
		}
	}
	return s, nil
}

// Controllers are the reconcilers with their caches.
type Controllers struct {
	mgr      manager.Manager
	spoke    *spoke.Spoke
	log      *slog.Logger
	services *service.Reconciler
	gateways *tailscalegateway.Reconciler
	backends *tailscaleendpoints.Reconciler
	routes   *route.Reconciler
	events   *exportevent.Reconciler
	// proxies is told when the StatefulSets of the proxies are otherwise than before.
	proxies chan struct{}
	// status, endpoints, policies, vips, exports and told bring the events by which the spoke itself wakes the reconcilers.
	status, endpoints, policies, vips, exports, told chan event.GenericEvent
}

// Options are what the controllers need. All are required but where said.
type Options struct {
	// API is how the member's API server is reached.
	API   *rest.Config
	Spoke *spoke.Spoke
	// Namespace is the spoke's own.
	Namespace string
	// Discover asks the hub what a TailscaleTailnet has.
	Discover func(ctx context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (tailscaleendpoints.Found, error)
	// ExtensionPort is where the extension server listens.
	ExtensionPort uint16
	// Proxies say what the StatefulSets of the proxies are like; nil where Kubernetes does not run them.
	Proxies *proxyset.Options
	Log     *slog.Logger
}

// New returns the controllers for a cluster. It fails with [ErrMissingKind] where a CRD is not installed.
func New(o Options) (*Controllers, error) {
	s, log := o.Spoke, o.Log
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	logger := logr.FromSlogHandler(log.Handler())
	caches := cache.Options{DefaultTransform: cache.TransformStripManagedFields()}
	if o.Proxies != nil {
		caches.ByObject = proxyset.CacheOptions(o.Proxies.Namespace)
	}
	mgr, err := ctrl.NewManager(o.API, ctrl.Options{
		Scheme: scheme, Logger: logger, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0", Cache: caches,
		Controller: config.Controller{SkipNameValidation: new(true)}, // a test has several spokes in one process
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the member's API server: %w", err)
	}
	if err := served(mgr.GetRESTMapper()); err != nil {
		return nil, err
	}
	c := &Controllers{
		mgr: mgr, spoke: s, log: log, proxies: make(chan struct{}, 1),
		status: make(chan event.GenericEvent), endpoints: make(chan event.GenericEvent), policies: make(chan event.GenericEvent),
		vips: make(chan event.GenericEvent), exports: make(chan event.GenericEvent), told: make(chan event.GenericEvent),
	}
	recorder := mgr.GetEventRecorder("tailgate-spoke")
	record := func(o client.Object, reason, message string) {
		recorder.Eventf(o, nil, corev1.EventTypeWarning, reason, "Join", "%s", message)
	}
	c.services = &service.Reconciler{Client: mgr.GetClient(), Spoke: s, Namespace: o.Namespace}
	c.gateways = &tailscalegateway.Reconciler{
		Client: mgr.GetClient(), Spoke: s, Changes: c.status, Record: record, ExtensionPort: o.ExtensionPort,
	}
	c.backends = &tailscaleendpoints.Reconciler{Client: mgr.GetClient(), Spoke: s, Changes: c.endpoints, Lookup: net.DefaultResolver.LookupNetIP, Discover: o.Discover}
	c.routes = &route.Reconciler{Client: mgr.GetClient(), Spoke: s, Record: func(o client.Object, e route.Event) {
		recorder.Eventf(o, nil, e.Type, e.Reason, "Route", "%s", e.Message)
	}}
	policies := &routepolicy.Reconciler{Client: mgr.GetClient(), Spoke: s, Changes: c.policies}
	vips := &vipservice.Reconciler{Client: mgr.GetClient(), Spoke: s, Changes: c.vips, Record: record}
	exports := &serviceexport.Reconciler{Client: mgr.GetClient(), Spoke: s, Changes: c.exports}
	c.events = &exportevent.Reconciler{Client: mgr.GetClient(), Spoke: s, Changes: c.told, Record: func(o client.Object, e exportevent.Event) {
		recorder.Eventf(o, nil, e.Type, e.Reason, "Export", "%s", e.Message)
	}}
	setups := []func(ctrl.Manager) error{
		c.services.SetupWithManager, c.gateways.SetupWithManager, c.backends.SetupWithManager, c.routes.SetupWithManager, policies.SetupWithManager,
		vips.SetupWithManager, exports.SetupWithManager, c.events.SetupWithManager, (&tailnetendpoints.Reconciler{Client: mgr.GetClient(), Record: record}).SetupWithManager,
	}
	if o.Proxies != nil {
		sets := &proxyset.Reconciler{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Options: *o.Proxies, Changed: c.proxiesChanged,
			Record: func(o client.Object, kind, reason, message string) {
				recorder.Eventf(o, nil, kind, reason, "Proxies", "%s", message)
			},
		}
		c.gateways.Proxies = sets.Statuses
		setups = append(setups, sets.SetupWithManager)
	}
	for _, setup := range setups {
		if err := setup(mgr); err != nil {
			return nil, fmt.Errorf("set up the controllers: %w", err)
		}
	}
	if err := mgr.Add(manager.RunnableFunc(c.wake)); err != nil {
		return nil, fmt.Errorf("set up the controllers: %w", err)
	}
	return c, nil
}

// served returns an error that names the kinds that the cluster lacks, and what to install.
func served(mapper meta.RESTMapper) error {
	var missing []string
	for _, k := range []schema.GroupVersionKind{
		{Group: gatewayv1.GroupName, Version: "v1", Kind: "Gateway"},
		v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway),
		v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleEndpoints),
		v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleRoutePolicy),
	} {
		_, err := mapper.RESTMapping(k.GroupKind(), k.Version)
		switch {
		case meta.IsNoMatchError(err):
			missing = append(missing, k.Kind+"."+k.Group+"/"+k.Version)
		case err != nil:
			return fmt.Errorf("ask the member's API server for its kinds: %w", err)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s; install the Gateway API's CRDs (they come with Envoy Gateway) and those of deploy/crds",
			ErrMissingKind, strings.Join(missing, ", "))
	}
	return nil
}

// Run runs the controllers until ctx ends.
func (c *Controllers) Run(ctx context.Context) error {
	if err := c.mgr.Start(ctx); err != nil {
		return fmt.Errorf("watch the member's API server: %w", err)
	}
	return nil
}

// Prime returns when the spoke knows everything that the caches have. Before that, it must tell nobody anything: what
// it does not know yet would look as if it were gone.
func (c *Controllers) Prime(ctx context.Context) error {
	if !c.mgr.GetCache().WaitForCacheSync(ctx) {
		return fmt.Errorf("read the member's API server: %w", context.Cause(ctx))
	}
	var services corev1.ServiceList
	if err := c.mgr.GetClient().List(ctx, &services); err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	var slices discoveryv1.EndpointSliceList
	if err := c.mgr.GetClient().List(ctx, &slices); err != nil { // starts nothing: it makes sure that they are there
		return fmt.Errorf("list EndpointSlices: %w", err)
	}
	for _, s := range services.Items {
		req := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}}
		if _, err := c.services.Reconcile(ctx, req); err != nil {
			return err
		}
	}
	var gateways v1alpha1.TailscaleGatewayList
	if err := c.mgr.GetClient().List(ctx, &gateways); err != nil {
		return fmt.Errorf("list TailscaleGateways: %w", err)
	}
	for i := range gateways.Items {
		if err := c.gateways.Join(ctx, &gateways.Items[i]); err != nil {
			return err
		}
	}
	if err := c.routes.Set(ctx); err != nil {
		return err
	}
	var endpoints v1alpha1.TailscaleEndpointsList
	if err := c.mgr.GetClient().List(ctx, &endpoints); err != nil {
		return fmt.Errorf("list TailscaleEndpoints: %w", err)
	}
	for i := range endpoints.Items {
		if err := c.backends.Set(ctx, &endpoints.Items[i]); err != nil {
			return err
		}
	}
	return c.events.Begin(ctx)
}

// wake wakes the reconcilers whose objects may have to change because the spoke has.
func (c *Controllers) wake(ctx context.Context) error {
	for {
		changed := c.spoke.Changes()
		if err := c.wakeAll(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("cannot wake the controllers", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-c.proxies:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(quiet):
		}
	}
}

// proxiesChanged has the reconcilers woken because the StatefulSets of the proxies are otherwise than before.
func (c *Controllers) proxiesChanged() {
	select {
	case c.proxies <- struct{}{}:
	default: // they are to be woken already
	}
}

func (c *Controllers) wakeAll(ctx context.Context) error {
	var gateways v1alpha1.TailscaleGatewayList
	if err := c.mgr.GetClient().List(ctx, &gateways); err != nil {
		return fmt.Errorf("list TailscaleGateways: %w", err)
	}
	var endpoints v1alpha1.TailscaleEndpointsList
	if err := c.mgr.GetClient().List(ctx, &endpoints); err != nil {
		return fmt.Errorf("list TailscaleEndpoints: %w", err)
	}
	var policies v1alpha1.TailscaleRoutePolicyList
	if err := c.mgr.GetClient().List(ctx, &policies); err != nil {
		return fmt.Errorf("list TailscaleRoutePolicies: %w", err)
	}
	wanted, err := c.spoke.Policies(ctx)
	if err != nil {
		return err
	}
	for i := range gateways.Items {
		if !send(ctx, c.status, &gateways.Items[i]) {
			return nil
		}
	}
	for _, all := range []chan event.GenericEvent{c.vips, c.exports, c.told} {
		if !send(ctx, all, &corev1.Service{}) {
			return nil
		}
	}
	for i := range endpoints.Items {
		if !send(ctx, c.endpoints, &endpoints.Items[i]) {
			return nil
		}
	}
	names := map[spoke.Name]bool{}
	for _, p := range policies.Items {
		names[spoke.Name{Namespace: p.Namespace, Name: p.Name}] = true
	}
	for _, p := range wanted {
		names[p.TailscaleGateway] = true
	}
	for n := range names {
		o := &v1alpha1.TailscaleRoutePolicy{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name}}
		if !send(ctx, c.policies, o) {
			return nil
		}
	}
	return nil
}

func send(ctx context.Context, to chan<- event.GenericEvent, o client.Object) bool {
	select {
	case to <- event.GenericEvent{Object: o}:
		return true
	case <-ctx.Done():
		return false
	}
}

// +kubebuilder:rbac:groups=about.k8s.io,resources=clusterproperties,resourceNames=cluster.clusterset.k8s.io,verbs=get

// clusterProperty is the name of the object that names the cluster.
const clusterProperty = "cluster.clusterset.k8s.io"

// ErrNoClusterID reports a cluster that does not say what it is called.
var ErrNoClusterID = errors.New("the cluster has no id: give one with --cluster-id, or create the ClusterProperty " + clusterProperty)

// ClusterID reads the cluster's id from its ClusterProperty.
func ClusterID(ctx context.Context, cfg *rest.Config) (federation.ClusterID, error) {
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return "", fmt.Errorf("connect to the member's API server: %w", err)
	}
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		var o unstructured.Unstructured
		o.SetGroupVersionKind(schema.GroupVersionKind{Group: "about.k8s.io", Version: version, Kind: "ClusterProperty"})
		err := c.Get(ctx, client.ObjectKey{Name: clusterProperty}, &o)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("get ClusterProperty %s: %w", clusterProperty, err)
		}
		value, _, err := unstructured.NestedString(o.Object, "spec", "value")
		if err != nil {
			return "", fmt.Errorf("ClusterProperty %s: %w", clusterProperty, err)
		}
		id := federation.ClusterID(value)
		if err := id.Validate(); err != nil {
			return "", fmt.Errorf("ClusterProperty %s: %w", clusterProperty, err)
		}
		return id, nil
	}
	return "", ErrNoClusterID
}
