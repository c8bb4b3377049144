package export

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	mcbuilder "sigs.k8s.io/multicluster-runtime/pkg/builder"
	mchandler "sigs.k8s.io/multicluster-runtime/pkg/handler"
	mcmanager "sigs.k8s.io/multicluster-runtime/pkg/manager"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"
	mcreconcile "sigs.k8s.io/multicluster-runtime/pkg/reconcile"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// What the hub reads in a member it reads by the spoke's proxy, with the spoke's ServiceAccount. The hub's own
// ServiceAccount needs no right for it.

// Names of the indexes: the EndpointSlices of a Service, and Envoy's Services of a Gateway or class.
const (
	indexService = "tailgate.service"
	indexEnvoy   = "tailgate.envoy"
)

var (
	gatewayKind          = schema.GroupVersion(gatewayv1.GroupVersion).WithKind("Gateway")
	tailscaleGatewayKind = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway)

	tailscaleEndpointsKind = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleEndpoints)
)

func envoyOfGateway(namespace, name string) string { return "gateway/" + namespace + "/" + name }
func envoyOfClass(class string) string             { return "class/" + class }

// envoyKeys returns the key of the index for Envoy's own Services.
func envoyKeys(o client.Object) []string {
	labels := o.GetLabels()
	switch {
	case labels[labelGatewayName] != "":
		return []string{envoyOfGateway(labels[labelGatewayNamespace], labels[labelGatewayName])}
	case labels[labelGatewayClass] != "":
		return []string{envoyOfClass(labels[labelGatewayClass])}
	}
	return nil
}

// AddTo lets a manager run the controller. It must be called before the first member is engaged.
func (c *Controller) AddTo(ctx context.Context, mgr mcmanager.Manager) error {
	indexes := mgr.GetFieldIndexer()
	if err := indexes.IndexField(ctx, &discoveryv1.EndpointSlice{}, indexService, func(o client.Object) []string {
		return []string{o.GetLabels()[discoveryv1.LabelServiceName]}
	}); err != nil {
		return err
	}
	if err := indexes.IndexField(ctx, &corev1.Service{}, indexEnvoy, envoyKeys); err != nil {
		return err
	}
	if err := c.addServices(mgr); err != nil {
		return fmt.Errorf("add the controller of exported Services: %w", err)
	}
	if err := c.addGateways(mgr); err != nil {
		return fmt.Errorf("add the controller of exported Gateways: %w", err)
	}
	return nil
}

// options takes over from the manager what multicluster-runtime does not.
func options(mgr mcmanager.Manager) controller.TypedOptions[mcreconcile.Request] {
	return controller.TypedOptions[mcreconcile.Request]{
		MaxConcurrentReconciles: 4, SkipNameValidation: mgr.GetControllerOptions().SkipNameValidation,
	}
}

func (c *Controller) addServices(mgr mcmanager.Manager) error {
	b := mcbuilder.ControllerManagedBy(mgr).
		Named("export-service").
		WithOptions(options(mgr)).
		For(&corev1.Service{}).
		Watches(&discoveryv1.EndpointSlice{}, mapped(func(_ context.Context, _ member, o client.Object) []types.NamespacedName {
			return []types.NamespacedName{{Namespace: o.GetNamespace(), Name: o.GetLabels()[discoveryv1.LabelServiceName]}}
		})).
		Watches(&v1alpha1.TailscaleGateway{}, mapped(func(ctx context.Context, m member, _ client.Object) []types.NamespacedName {
			names, err := c.allNames(ctx, m)
			if err != nil { // the cache is synced, so the list itself must be wrong
				ctrl.LoggerFrom(ctx).Error(err, "cannot list objects of a member to be looked at again")
			}
			return names
		}), c.servedOnly(tailscaleGatewayKind), onSpecChange).
		Watches(&v1alpha1.TailscaleEndpoints{}, mapped(func(_ context.Context, _ member, o client.Object) []types.NamespacedName {
			return outsideNames(o.(*v1alpha1.TailscaleEndpoints))
		}), c.servedOnly(tailscaleEndpointsKind), onChange)
	c.watchServiceExports(b)
	built, err := b.Build(mcreconcile.Func(c.reconcileService))
	if err != nil {
		return err
	}
	return built.MultiClusterWatch(sweep{c, federation.KindService})
}

func (c *Controller) addGateways(mgr mcmanager.Manager) error {
	built, err := mcbuilder.ControllerManagedBy(mgr).
		Named("export-gateway").
		WithOptions(options(mgr)).
		For(&gatewayv1.Gateway{}, c.servedOnly(gatewayKind), onChange).
		Watches(&corev1.Service{}, mapped(gatewaysOfEnvoy), c.servedOnly(gatewayKind)).
		Watches(&discoveryv1.EndpointSlice{}, mapped(gatewaysOfSlice), c.servedOnly(gatewayKind)).
		Watches(&v1alpha1.TailscaleGateway{}, mapped(func(_ context.Context, _ member, o client.Object) []types.NamespacedName {
			return []types.NamespacedName{{Namespace: o.GetNamespace(), Name: o.(*v1alpha1.TailscaleGateway).Spec.GatewayRef.Name}}
		}), c.servedOnly(tailscaleGatewayKind), onSpecChange).
		Build(mcreconcile.Func(c.reconcileGateway))
	if err != nil {
		return err
	}
	return built.MultiClusterWatch(sweep{c, federation.KindListener})
}

// onChange is onSpecChange where labels and annotations count too.
var onChange = mcbuilder.WithPredicates(predicate.Or(
	predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}, predicate.AnnotationChangedPredicate{},
))

// onSpecChange leaves out the writes of a status, which others make often.
var onSpecChange = mcbuilder.WithPredicates(predicate.GenerationChangedPredicate{})

