package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Workload keeps the objects of a workload whose processes somebody else runs: a Deployment and a Service of the same name,
// made if they are not there and otherwise left as they are, and the EndpointSlice of the Service. An endpoint is ready
// while something answers at its address; objects are written only when that changes, so that a test may edit them in
// between.
type Workload struct {
	// Config is for the cluster, with the rights of an admin.
	Config *rest.Config
	// Namespace is made if it is not there. Name is also the value of the label "app" that the Service selects by.
	Namespace string
	Name      string
	// PodIPs are where the processes listen, on Port. The API server takes no loopback addresses; see machine.Spec for
	// others that are local.
	PodIPs []netip.Addr
	Port   uint16
	// Await leaves the Deployment and the Service to somebody else, until whom there is nothing to keep. A target port that
	// is a name is Port then.
	Await bool
	// ReadyPath is what an HTTP probe gets; without it a TCP connection is enough.
	ReadyPath string
	// Log hears of changes of readiness, and of what failed and is tried again.
	Log *slog.Logger
}

// Run keeps the objects until ctx ends. It leaves them behind: a cluster that loses its kubelet does too.
func (w *Workload) Run(ctx context.Context) error {
	if w.Config == nil || w.Namespace == "" || w.Name == "" || len(w.PodIPs) == 0 || w.Port == 0 || w.Log == nil {
		return errors.New("workload: an option is missing")
	}
	client, err := kubernetes.NewForConfig(w.Config)
	if err != nil {
		return fmt.Errorf("workload %s: make client: %w", w.Name, err)
	}
	var written []endpoint
	var said string
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		now := w.probe(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if written == nil || !slices.Equal(now, written) {
			if err := w.write(ctx, client, now); err != nil {
				if err.Error() != said {
					w.Log.Warn("workload is not in order, trying again", "workload", w.Name, "error", err)
				}
				said = err.Error()
			} else {
				written, said = now, ""
				w.Log.Info("workload readiness", "workload", w.Name, "ready", countReady(now), "of", len(now))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *Workload) probe(ctx context.Context) []endpoint {
	var all []endpoint
	for _, ip := range w.PodIPs {
		addr := netip.AddrPortFrom(ip, w.Port)
		var err error
		if w.ReadyPath != "" {
			err = probeHTTP(ctx, addr, w.ReadyPath)
		} else {
			err = probeTCP(ctx, addr)
		}
		all = append(all, endpoint{addr: ip, ready: err == nil})
	}
	return all
}

func countReady(endpoints []endpoint) int32 {
	var n int32
	for _, e := range endpoints {
		n += boolInt(e.ready)
	}
	return n
}

func (w *Workload) write(ctx context.Context, client kubernetes.Interface, endpoints []endpoint) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace: %w", err)
	}
	deployments, services := client.AppsV1().Deployments(w.Namespace), client.CoreV1().Services(w.Namespace)
	deployment, err := deployments.Get(ctx, w.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !w.Await {
		deployment, err = deployments.Create(ctx, w.deployment(), metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("make deployment: %w", err)
	}
	service, err := services.Get(ctx, w.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !w.Await {
		service, err = services.Create(ctx, w.service(), metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("make service: %w", err)
	}
	for i := range service.Spec.Ports {
		if p := &service.Spec.Ports[i]; p.TargetPort.Type == intstr.String {
			p.TargetPort = intstr.FromInt32(int32(w.Port))
		}
	}
	if err := reportEndpoints(ctx, client, service, endpoints); err != nil {
		return err
	}
	return reportDeployment(ctx, client, deployment, countReady(endpoints), int32(len(endpoints)))
}

func (w *Workload) labels() map[string]string { return map[string]string{"app": w.Name} }

func (w *Workload) deployment() *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: w.Name, Namespace: w.Namespace, Labels: w.labels()},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(len(w.PodIPs))),
			Selector: &metav1.LabelSelector{MatchLabels: w.labels()},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: w.labels()},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: w.Name, Image: "process-of-the-machine",
					Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(w.Port)}},
				}}},
			},
		},
	}
}

func (w *Workload) service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: w.Name, Namespace: w.Namespace, Labels: w.labels()},
		Spec: corev1.ServiceSpec{
			Selector: w.labels(),
			Ports:    []corev1.ServicePort{{Name: "http", Port: int32(w.Port), TargetPort: intstr.FromInt32(int32(w.Port)), Protocol: corev1.ProtocolTCP}},
		},
	}
}
