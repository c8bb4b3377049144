package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tailgate-project/tailgate/api/operator"
)

const (
	// hubSelector finds the hub's pods, as the chart labels them.
	hubSelector = "app.kubernetes.io/name=tailgate-hub"
	// operatorPort is where a hub answers operators, on its pod's own loopback interface.
	operatorPort = 9471
)

// errNoHub reports a cluster in which no pod is a hub's, be it ready or not.
var errNoHub = errors.New("no hub")

// connection says where the hub is.
type connection struct{ url, kubeconfig, context, namespace string }

// hub returns the way to the hub: by its URL, else through the API server of the management cluster.
func (c *connection) hub(ctx context.Context) (operator.API, error) {
	if c.url != "" {
		base, err := url.Parse(c.url)
		if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
			return nil, usagef("--hub %q: want a URL such as http://tailgate-hub", c.url)
		}
		return &operator.Client{Base: base}, nil
	}
	config, err := c.rest()
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("management cluster: %w", err)
	}
	pod, err := findHub(ctx, clients, c.namespace)
	if err != nil {
		return nil, err
	}
	dial := podDialer(config, clients)
	return &operator.Client{
		Base: &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(operatorPort))},
		HTTP: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, c.namespace, pod, operatorPort)
		}}},
	}, nil
}

// rest is how to reach the management cluster.
func (c *connection) rest() (*rest.Config, error) {
	config, err := c.kube(c.context).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("management cluster: %w; name it with --kubeconfig and --context, or the hub with --hub", err)
	}
	return config, nil
}

// kube is what the kubeconfig says of a context, of the current one if it is empty.
func (c *connection) kube(context string) clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
}

// findHub returns the name of the hub's pod that is ready.
func findHub(ctx context.Context, clients kubernetes.Interface, namespace string) (string, error) {
	pods, err := clients.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: hubSelector})
	switch {
	case apierrors.IsForbidden(err):
		return "", fmt.Errorf("look for the hub's pod: %w; you need the right to list pods and to create pods/portforward in %s", err, namespace)
	case err != nil:
		return "", fmt.Errorf("look for the hub's pod: %w", err)
	case len(pods.Items) == 0:
		return "", fmt.Errorf("%w in the namespace %s of this cluster (no pod has %s): is this the management cluster? see --context and --namespace", errNoHub, namespace, hubSelector)
	}
	why := ""
	for i := range pods.Items {
		p := &pods.Items[i]
		if isReady(p) {
			return p.Name, nil
		}
		why = cmp.Or(why, fmt.Sprintf("pod %s is %s", p.Name, cmp.Or(waiting(p), string(p.Status.Phase))))
	}
	return "", fmt.Errorf("no hub is ready: %s; see: kubectl --namespace %s logs %s", why, namespace, pods.Items[0].Name)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp.IsZero()
		}
	}
	return false
}

// waiting is why a container of the pod does not run.
func waiting(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return w.Reason
		}
	}
	return ""
}
