package kubelet

import (
	"context"
	"fmt"
	"net/netip"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

// report writes what the controllers of a cluster would write about the proxy: the Deployment's status, and for each of its
// Services the endpoint slice and the load balancer's address.
func (p *Proxies) report(ctx context.Context, l listers, d *appsv1.Deployment) error {
	if err := reportDeployment(ctx, p.client, d, boolInt(p.current.ready), 1); err != nil {
		return err
	}
	services, err := l.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	endpoints := []endpoint{{addr: p.options.NodeIP, ready: p.current.ready}}
	for _, s := range services {
		if len(s.Spec.Selector) == 0 || !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
			continue
		}
		if err := reportEndpoints(ctx, p.client, s, endpoints); err != nil {
			return err
		}
		if err := reportLoadBalancer(ctx, p.client, s, p.options.NodeIP); err != nil {
			return err
		}
	}
	return nil
}

func boolInt(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// reportDeployment writes the status of a Deployment of which ready of all replicas are ready.
func reportDeployment(ctx context.Context, client kubernetes.Interface, d *appsv1.Deployment, ready, all int32) error {
	available := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse, Reason: "MinimumReplicasUnavailable",
	}
	if ready > 0 {
		available.Status, available.Reason = corev1.ConditionTrue, "MinimumReplicasAvailable"
	}
	// The condition's times are left as they are while it does not change, so that an unchanged status is not written.
	for _, c := range d.Status.Conditions {
		if c.Type == available.Type && c.Status == available.Status {
			available = c
		}
	}
	status := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: all, UpdatedReplicas: all,
		ReadyReplicas: ready, AvailableReplicas: ready, UnavailableReplicas: all - ready,
		Conditions: []appsv1.DeploymentCondition{available},
	}
	if equality.Semantic.DeepEqual(status, d.Status) {
		return nil
	}
	if available.LastTransitionTime.IsZero() {
		status.Conditions[0].LastTransitionTime = metav1.Now()
		status.Conditions[0].LastUpdateTime = status.Conditions[0].LastTransitionTime
	}
	d = d.DeepCopy()
	d.Status = status
	if _, err := client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil && !stale(err) {
		return fmt.Errorf("write status of deployment %s: %w", d.Name, err)
	}
	return nil
}

// stale tells that the object read is not the newest: the newest is on its way and brings the next try.
func stale(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }

// endpoint is an address behind a Service.
type endpoint struct {
	addr  netip.Addr
	ready bool
}

// reportEndpoints makes the one endpoint slice of a Service.
func reportEndpoints(ctx context.Context, client kubernetes.Interface, s *corev1.Service, endpoints []endpoint) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.Name + "-stand-in", Namespace: s.Namespace,
			Labels:          map[string]string{discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: managedBy},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, e := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{e.addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: new(e.ready), Serving: new(e.ready), Terminating: new(false)},
		})
	}
	for _, port := range s.Spec.Ports {
		number := port.TargetPort.IntVal
		if number == 0 {
			number = port.Port
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
			Name: new(port.Name), Port: new(number), Protocol: new(port.Protocol), AppProtocol: port.AppProtocol,
		})
	}
	slices := client.DiscoveryV1().EndpointSlices(s.Namespace)
	old, err := slices.Get(ctx, slice.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual([]any{old.Endpoints, old.Ports}, []any{slice.Endpoints, slice.Ports}):
		slice.ResourceVersion = old.ResourceVersion
		_, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	}
	if err != nil && !stale(err) {
		return fmt.Errorf("write endpoints of service %s: %w", s.Name, err)
	}
	return nil
}

// reportLoadBalancer gives a Service of type LoadBalancer its address.
func reportLoadBalancer(ctx context.Context, client kubernetes.Interface, s *corev1.Service, addr netip.Addr) error {
	want := []corev1.LoadBalancerIngress{{IP: addr.String(), IPMode: new(corev1.LoadBalancerIPModeProxy)}}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || equality.Semantic.DeepEqual(s.Status.LoadBalancer.Ingress, want) {
		return nil
	}
	s = s.DeepCopy()
	s.Status.LoadBalancer.Ingress = want
	if _, err := client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{}); err != nil && !stale(err) {
		return fmt.Errorf("write address of service %s: %w", s.Name, err)
	}
	return nil
}
