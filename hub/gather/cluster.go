package gather

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/verify"
)

const (
	// gatewayNamespace is Envoy Gateway's, as its chart is installed.
	gatewayNamespace = "envoy-gateway-system"
	// spokeLabel finds a spoke's pod, statusPort is where it tells of itself.
	spokeLabel = "app.kubernetes.io/name=tailgate-spoke"
	statusPort = 9470
	// maxStatus bounds what is read of a spoke's status, in bytes.
	maxStatus = 64 << 20
)

// kind is one whose objects are in a bundle.
type kind struct {
	schema.GroupKind
	// installed says that only the objects in the namespaces of Tailgate and Envoy Gateway are.
	installed bool
}

// kinds are those in a bundle. The version is the one that the API server prefers.
var kinds = []kind{
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "TailscaleTailnet"}},
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "MemberCluster"}},
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "FailoverPolicy"}},
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: v1alpha1.KindTailscaleGateway}},
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: v1alpha1.KindTailscaleEndpoints}},
	{GroupKind: schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: v1alpha1.KindTailscaleRoutePolicy}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "GatewayClass"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "Gateway"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "GRPCRoute"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "TLSRoute"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "TCPRoute"}},
	{GroupKind: schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "UDPRoute"}},
	{GroupKind: schema.GroupKind{Group: "gateway.envoyproxy.io", Kind: "EnvoyProxy"}},
	{GroupKind: schema.GroupKind{Group: "", Kind: "Node"}},
	{GroupKind: schema.GroupKind{Group: "", Kind: "Pod"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "", Kind: "Service"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "", Kind: "ConfigMap"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "", Kind: "PersistentVolumeClaim"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "", Kind: "Event"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "apps", Kind: "DaemonSet"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "policy", Kind: "PodDisruptionBudget"}, installed: true},
	{GroupKind: schema.GroupKind{Group: "networking.k8s.io", Kind: "NetworkPolicy"}, installed: true},
}

// cluster adds what a cluster has, below a directory.
func (g *gatherer) cluster(ctx context.Context, dir string, c verify.Cluster) {
	ctx, cancel := context.WithTimeout(ctx, 4*timeout)
	defer cancel()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		g.miss(dir, err)
		return
	}
	objects, err := client.New(c.REST, client.Options{Scheme: scheme})
	if err != nil {
		g.miss(dir, err)
		return
	}
	clients, err := kubernetes.NewForConfig(c.REST)
	if err != nil {
		g.miss(dir, err)
		return
	}
	version, err := clients.Discovery().ServerVersion()
	g.addJSON(dir+"/version.json", version, err)
	if err != nil {
		return // it does not answer: nothing else is to be had
	}
	for _, k := range kinds {
		g.objects(ctx, dir, objects, k)
	}
	g.secrets(ctx, dir, objects)
	for _, namespace := range g.namespaces() {
		g.logs(ctx, dir, clients, namespace)
	}
	if c.Dial != nil {
		g.spoke(ctx, dir, c, clients)
	}
}

// namespaces are where Tailgate and Envoy Gateway run.
func (g *gatherer) namespaces() []string {
	return slices.Compact([]string{g.Verify.Namespace, gatewayNamespace})
}

// objects adds the objects of a kind. Kinds that are not served are not missed.
func (g *gatherer) objects(ctx context.Context, dir string, c client.Client, k kind) {
	path := fmt.Sprintf("%s/objects/%s.yaml", dir, strings.ToLower(strings.TrimSuffix(k.Kind+"."+k.Group, ".")))
	mapping, err := c.RESTMapper().RESTMapping(k.GroupKind)
	if meta.IsNoMatchError(err) {
		return
	}
	if err != nil {
		g.miss(path, err)
		return
	}
	var all []unstructured.Unstructured
	in := []string{""}
	if k.installed {
		in = g.namespaces()
	}
	for _, namespace := range in {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(mapping.GroupVersionKind)
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
			g.miss(path, err)
			continue
		}
		all = append(all, list.Items...)
	}
	g.addObjects(path, all)
}