// onDeletion leaves out all updates but that by which a deletion begins: that an object is there is all it says.
var onDeletion = mcbuilder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
}})

// servedOnly keeps a controller from watching a kind where it is not served.
func (c *Controller) servedOnly(kind schema.GroupVersionKind) mcbuilder.EngageOptions {
	return mcbuilder.WithClusterFilter(func(name multicluster.ClusterName, _ cluster.Cluster) bool { return c.clusters.Serves(name, kind) })
}

// member is an engaged member cluster.
type member struct {
	cluster.Cluster
	name multicluster.ClusterName
}

// mapped enqueues what a function finds for an object of a member, as it was and as it is.
func mapped(find func(context.Context, member, client.Object) []types.NamespacedName) mchandler.TypedEventHandlerFunc[client.Object, mcreconcile.Request] {
	return func(name multicluster.ClusterName, cl cluster.Cluster) mchandler.EventHandler {
		return mchandler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			var out []reconcile.Request
			for _, n := range find(ctx, member{cl, name}, o) {
				out = append(out, reconcile.Request{NamespacedName: n})
			}
			return out
		})(name, cl)
	}
}

// allNames lists all names under which a member may export a Service: what a TailscaleGateway selects or joins may have
// changed for each of them.
func (c *Controller) allNames(ctx context.Context, m member) ([]types.NamespacedName, error) {
	var list corev1.ServiceList
	if err := m.GetClient().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the Services: %w", err)
	}
	sets, err := c.endpointsOf(ctx, m, "")
	if err != nil {
		return nil, err
	}
	var out []types.NamespacedName
	for i := range list.Items {
		out = append(out, client.ObjectKeyFromObject(&list.Items[i]))
	}
	for i := range sets {
		out = append(out, outsideNames(&sets[i])...)
	}
	return out, nil
}

// gatewaysOfEnvoy returns the Gateways whose proxies are reached by a Service, if it is one of Envoy's.
func gatewaysOfEnvoy(ctx context.Context, cl member, svc client.Object) []types.NamespacedName {
	labels := svc.GetLabels()
	if name := labels[labelGatewayName]; name != "" {
		return []types.NamespacedName{{Namespace: labels[labelGatewayNamespace], Name: name}}
	}
	class := labels[labelGatewayClass]
	if class == "" {
		return nil
	}
	var list gatewayv1.GatewayList
	return namesOf(ctx, cl, &list, func() (out []types.NamespacedName) {
		for i := range list.Items {
			if string(list.Items[i].Spec.GatewayClassName) == class {
				out = append(out, client.ObjectKeyFromObject(&list.Items[i]))
			}
		}
		return out
	})
}

// gatewaysOfSlice returns the Gateways whose proxies are the endpoints of a slice.
func gatewaysOfSlice(ctx context.Context, cl member, slice client.Object) []types.NamespacedName {
	svc := &corev1.Service{}
	key := types.NamespacedName{Namespace: slice.GetNamespace(), Name: slice.GetLabels()[discoveryv1.LabelServiceName]}
	if err := cl.GetClient().Get(ctx, key, svc); err != nil {
		return nil // the Service comes later, and counts its slices then
	}
	return gatewaysOfEnvoy(ctx, cl, svc)
}

// namesOf lists from the cache of a member. The cache is synced, so an error can only mean that the list is wrong.
func namesOf(ctx context.Context, cl cluster.Cluster, list client.ObjectList, names func() []types.NamespacedName) []types.NamespacedName {
	if err := cl.GetClient().List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list objects of a member to be looked at again")
		return nil
	}
	return names()
}

// list tells the sink all exports of a member that was engaged, whose caches are synced, and then that these are all.
// The queue looks at the same objects, and finds nothing new.
func (c *Controller) list(ctx context.Context, name multicluster.ClusterName, cl cluster.Cluster) error {
	request := func(o types.NamespacedName) mcreconcile.Request {
		return mcreconcile.Request{ClusterName: name, Request: reconcile.Request{NamespacedName: o}}
	}
	names, err := c.allNames(ctx, member{cl, name})
	if err != nil {
		return err
	}
	for _, o := range names {
		if _, err := c.reconcileService(ctx, request(o)); err != nil {
			return err
		}
	}
	if c.clusters.Serves(name, gatewayKind) {
		var gateways gatewayv1.GatewayList
		if err := cl.GetClient().List(ctx, &gateways, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list the Gateways: %w", err)
		}
		for i := range gateways.Items {
			if _, err := c.reconcileGateway(ctx, request(client.ObjectKeyFromObject(&gateways.Items[i]))); err != nil {
				return err
			}
		}
	}
	return c.sink.ExportsListed(ctx, federation.ClusterID(name))
}

// sweep tells and enqueues, whenever a member is engaged, the owners of the exports that the sink has of it.
type sweep struct {
	controller *Controller
	kind       federation.Kind
}

func (s sweep) ForCluster(name multicluster.ClusterName, cl cluster.Cluster) (source.TypedSource[mcreconcile.Request], bool, error) {
	return source.TypedFunc[mcreconcile.Request](func(ctx context.Context, q workqueue.TypedRateLimitingInterface[mcreconcile.Request]) error {
		owners, err := s.controller.adopt(ctx, name)
		if err != nil {
			return err
		}
		if s.kind == federation.KindService { // once a member
			if err := s.controller.list(ctx, name, cl); err != nil {
				return err
			}
		}
		for _, o := range owners {
			if o.kind == s.kind {
				q.Add(mcreconcile.Request{ClusterName: name, Request: reconcile.Request{NamespacedName: o.object}})
			}
		}
		return nil
	}), true, nil
}
