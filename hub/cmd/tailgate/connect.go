package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/tailgate-project/tailgate/api/operator"
)

const (
	// hubSelector finds the hub's pods, as the chart labels them.
	hubSelector = "app.kubernetes.io/name=tailgate-hub"
	// operatorPort is where a hub answers operators, on its pod's own loopback interface.
	operatorPort = 9471
)

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
	to := &forward{config: config, url: clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name(pod).SubResource("portforward").URL(), pod: pod}
	return &operator.Client{
		Base: &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(operatorPort))},
		HTTP: &http.Client{Transport: &http.Transport{DialContext: to.dial}},
	}, nil
}

// rest is how to reach the management cluster.
func (c *connection) rest() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("management cluster: %w; name it with --kubeconfig and --context, or the hub with --hub", err)
	}
	return config, nil
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
		return "", fmt.Errorf("no hub in the namespace %s of this cluster (no pod has %s): is this the management cluster? see --context and --namespace", namespace, hubSelector)
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

// forward opens connections to a port of a pod's loopback interface, through the API server. Nothing listens on this machine.
type forward struct {
	config *rest.Config
	url    *url.URL
	pod    string
}

func (f *forward) dial(context.Context, string, string) (net.Conn, error) {
	overWebsocket, err := portforward.NewSPDYOverWebsocketDialer(f.url, f.config)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w", f.pod, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(f.config)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w", f.pod, err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, f.url)
	older := func(error) bool { return true } // an API server, or a proxy before it, that does not know the first way
	streams, _, err := portforward.NewFallbackDialer(overWebsocket, overSPDY, older).Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w; you need the right to create pods/portforward there", f.pod, err)
	}
	c, err := newStream(streams)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("forward a port of %s: %w", f.pod, err), streams.Close())
	}
	return c, nil
}

// stream is a connection made of the two streams of a forwarded port.
type stream struct {
	io.ReadWriteCloser
	all io.Closer

	mu     sync.Mutex
	reason error
	told   chan struct{}
}

func newStream[S io.ReadWriteCloser, C interface {
	CreateStream(headers http.Header) (S, error)
	io.Closer
}](all C,
) (*stream, error) {
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(operatorPort))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	problems, err := all.CreateStream(h)
	if err != nil {
		return nil, err
	}
	if err := problems.Close(); err != nil { // nothing is to be said in this direction
		return nil, err
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := all.CreateStream(h)
	if err != nil {
		return nil, err
	}
	s := &stream{ReadWriteCloser: data, all: all, told: make(chan struct{})}
	go s.listen(problems)
	return s, nil
}

// listen waits for why the port cannot be reached. It ends with the connection.
func (s *stream) listen(problems io.Reader) {
	defer close(s.told)
	text, err := io.ReadAll(problems)
	if err == nil && len(text) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = cmp.Or(err, errors.New(string(text)))
}

// Read reads on, and says why it cannot where the kubelet told.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(b)
	if err != nil && n == 0 {
		select {
		case <-s.told:
		case <-time.After(time.Second): // the reason, if there is one, comes at about the same time
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		err = cmp.Or(s.reason, err)
	}
	return n, err
}

// Close ends the connection, and what it is carried by.
func (s *stream) Close() error { return errors.Join(s.ReadWriteCloser.Close(), s.all.Close()) }

type nowhere struct{}

func (nowhere) Network() string { return "portforward" }
func (nowhere) String() string  { return "portforward" }

// LocalAddr and RemoteAddr are none of a network.
func (*stream) LocalAddr() net.Addr { return nowhere{} }

// RemoteAddr is none of a network.
func (*stream) RemoteAddr() net.Addr { return nowhere{} }

// SetDeadline does nothing: requests end with their contexts.
func (*stream) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (*stream) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (*stream) SetWriteDeadline(time.Time) error { return nil }
