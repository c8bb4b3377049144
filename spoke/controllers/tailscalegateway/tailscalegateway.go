// Package tailscalegateway joins Gateways to the federation as TailscaleGateways say, and says in their status what
// came of it.
package tailscalegateway

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

// Spoke is told of the joined Gateways, and tells how it is.
type Spoke interface {
	SetJoined(ctx context.Context, j spoke.Joined) error
	RemoveJoined(ctx context.Context, tailscaleGateway spoke.Name) error
	Status(ctx context.Context) (spoke.Status, error)
}

// Reconciler acts on one TailscaleGateway at a time.
type Reconciler struct {
	Client client.Client
	Spoke  Spoke
	// Changes brings an event for each TailscaleGateway whose status may have changed.
	Changes <-chan event.GenericEvent
	// Record tells users of an object's refusal; nil tells nobody.
	Record func(o client.Object, reason, message string)
	// ExtensionPort is where the spoke's extension server listens.
	ExtensionPort uint16
	// Proxies tells how the StatefulSets of the proxies are; nil where there are none.
	Proxies func() proxyset.Statuses

	wrote pace
}

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways/status,verbs=patch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=gateways,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("tailscalegateway").
		For(&v1alpha1.TailscaleGateway{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&gatewayv1.Gateway{}, handler.EnqueueRequestsFromMapFunc(r.ofGateway), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.TailscaleGateway{}, handler.EnqueueRequestsFromMapFunc(r.rivals), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(r.Changes, &handler.EnqueueRequestForObject{})).
		Complete(r)
}

// ofGateway returns the TailscaleGateways that name the Gateway.
func (r *Reconciler) ofGateway(ctx context.Context, o client.Object) []reconcile.Request {
	return r.naming(ctx, o.GetNamespace(), o.GetName())
}

// rivals returns the TailscaleGateways that name the same Gateway as this one.
func (r *Reconciler) rivals(ctx context.Context, o client.Object) []reconcile.Request {
	t, ok := o.(*v1alpha1.TailscaleGateway)
	if !ok {
		return nil
	}
	return r.naming(ctx, t.Namespace, t.Spec.GatewayRef.Name)
}

func (r *Reconciler) naming(ctx context.Context, namespace, gateway string) []reconcile.Request {
	var out []reconcile.Request
	claims, err := r.claims(ctx, namespace, gateway)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "find the TailscaleGateways of a Gateway", "namespace", namespace, "gateway", gateway)
	}
	for _, t := range claims {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Name}})
	}
	return out
}

