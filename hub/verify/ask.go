package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

const (
	// maxRequests bounds what is sent through one gateway: what holds for some services holds for the others.
	maxRequests = 16
	// answerTime is how long a request may take.
	answerTime = 5 * time.Second
	// privileged is the offset of Envoy's ports to those of listeners below 1024, as Envoy Gateway makes them.
	privileged = 10000
	// nobody is a path that no route leads to: what is answered there is what Envoy answers where it has no route. Envoy
	// Gateway suppresses the headers by which Envoy's own answers could be told from those of services.
	nobody = "/cross-cluster/no-such-service.no-such-namespace.no-such-cluster/"
	// maxBody is how much of an answer is compared, in bytes.
	maxBody = 1 << 16
)

// paths are those below /cross-cluster/ of the exports that speak HTTP, in the order of services and clusters.
func paths(services []operator.Service) []string {
	var out []string
	for _, s := range services {
		if s.ID.Kind != federation.KindService {
			continue
		}
		for _, x := range s.Exports {
			if slices.ContainsFunc(x.Ports, speaksHTTP) {
				out = append(out, fmt.Sprintf("/cross-cluster/%s.%s.%s/", s.ID.Name, s.ID.Namespace, x.Cluster))
			}
		}
	}
	return out[:min(len(out), maxRequests)]
}

func speaksHTTP(p operator.Port) bool {
	return p.Protocol == federation.TCP && (p.App == "http" || p.App == "" && (p.Port == 80 || strings.HasPrefix(p.Name, "http")))
}

// ask sends a request for each export through an Envoy of each gateway of the member.
func (m *Member) ask(ctx context.Context, c Cluster, scheme *runtime.Scheme, services []operator.Service) {
	wanted := paths(services)
	if m.Err != nil || len(m.Gateways) == 0 || len(wanted) == 0 {
		return
	}
	objects, err := client.New(c.REST, client.Options{Scheme: scheme})
	if err != nil {
		m.Unasked = err
		return
	}
	for _, g := range m.Gateways {
		name := client.ObjectKey{Namespace: g.Namespace, Name: string(g.Spec.GatewayRef.Name)}
		listener, err := httpListener(ctx, objects, name)
		if err == nil {
			var pod corev1.Pod
			if pod, err = envoyOf(ctx, objects, name); err == nil {
				m.Requests = append(m.Requests, send(ctx, c, pod, name, listener, wanted)...)
				continue
			}
		}
		m.Unasked = errors.Join(m.Unasked, err)
	}
	if len(m.Requests) > 0 {
		m.Unasked = nil
	}
}

// httpListener is a listener of a Gateway that takes requests without TLS.
func httpListener(ctx context.Context, objects client.Client, name client.ObjectKey) (gatewayv1.Listener, error) {
	var g gatewayv1.Gateway
	if err := objects.Get(ctx, name, &g); err != nil {
		return gatewayv1.Listener{}, fmt.Errorf("read the Gateway %s: %w", name, err)
	}
	for _, l := range g.Spec.Listeners {
		if l.Protocol == gatewayv1.HTTPProtocolType {
			return l, nil
		}
	}
	return gatewayv1.Listener{}, fmt.Errorf("the Gateway %s has no listener of protocol HTTP to try a request with", name)
}

// envoyOf is a pod of a Gateway's Envoy that is ready.
func envoyOf(ctx context.Context, objects client.Client, name client.ObjectKey) (corev1.Pod, error) {
	var pods corev1.PodList
	if err := objects.List(ctx, &pods, client.MatchingLabels{
		"gateway.envoyproxy.io/owning-gateway-name": name.Name, "gateway.envoyproxy.io/owning-gateway-namespace": name.Namespace,
	}); err != nil {
		return corev1.Pod{}, fmt.Errorf("look for the Envoys of the Gateway %s: %w", name, err)
	}
	for _, p := range pods.Items {
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue && p.DeletionTimestamp.IsZero() {
				return p, nil
			}
		}
	}
	return corev1.Pod{}, fmt.Errorf("none of the %d Envoys of the Gateway %s is ready", len(pods.Items), name)
}

func send(ctx context.Context, c Cluster, pod corev1.Pod, gateway client.ObjectKey, l gatewayv1.Listener, wanted []string) []Request {
	port := uint16(l.Port)
	if port < 1024 {
		port += privileged
	}
	web := &http.Client{
		Timeout:       answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.Dial(ctx, pod.Namespace, pod.Name, port)
		}},
	}
	defer web.CloseIdleConnections()
	host := "verify.tailgate.invalid"
	if l.Hostname != nil {
		host = strings.Replace(string(*l.Hostname), "*", "verify", 1)
	}
	control := answer(ctx, web, "http://"+host, nobody)
	out := make([]Request, 0, len(wanted))
	for _, path := range wanted {
		r := answer(ctx, web, "http://"+host, path)
		r.Gateway = gateway.String()
		r.NoRoute = r.Err == nil && control.Err == nil && r.Status == http.StatusNotFound && r.Status == control.Status && r.body == control.body
		out = append(out, r)
	}
	return out
}

func answer(ctx context.Context, web *http.Client, base, path string) Request {
	r := Request{Path: path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if r.Err = err; err != nil {
		return r
	}
	res, err := web.Do(req)
	if r.Err = err; err != nil {
		return r
	}
	defer res.Body.Close()
	r.Status = res.StatusCode
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		r.Err = fmt.Errorf("the answer breaks off: %w", err)
	}
	r.body = strings.TrimSpace(string(body))
	return r
}
