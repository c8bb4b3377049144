package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// nodeName is the node that all pods are on.
const nodeName = "stand-in"

// Pods stands in for the scheduler and the kubelet where a real kube-controller-manager makes Pod objects: each pod of a
// namespace gets the one node that there is, an address, and is ready; one that is to end is gone. Processes run only
// where Start starts them.
type Pods struct {
	// Config is for the cluster, with the rights of an admin.
	Config *rest.Config
	// Namespace is that of the pods. It must exist.
	Namespace string
	// Addresses are given to the pods in turn, from the second on. The API server takes no loopback addresses.
	Addresses netip.Prefix
	// Image reports whether an image can be had; nil says that of each.
	Image func(image string) bool
	// Start has a pod run that has got its address. It is called again and again, and must not start one twice. Nil starts
	// nothing.
	Start func(ctx context.Context, pod *corev1.Pod) error
	// Ready reports whether a pod that runs is ready, Gone whether one that is to end has ended; nil says so of each. They
	// are asked again and again.
	Ready, Gone func(pod string) bool
	// Log hears of what failed and is tried again.
	Log *slog.Logger

	client kubernetes.Interface
	last   netip.Addr
}

// Run keeps the pods until ctx ends, and leaves them behind.
func (p *Pods) Run(ctx context.Context) error {
	if p.Config == nil || p.Namespace == "" || !p.Addresses.IsValid() || p.Log == nil {
		return errors.New("pods: an option is missing")
	}
	var err error
	if p.client, err = kubernetes.NewForConfig(p.Config); err != nil {
		return fmt.Errorf("pods: make client: %w", err)
	}
	p.last = p.Addresses.Masked().Addr().Next()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelHostname: nodeName}}}
	if _, err := p.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("pods: create node: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithNamespace(p.Namespace))
	lister := factory.Core().V1().Pods().Lister().Pods(p.Namespace)
	wake := make(chan struct{}, 1)
	changed := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(handler); err != nil {
		return fmt.Errorf("pods: watch: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())

	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := p.sync(ctx, lister); err != nil && ctx.Err() == nil {
			p.Log.Warn("pods are not in order, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return nil
}

func (p *Pods) sync(ctx context.Context, lister corelisters.PodNamespaceLister) error {
	all, err := lister.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range all {
		if err := p.one(ctx, pod); err != nil && !stale(err) {
			errs = append(errs, fmt.Errorf("pod %s: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

// one takes a pod one step further.
func (p *Pods) one(ctx context.Context, pod *corev1.Pod) error {
	pods := p.client.CoreV1().Pods(p.Namespace)
	switch {
	case pod.DeletionTimestamp != nil && (p.Gone == nil || p.Gone(pod.Name)):
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
	case pod.DeletionTimestamp != nil:
		return nil
	case pod.Spec.NodeName == "":
		return pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, metav1.CreateOptions{})
	}
	next := pod.DeepCopy()
	p.judge(next)
	if p.Start != nil && next.Status.Phase == corev1.PodRunning {
		if err := p.Start(ctx, next); err != nil {
			return fmt.Errorf("start it: %w", err)
		}
	}
	if equality.Semantic.DeepEqual(pod.Status, next.Status) {
		return nil
	}
	_, err := pods.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return err
}

// judge fills in the status as a kubelet would.
func (p *Pods) judge(pod *corev1.Pod) {
	now := metav1.Now()
	s := &pod.Status
	if s.StartTime == nil {
		s.StartTime = &now
	}
	running := true
	s.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		status := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *s.StartTime}}}
		if p.Image != nil && !p.Image(c.Image) {
			running = false
			status.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: not found", c.Image),
			}}
		}
		s.ContainerStatuses = append(s.ContainerStatuses, status)
	}
	ready := running && (p.Ready == nil || p.Ready(pod.Name))
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].Ready, s.ContainerStatuses[i].Started = ready, new(running)
	}
	s.Phase = corev1.PodPending
	if running {
		s.Phase = corev1.PodRunning
		if s.PodIP == "" {
			p.last = p.last.Next()
			s.PodIP, s.PodIPs = p.last.String(), []corev1.PodIP{{IP: p.last.String()}}
		}
	}
	setPodCondition(s, corev1.PodInitialized, true, now)
	setPodCondition(s, corev1.ContainersReady, ready, now)
	setPodCondition(s, corev1.PodReady, ready, now)
}

func setPodCondition(s *corev1.PodStatus, kind corev1.PodConditionType, yes bool, now metav1.Time) {
	want := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: now}
	if yes {
		want.Status = corev1.ConditionTrue
	}
	for i, c := range s.Conditions {
		if c.Type == kind {
			if c.Status != want.Status {
				s.Conditions[i] = want
			}
			return
		}
	}
	s.Conditions = append(s.Conditions, want)
}
