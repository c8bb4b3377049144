package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/envoygateway"
	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// timeout is for each thing that is asked.
const timeout = 20 * time.Second

// statusPort is where a spoke's pod tells of itself.
const statusPort = 9470

// Cluster is a way to a cluster.
type Cluster struct {
	// Context is what the looker calls it.
	Context string
	REST    *rest.Config
	// Dial connects to a port of a pod.
	Dial func(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error)
}

// Options say where to look.
type Options struct {
	// Hub opens the way to the hub.
	Hub func(ctx context.Context) (operator.API, error)
	// Management is the hub's cluster, nil where only the hub is to be seen.
	Management *Cluster
	Members    []Cluster
	// Namespace is where hub and spokes are installed.
	Namespace string
}

// Look looks at an installation. What cannot be seen is in the picture, too, with the reason why.
func Look(ctx context.Context, o Options) (Picture, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return Picture{}, fmt.Errorf("make the scheme: %w", err)
		}
	}
	p := Picture{Members: make([]Member, len(o.Members))}
	var looking errgroup.Group
	looking.Go(func() error {
		p.Hub = lookAtHub(ctx, o.Hub)
		if o.Management != nil {
			p.Hub.Objects = lookAtObjects(ctx, *o.Management, scheme)
		}
		return nil
	})
	for i, c := range o.Members {
		looking.Go(func() error {
			p.Members[i] = lookAtMember(ctx, c, scheme, o.Namespace)
			return nil
		})
	}
	if err := looking.Wait(); err != nil {
		return p, err
	}
	for i, c := range o.Members { // which services there are to ask for, the hub has said now
		looking.Go(func() error {
			p.Members[i].ask(ctx, c, scheme, p.Hub.Services)
			return nil
		})
	}
	return p, looking.Wait()
}

func lookAtHub(ctx context.Context, open func(context.Context) (operator.API, error)) (h Hub) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var api operator.API
	if api, h.Err = open(ctx); h.Err != nil {
		return h
	}
	before := time.Now()
	if h.Status, h.Err = api.Status(ctx); h.Err != nil {
		return h
	}
	h.Clock = Reading{Before: before, Said: h.Status.Now, After: time.Now()}
	h.Services, h.Err = api.Services(ctx)
	return h
}

func lookAtObjects(ctx context.Context, c Cluster, scheme *runtime.Scheme) *HubObjects {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	o := &HubObjects{}
	if _, o.Clock, o.Err = version(ctx, c.REST); o.Err != nil {
		return o
	}
	objects, err := client.New(c.REST, client.Options{Scheme: scheme})
	if o.Err = err; err != nil {
		return o
	}
	var tailnets v1alpha1.TailscaleTailnetList
	var members v1alpha1.MemberClusterList
	for what, list := range map[string]client.ObjectList{"TailscaleTailnets": &tailnets, "MemberClusters": &members} {
		if err := objects.List(ctx, list); err != nil {
			o.Err = fmt.Errorf("list the %s of the management cluster: %w", what, err)
			return o
		}
	}
	o.Tailnets, o.Members = tailnets.Items, members.Items
	return o
}

// version asks an API server for its version and, by the way, for its time.
func version(ctx context.Context, config *rest.Config) (string, Reading, error) {
	web, err := rest.HTTPClientFor(config)
	if err != nil {
		return "", Reading{}, fmt.Errorf("connect to the API server: %w", err)
	}
	base, _, err := rest.DefaultServerURL(config.Host, config.APIPath, schema.GroupVersion{}, config.CAData != nil || config.CAFile != "")
	if err != nil {
		return "", Reading{}, fmt.Errorf("connect to the API server: %w", err)
	}
	var v apimachineryversion.Info
	clock, err := get(ctx, web, base.JoinPath("version").String(), &v)
	if err != nil {
		return "", clock, fmt.Errorf("ask the API server for its version: %w", err)
	}
	return v.GitVersion, clock, nil
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// get reads JSON, and the clock of whoever answers.
func get(ctx context.Context, web *http.Client, url string, out any) (clock Reading, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return clock, err
	}
	clock.Before, clock.Unit = time.Now(), time.Second
	res, err := web.Do(req)
	if err != nil {
		return clock, err
	}
	defer res.Body.Close()
	clock.After = time.Now()
	if clock.Said, err = http.ParseTime(res.Header.Get("Date")); err != nil {
		clock.Said = time.Time{} // it does not tell the time
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return clock, err
	}
	if res.StatusCode != http.StatusOK {
		return clock, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(data[:min(len(data), 300)])))
	}
	return clock, json.Unmarshal(data, out)
}

func lookAtMember(ctx context.Context, c Cluster, scheme *runtime.Scheme, namespace string) Member {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m := Member{Context: c.Context, Spoke: Spoke{Namespace: namespace}}
	if m.Version, m.Clock, m.Err = version(ctx, c.REST); m.Err != nil {
		return m
	}
	objects, err := client.New(c.REST, client.Options{Scheme: scheme})
	if m.Err = err; err != nil {
		return m
	}
	if m.MissingKinds, m.Err = missingKinds(c.REST); m.Err != nil {
		return m
	}
	m.EnvoyGateway = lookAtEnvoyGateway(ctx, objects)
	m.Spoke = lookAtSpoke(ctx, c, objects, namespace)
	var gateways v1alpha1.TailscaleGatewayList
	if err := objects.List(ctx, &gateways); err != nil {
		m.GatewaysErr = fmt.Errorf("list the TailscaleGateways: %w", err)
	}
	m.Gateways = gateways.Items
	return m
}

