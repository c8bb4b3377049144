package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tailgate-project/tailgate/api/envoygateway"
	linkapi "github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/apiproxy"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
	"github.com/tailgate-project/tailgate/spoke/link"
	"github.com/tailgate-project/tailgate/spoke/proxyserver"
	"github.com/tailgate-project/tailgate/spoke/tailnet"
)

// rejoinPause is between two attempts to join the tailnet.
const rejoinPause = 5 * time.Second

// hubSide is the spoke's tailnet node and what goes over it: the link, and the API server for the hub to see. Without
// the tailnet, everything else goes on.
type hubSide struct {
	options
	cluster federation.ClusterID
	spoke   *spoke.Spoke
	api     *rest.Config
	client  kubernetes.Interface
	link    *link.Client
	node    atomic.Pointer[tailnet.Node]
}

func (h *hubSide) build(s *spoke.Spoke, member *rest.Config, client kubernetes.Interface) error {
	h.spoke, h.api = s, member
	if h.apiKubeconfig != "" {
		var err error
		if h.api, err = restConfig(h.apiKubeconfig); err != nil {
			return fmt.Errorf("--api-kubeconfig: %w", err)
		}
	}
	h.client = client
	h.link = link.New(link.Options{
		Cluster: h.cluster, Spoke: s, Dial: h.dial, APIPort: h.apiPort, Locality: h.locality, Versions: h.versions, Log: h.log,
	})
	return nil
}

// +kubebuilder:rbac:groups=apps,namespace=envoy-gateway-system,resources=deployments,resourceNames=envoy-gateway,verbs=get

// versions are what operators are told of this cluster; what cannot be found out is empty.
func (h *hubSide) versions(ctx context.Context) *linkapi.Versions {
	v := &linkapi.Versions{Spoke: version()}
	if k, err := h.client.Discovery().ServerVersion(); err != nil {
		h.log.Debug("the version of Kubernetes is not known", "err", err)
	} else {
		v.Kubernetes = k.GitVersion
	}
	d, err := h.client.AppsV1().Deployments(h.gatewayNamespace).Get(ctx, envoygateway.Deployment, metav1.GetOptions{})
	if err != nil {
		h.log.Debug("the version of Envoy Gateway is not known", "err", err)
		return v
	}
	if pod := d.Spec.Template.Spec; len(pod.Containers) > 0 {
		v.EnvoyGateway = envoygateway.Version(d.Labels, pod.Containers[0].Image)
	}
	return v
}

// run joins the tailnet and keeps the link until ctx ends.
func (h *hubSide) run(ctx context.Context) error {
	node := h.join(ctx)
	if node == nil {
		return nil
	}
	defer node.Close()
	h.node.Store(node)
	defer h.node.Store(nil)
	v4, _ := node.Addrs()
	h.log.Info("joined the tailnet", "hostname", h.hostname, "addr", v4.String())
	handler, err := apiproxy.New(apiproxy.Options{
		API: h.api, HubTag: h.hubTag, Log: h.log,
		Tags: func(ctx context.Context, remote string) ([]string, error) {
			p, err := node.WhoIs(ctx, remote)
			return p.Tags, err
		},
	})
	if err != nil {
		return err
	}
	ln, err := node.Listen(h.apiPort)
	if err != nil {
		return fmt.Errorf("--api-port: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return apiproxy.Serve(ctx, ln, handler, h.log) })
	g.Go(func() error { return h.link.Run(ctx) })
	return g.Wait()
}

// join joins the tailnet, again and again until it succeeds: what Envoy is served does not depend on it, and a key that was
// not taken may be replaced in its file at any time. It returns nil if ctx ends.
func (h *hubSide) join(ctx context.Context) *tailnet.Node {
	var told string
	for {
		node, err := h.enter(ctx)
		if err == nil {
			return node
		}
		if ctx.Err() != nil {
			return nil
		}
		st := spoke.LinkStatus{Reason: spoke.ReasonHubUnreachable, Message: err.Error()}
		if errors.Is(err, tailnet.ErrKeyRefused) || errors.Is(err, tailnet.ErrNoKey) {
			st.Reason = spoke.ReasonJoinKeyRefused
		}
		if st.Message != told {
			told = st.Message
			h.log.Warn("not in the tailnet, will try again", "err", err)
		}
		if err := h.spoke.LinkChanged(ctx, st); err != nil {
			return nil // ctx ended
		}
		timer := time.NewTimer(rejoinPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// enter tries once to join the tailnet, with the key that there is now.
func (h *hubSide) enter(ctx context.Context) (*tailnet.Node, error) {
	if err := h.readKey(); err != nil {
		return nil, err
	}
	return tailnet.Join(ctx, tailnet.Options{
		Dir: filepath.Join(h.stateDir, "tailnet"), Hostname: h.hostname, ControlURL: h.controlURL,
		AuthKey: h.joinKey, KeySource: h.keySource, Timeout: h.joinTimeout, Log: h.log,
	})
}

// errNoTailnet reports that the spoke is not in the tailnet now.
var errNoTailnet = errors.New("the spoke is not in the tailnet now")

// dial finds the hub and dials it, wherever it is now.
func (h *hubSide) dial(ctx context.Context) (net.Conn, error) {
	node := h.node.Load()
	if node == nil {
		return nil, errNoTailnet
	}
	addr, err := node.Find(ctx, h.hubName, h.hubTag)
	if err != nil {
		return nil, err
	}
	return node.DialPeer(ctx, netip.AddrPortFrom(addr, h.hubPort), h.hubTag)
}

// hosts reports whether the tailnet routes any of the addresses to the node.
func (h *hubSide) hosts(ctx context.Context, nodeID string, addrs []netip.Addr) (bool, error) {
	node := h.node.Load()
	if node == nil {
		return false, errNoTailnet
	}
	return node.Hosts(ctx, nodeID, addrs)
}

// proxyKey asks the hub for a proxy's auth key, and waits for a link first.
func (h *hubSide) proxyKey(ctx context.Context, id spoke.ProxyID) (proxyserver.Key, error) {
	for {
		changed := h.spoke.Changes()
		key, err := h.link.ProxyKey(ctx, id)
		switch {
		case err == nil:
			control := key.ControlURL
			if control == "" {
				control = h.controlURL
			}
			return proxyserver.Key{AuthKey: key.Key, ControlURL: control, Tags: key.Tags}, nil
		case !errors.Is(err, link.ErrNoLink):
			return proxyserver.Key{}, err
		}
		select {
		case <-ctx.Done():
			return proxyserver.Key{}, ctx.Err()
		case <-changed:
		}
	}
}

// discover asks the hub what a TailscaleTailnet has.
func (h *hubSide) discover(ctx context.Context, name string, q discovery.Query, maxAge time.Duration) (tailscaleendpoints.Found, error) {
	found, err := h.link.Discover(ctx, name, q, maxAge)
	if errors.Is(err, link.ErrNoTailnet) {
		err = errors.Join(tailscaleendpoints.ErrNoTailnet, err)
	}
	return tailscaleendpoints.Found(found), err
}