// claims returns the TailscaleGateways that name the Gateway, the oldest first.
func (r *Reconciler) claims(ctx context.Context, namespace, gateway string) ([]v1alpha1.TailscaleGateway, error) {
	var all v1alpha1.TailscaleGatewayList
	if err := r.Client.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list TailscaleGateways: %w", err)
	}
	out := slices.DeleteFunc(all.Items, func(t v1alpha1.TailscaleGateway) bool {
		return t.Spec.GatewayRef.Name != gateway || !t.DeletionTimestamp.IsZero()
	})
	slices.SortFunc(out, func(a, b v1alpha1.TailscaleGateway) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Reconcile joins the Gateway, or not, and writes the status.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	name := spoke.Name{Namespace: req.Namespace, Name: req.Name}
	var t v1alpha1.TailscaleGateway
	err := r.Client.Get(ctx, req.NamespacedName, &t)
	if apierrors.IsNotFound(err) || err == nil && !t.DeletionTimestamp.IsZero() {
		r.wrote.forget(req.NamespacedName)
		return ctrl.Result{}, r.Spoke.RemoveJoined(ctx, name)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get TailscaleGateway: %w", err)
	}
	refusal, err := r.join(ctx, &t)
	if err != nil {
		return ctrl.Result{}, err
	}
	now, err := r.Spoke.Status(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	facts := facts{Status: now, extensionPort: r.ExtensionPort}
	if r.Proxies != nil {
		facts.sets = r.Proxies()
		facts.pods = true
	}
	next, again := judge(&t, refusal, facts)
	if equality.Semantic.DeepEqual(t.Status, next) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if wait := r.wrote.wait(req.NamespacedName, time.Now()); wait > 0 && equality.Semantic.DeepEqual(t.Status.Conditions, next.Conditions) {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	r.wrote.note(req.NamespacedName, time.Now())
	r.tell(&t, next)
	before := t.DeepCopy()
	t.Status = next
	if err := r.Client.Status().Patch(ctx, &t, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of the TailscaleGateway: %w", err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// refusal says why a TailscaleGateway cannot be acted on; zero if it can.
type refusal struct{ reason, message string }

// Join joins the Gateway without touching the status, for a start at which the spoke has to know all there is.
func (r *Reconciler) Join(ctx context.Context, t *v1alpha1.TailscaleGateway) error {
	_, err := r.join(ctx, t)
	return err
}

func (r *Reconciler) join(ctx context.Context, t *v1alpha1.TailscaleGateway) (refusal, error) {
	name := spoke.Name{Namespace: t.Namespace, Name: t.Name}
	var g gatewayv1.Gateway
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.GatewayRef.Name}, &g)
	if apierrors.IsNotFound(err) {
		return refusal{v1alpha1.ReasonGatewayNotFound, fmt.Sprintf("there is no Gateway %q in namespace %q: create it, or correct spec.gatewayRef",
			t.Spec.GatewayRef.Name, t.Namespace)}, r.Spoke.RemoveJoined(ctx, name)
	}
	if err != nil {
		return refusal{}, fmt.Errorf("get Gateway: %w", err)
	}
	claims, err := r.claims(ctx, t.Namespace, g.Name)
	if err != nil {
		return refusal{}, err
	}
	if len(claims) > 0 && claims[0].Name != t.Name {
		return refusal{v1alpha1.ReasonConflict, fmt.Sprintf("the older TailscaleGateway %q names the same Gateway: delete one of them", claims[0].Name)},
			r.Spoke.RemoveJoined(ctx, name)
	}
	return refusal{}, r.Spoke.SetJoined(ctx, convert(t, &g))
}

// convert returns what the TailscaleGateway says of the Gateway.
func convert(t *v1alpha1.TailscaleGateway, g *gatewayv1.Gateway) spoke.Joined {
	out := spoke.Joined{
		TailscaleGateway: spoke.Name{Namespace: t.Namespace, Name: t.Name}, Gateway: spoke.Name{Namespace: g.Namespace, Name: g.Name},
	}
	for _, l := range g.Spec.Listeners {
		if l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.HTTPSProtocolType {
			out.Listeners = append(out.Listeners, spoke.Listener{
				Name: string(l.Name), Port: uint16(l.Port), TLS: l.Protocol == gatewayv1.HTTPSProtocolType,
			})
		}
	}
	for _, config := range t.Spec.Tailnets {
		next := spoke.JoinedTailnet{Name: config.Name, Ref: config.TailscaleTailnetRef.Name}
		if rg := config.RouteGeneration; rg != nil {
			if in := rg.Ingress; in != nil {
				next.Ingress = spoke.RouteTemplate{HostPattern: string(in.HostPattern), PathPrefix: string(in.PathPrefix), Protocol: string(in.Protocol)}
			}
			if eg := rg.Egress; eg != nil {
				next.Egress = spoke.RouteTemplate{HostPattern: string(eg.HostPattern), PathPrefix: string(eg.PathPrefix), Protocol: string(eg.Protocol)}
			}
		}
		out.Tailnets = append(out.Tailnets, next)
	}
	return out
}

// tell records an Event when the object stops being accepted, or for another reason.
func (r *Reconciler) tell(t *v1alpha1.TailscaleGateway, next v1alpha1.TailscaleGatewayStatus) {
	was, is := find(t.Status.Conditions, v1alpha1.ConditionAccepted), find(next.Conditions, v1alpha1.ConditionAccepted)
	if r.Record != nil && is.Status == "False" && (was.Status != is.Status || was.Reason != is.Reason) {
		r.Record(t, is.Reason, is.Message)
	}
}

// callPatience is how long Envoy Gateway may take to call the extension server before that is taken for a fault.
const callPatience = 10 * time.Second
