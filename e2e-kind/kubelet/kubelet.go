// Package kubelet stands in for the parts of a cluster that bring objects to life and that the demo's clusters, which are
// API servers only, do not have: the kubelet, the Deployment and endpoint slice controllers, and the load balancer. It is
// test equipment and does just what the demo needs; it makes no Pod objects.
//
// [Proxies] runs the Envoy Deployments that Envoy Gateway makes, as processes of this machine. [Workload] keeps the objects
// of a workload whose processes somebody else runs. [StartEnvoyGateway] starts Envoy Gateway itself.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

const (
	// DefaultNamespace is Envoy Gateway's.
	DefaultNamespace = "envoy-gateway-system"
	// managedBy marks the endpoint slices that this package writes, and owns its fields.
	managedBy = "tailgate-kubelet-stand-in"
	// probeInterval is shorter than a real kubelet's, because nobody wants to wait for it.
	probeInterval = 250 * time.Millisecond
	probeTimeout  = time.Second
)

// ProxiesOptions are all required, but for those with a default.
type ProxiesOptions struct {
	// Config is for the cluster, with the rights of an admin.
	Config *rest.Config
	// Namespace is where Envoy Gateway makes its Deployments; by default [DefaultNamespace].
	Namespace string
	// NodeIP is this machine's address: the proxies', as for pods on the host network, and the load balancer's.
	NodeIP netip.Addr
	// EnvoyPath is the program that is started for the container "envoy".
	EnvoyPath string
	// Env is added to the container's environment.
	Env []string
	// Hosts are names that the container can resolve, besides that of Envoy Gateway's Service, which is at NodeIP.
	Hosts map[string]netip.Addr
	// Zone is the node's topology zone; it may be empty.
	Zone string
	// Dir gets volumes and logs.
	Dir string
	// Supervisor runs the processes.
	Supervisor *machine.Supervisor
	// Log hears of starts, of changes of readiness, and of what failed and is tried again.
	Log *slog.Logger
}

// Proxies runs the proxies of Envoy Gateway on this machine: the container "envoy" of the oldest Deployment with their
// labels. Its arguments, variables and the volumes that it mounts are as the Deployment says, its network is the machine's.
// It is restarted when it ends and when the pod template changes. While its readiness probe passes, the Deployment is
// available and an EndpointSlice leads to it; its Service has NodeIP as its load balancer's address, where the Service's
// ports are reached if they equal the container's (listeners from port 1024 up).
//
// What differs from the real thing: one replica of one Deployment, because a proxy's ports are fixed and the network is
// shared; a change of the template stops the old process first; the container "shutdown-manager" is not run; no resource
// limits, security context or liveness probe.
type Proxies struct {
	options ProxiesOptions
	client  kubernetes.Interface
	current *proxy // the one that runs, if any
}

// NewProxies checks the options.
func NewProxies(o ProxiesOptions) (*Proxies, error) {
	if o.Config == nil || !o.NodeIP.IsValid() || o.EnvoyPath == "" || o.Dir == "" || o.Supervisor == nil || o.Log == nil {
		return nil, errors.New("proxies: an option is missing")
	}
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	client, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("proxies: make client: %w", err)
	}
	return &Proxies{options: o, client: client}, nil
}

// listers are caches of the namespace.
type listers struct {
	deployments appslisters.DeploymentNamespaceLister
	services    corelisters.ServiceNamespaceLister
	secrets     corelisters.SecretNamespaceLister
	configMaps  corelisters.ConfigMapNamespaceLister
}

// proxySelector has the labels of Envoy Gateway's proxies.
var proxySelector = labels.SelectorFromSet(labels.Set{
	"app.kubernetes.io/component":  "proxy",
	"app.kubernetes.io/managed-by": "envoy-gateway",
})

// Run runs the proxies until ctx ends and then stops them.
func (p *Proxies) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithNamespace(p.options.Namespace))
	l := listers{
		deployments: factory.Apps().V1().Deployments().Lister().Deployments(p.options.Namespace),
		services:    factory.Core().V1().Services().Lister().Services(p.options.Namespace),
		secrets:     factory.Core().V1().Secrets().Lister().Secrets(p.options.Namespace),
		configMaps:  factory.Core().V1().ConfigMaps().Lister().ConfigMaps(p.options.Namespace),
	}
	wake := make(chan struct{}, 1)
	changed := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Apps().V1().Deployments().Informer(), factory.Core().V1().Services().Informer(),
		factory.Core().V1().Secrets().Informer(), factory.Core().V1().ConfigMaps().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("proxies: watch: %w", err)
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())

	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := p.sync(ctx, l); err != nil && ctx.Err() == nil {
			p.options.Log.Warn("proxy is not in order, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return p.stop()
}

// stop stops the proxy that runs.
func (p *Proxies) stop() error {
	if p.current == nil {
		return nil
	}
	err := p.current.running.Stop()
	p.current = nil
	return err
}