// needed are the kinds without which nothing works.
var needed = []struct {
	version schema.GroupVersion
	kinds   []string
}{
	{schema.GroupVersion(gatewayv1.GroupVersion), []string{"GatewayClass", "Gateway", "HTTPRoute"}},
	{v1alpha1.GroupVersion, []string{v1alpha1.KindTailscaleGateway, v1alpha1.KindTailscaleEndpoints, v1alpha1.KindTailscaleRoutePolicy}},
}

func missingKinds(config *rest.Config) ([]string, error) {
	served, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	var missing []string
	for _, n := range needed {
		list, err := served.ServerResourcesForGroupVersion(n.version.String())
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("ask for the kinds of %s: %w", n.version, err)
		}
		there := map[string]bool{}
		if err == nil {
			for _, r := range list.APIResources {
				there[r.Kind] = true
			}
		}
		for _, kind := range n.kinds {
			if !there[kind] {
				missing = append(missing, kind+"."+n.version.Group)
			}
		}
	}
	return missing, nil
}

// envoyGatewaySettings are what is read of Envoy Gateway's configuration.
type envoyGatewaySettings struct {
	ExtensionManager *struct {
		Service *struct {
			FQDN *struct {
				Hostname string `json:"hostname"`
			} `json:"fqdn"`
			IP *struct {
				Address string `json:"address"`
			} `json:"ip"`
		} `json:"service"`
	} `json:"extensionManager"`
}

func lookAtEnvoyGateway(ctx context.Context, objects client.Client) (e EnvoyGateway) {
	var all appsv1.DeploymentList
	if err := objects.List(ctx, &all, client.MatchingLabels{"control-plane": "envoy-gateway"}); err != nil {
		e.Err = fmt.Errorf("look for Envoy Gateway's Deployment: %w", err)
		return e
	}
	if len(all.Items) == 0 {
		return e
	}
	d := all.Items[0]
	e.Found, e.Namespace, e.Ready, e.Replicas = true, d.Namespace, d.Status.ReadyReplicas, d.Status.Replicas
	if pod := d.Spec.Template.Spec; len(pod.Containers) > 0 {
		e.Version = envoygateway.Version(d.Labels, pod.Containers[0].Image)
	}
	var config corev1.ConfigMap
	if err := objects.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: "envoy-gateway-config"}, &config); err != nil {
		e.HooksErr = fmt.Errorf("read Envoy Gateway's settings: %w", err)
		return e
	}
	var s envoyGatewaySettings
	if err := utilyaml.Unmarshal([]byte(config.Data["envoy-gateway.yaml"]), &s); err != nil {
		e.HooksErr = fmt.Errorf("read Envoy Gateway's settings: %w", err)
		return e
	}
	if s.ExtensionManager != nil && s.ExtensionManager.Service != nil {
		switch service := s.ExtensionManager.Service; {
		case service.FQDN != nil:
			e.Hooks = service.FQDN.Hostname
		case service.IP != nil:
			e.Hooks = service.IP.Address
		}
	}
	e.AgesErr = e.lookAtAges(ctx, objects)
	return e
}

// lookAtAges finds out which was there first, Envoy Gateway or the kind of its backends.
func (e *EnvoyGateway) lookAtAges(ctx context.Context, objects client.Client) error {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	name := "tailscaleendpoints." + v1alpha1.GroupVersion.Group
	if err := objects.Get(ctx, types.NamespacedName{Name: name}, crd); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read the CRD %s: %w", name, err)
	}
	e.KindMade = crd.CreationTimestamp.Time
	var pods corev1.PodList
	if err := objects.List(ctx, &pods, client.InNamespace(e.Namespace), client.MatchingLabels{"control-plane": "envoy-gateway"}); err != nil {
		return fmt.Errorf("look for Envoy Gateway's pods: %w", err)
	}
	for _, p := range pods.Items {
		if !p.DeletionTimestamp.IsZero() {
			continue // one that is being replaced
		}
		for _, c := range p.Status.ContainerStatuses {
			if r := c.State.Running; r != nil && (e.Started.IsZero() || r.StartedAt.Time.Before(e.Started)) {
				e.Started = r.StartedAt.Time
			}
		}
	}
	return nil
}

func lookAtSpoke(ctx context.Context, c Cluster, objects client.Client, namespace string) Spoke {
	s := Spoke{Namespace: namespace}
	var pods corev1.PodList
	if err := objects.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/name": "tailgate-spoke"}); err != nil {
		s.Err = fmt.Errorf("look for the spoke's pod: %w", err)
		return s
	}
	if len(pods.Items) == 0 {
		return s
	}
	p := pods.Items[0]
	s.Pod, s.Waiting = p.Name, unscheduled(p)
	for _, condition := range p.Status.Conditions {
		s.Ready = s.Ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	}
	for _, container := range p.Status.ContainerStatuses {
		if w := container.State.Waiting; w != nil {
			s.Waiting = strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		}
		for _, ended := range []*corev1.ContainerStateTerminated{container.LastTerminationState.Terminated, container.State.Terminated} {
			if ended != nil {
				s.Ended = cmp.Or(strings.TrimSpace(ended.Message), ended.Reason)
			}
		}
	}
	for _, container := range p.Spec.Containers {
		for _, arg := range container.Args {
			if hub, is := strings.CutPrefix(arg, "--hub="); is {
				s.Hub = hub
			}
		}
	}
	if s.Waiting != "" {
		return s
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.Dial(ctx, namespace, s.Pod, statusPort)
	}}}
	var status SpokeStatus
	if s.Clock, s.StatusErr = get(ctx, web, fmt.Sprintf("http://127.0.0.1:%d/status", statusPort), &status); s.StatusErr == nil {
		s.Status = &status
		s.Clock.Said, s.Clock.Unit = status.Now, 0 // finer than the header
	}
	return s
}

// unscheduled is why no node takes a pod.
func unscheduled(p corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}
