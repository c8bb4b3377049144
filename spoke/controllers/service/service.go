// Package service tells the spoke of the Services of the local cluster and their ready endpoints.
package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// Labels by which Envoy Gateway says whose Envoy a Service is.
const (
	labelGatewayName      = "gateway.envoyproxy.io/owning-gateway-name"
	labelGatewayNamespace = "gateway.envoyproxy.io/owning-gateway-namespace"
)

// Spoke is told of the Services.
type Spoke interface {
	SetService(ctx context.Context, svc spoke.Service) error
	RemoveService(ctx context.Context, name spoke.Name) error
}

// Reconciler tells the spoke of one Service at a time.
type Reconciler struct {
	Client client.Reader
	Spoke  Spoke
	// Namespace is the spoke's own, where the Services of its proxies are. In another one their labels say nothing: whoever
	// may write there could draw the cluster's traffic to himself.
	Namespace string
}

// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	ofSlice := func(_ context.Context, o client.Object) []reconcile.Request {
		name := o.GetLabels()[discoveryv1.LabelServiceName]
		if name == "" {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
	}
	return ctrl.NewControllerManagedBy(mgr).Named("service").
		For(&corev1.Service{}).
		Watches(&discoveryv1.EndpointSlice{}, handler.EnqueueRequestsFromMapFunc(ofSlice)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}

// Reconcile reads the Service with its EndpointSlices and tells the spoke.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	name := spoke.Name{Namespace: req.Namespace, Name: req.Name}
	var svc corev1.Service
	if err := r.Client.Get(ctx, req.NamespacedName, &svc); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, r.Spoke.RemoveService(ctx, name)
		}
		return ctrl.Result{}, fmt.Errorf("get Service: %w", err)
	}
	var slicesOf discoveryv1.EndpointSliceList
	err := r.Client.List(ctx, &slicesOf, client.InNamespace(req.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: req.Name})
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("list EndpointSlices: %w", err)
	}
	return ctrl.Result{}, r.Spoke.SetService(ctx, Convert(svc, slicesOf.Items, r.Namespace))
}

// Convert returns the Service with the ready endpoints of its EndpointSlices. namespace is the spoke's own.
func Convert(svc corev1.Service, slicesOf []discoveryv1.EndpointSlice, namespace string) spoke.Service {
	out := spoke.Service{Name: spoke.Name{Namespace: svc.Namespace, Name: svc.Name}}
	if gateway := svc.Labels[labelGatewayName]; gateway != "" {
		out.Gateway = spoke.Name{Namespace: svc.Labels[labelGatewayNamespace], Name: gateway}
	}
	if role := svc.Labels[v1alpha1.LabelProxyRole]; role != "" && svc.Namespace == namespace {
		out.Proxies = spoke.ProxySet{Role: spoke.Role(role), Tailnet: svc.Annotations[v1alpha1.AnnotationTailnet]}
	}
	for _, p := range svc.Spec.Ports {
		protocol := federation.Protocol(p.Protocol)
		if p.Protocol == "" {
			protocol = federation.TCP
		}
		if protocol != federation.TCP && protocol != federation.UDP {
			continue // SCTP cannot be carried
		}
		out.Ports = append(out.Ports, spoke.ServicePort{
			Port:  federation.Port{Name: p.Name, Port: uint16(p.Port), Protocol: protocol},
			Ready: ready(slicesOf, p.Name, protocol),
		})
	}
	return out
}

// ready returns the addresses of the ready endpoints of a port, sorted and each once: an endpoint may stand in two
// slices for a moment.
func ready(slicesOf []discoveryv1.EndpointSlice, port string, protocol federation.Protocol) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range slicesOf {
		number, ok := number(s.Ports, port, protocol)
		if !ok {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil { // slices of type FQDN have names
					out = append(out, netip.AddrPortFrom(addr, number))
				}
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// number returns the endpoints' own port number for a port of the Service.
func number(ports []discoveryv1.EndpointPort, name string, protocol federation.Protocol) (uint16, bool) {
	for _, p := range ports {
		have := corev1.ProtocolTCP
		if p.Protocol != nil {
			have = *p.Protocol
		}
		if (p.Name == nil && name == "" || p.Name != nil && *p.Name == name) && federation.Protocol(have) == protocol && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}