// addObjects adds objects as a stream of YAML, without what nobody reads and without values that others gave containers.
func (g *gatherer) addObjects(path string, all []unstructured.Unstructured) {
	if len(all) == 0 {
		return
	}
	var stream strings.Builder
	for _, o := range all {
		o.SetManagedFields(nil)
		annotations := o.GetAnnotations()
		delete(annotations, corev1.LastAppliedConfigAnnotation) // all of it stands in the object
		o.SetAnnotations(annotations)
		hideValues(o.Object)
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			g.miss(path, err)
			return
		}
		fmt.Fprintf(&stream, "---\n%s", data)
	}
	g.add(path, []byte(stream.String()))
}

// hideValues redacts the values of containers' variables, wherever pods are described: what a variable is for, nobody knows but
// who wrote it. Where values come from stays.
func hideValues(v any) {
	switch v := v.(type) {
	case map[string]any:
		if variables, ok := v["env"].([]any); ok {
			for _, variable := range variables {
				if m, ok := variable.(map[string]any); ok && m["value"] != nil {
					m["value"] = redacted
				}
			}
		}
		for _, inner := range v {
			hideValues(inner)
		}
	case []any:
		for _, inner := range v {
			hideValues(inner)
		}
	}
}

// secrets adds which Secrets there are. Their data is not asked for.
func (g *gatherer) secrets(ctx context.Context, dir string, c client.Client) {
	path := dir + "/objects/secret.yaml"
	var all []unstructured.Unstructured
	for _, namespace := range g.namespaces() {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
			g.miss(path, err)
			continue
		}
		for i := range list.Items {
			m := &list.Items[i]
			m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
			object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(m)
			if err != nil {
				g.miss(path, err)
				return
			}
			all = append(all, unstructured.Unstructured{Object: object})
		}
	}
	g.addObjects(path, all)
}

// logs adds the logs of a namespace's containers, and of those before them that ended.
func (g *gatherer) logs(ctx context.Context, dir string, clients kubernetes.Interface, namespace string) {
	pods, err := clients.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		g.miss(fmt.Sprintf("%s/logs/%s", dir, namespace), err)
		return
	}
	for _, p := range pods.Items {
		for _, status := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			path := fmt.Sprintf("%s/logs/%s/%s.%s", dir, namespace, p.Name, status.Name)
			if status.State.Running != nil || status.State.Terminated != nil {
				g.log(ctx, path+".log", clients, p, corev1.PodLogOptions{Container: status.Name})
			}
			if status.RestartCount > 0 {
				g.log(ctx, path+".previous.log", clients, p, corev1.PodLogOptions{Container: status.Name, Previous: true})
			}
		}
	}
}

// log adds the end of a container's log.
func (g *gatherer) log(ctx context.Context, path string, clients kubernetes.Interface, p corev1.Pod, o corev1.PodLogOptions) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// The API's limit is counted from the beginning of what is asked for, so that the end has to be asked for by lines.
	lines := max(1, g.LogBytes/logLine)
	o.TailLines, o.LimitBytes, o.Timestamps = &lines, &g.LogBytes, true
	text, err := clients.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &o).DoRaw(ctx)
	if err != nil {
		g.miss(path, err)
		return
	}
	g.add(path, text)
}

// logLine is how long a line of a log is taken to be, in bytes.
const logLine = 200

// spoke adds what the spoke tells of itself.
func (g *gatherer) spoke(ctx context.Context, dir string, c verify.Cluster, clients kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := dir + "/spoke.json"
	pods, err := clients.CoreV1().Pods(g.Verify.Namespace).List(ctx, metav1.ListOptions{LabelSelector: spokeLabel})
	if err == nil && len(pods.Items) == 0 {
		err = apierrors.NewNotFound(corev1.Resource("pods"), "tailgate-spoke-0")
	}
	if err != nil {
		g.miss(path, err)
		return
	}
	pod := pods.Items[0].Name
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.Dial(ctx, g.Verify.Namespace, pod, statusPort)
	}}}
	text, err := read(ctx, web, fmt.Sprintf("http://127.0.0.1:%d/status", statusPort))
	if err != nil {
		g.miss(path, err)
		return
	}
	g.add(path, text)
}

// read reads what an URL answers.
func read(ctx context.Context, web *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxStatus))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", res.Status)
	}
	return text, err
}
