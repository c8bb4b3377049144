package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/children"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
	"github.com/tailgate-project/tailgate/spoke/proxyserver"
	"github.com/tailgate-project/tailgate/spoke/web"
)

// agent is the wiring of `spoke run`.
type agent struct {
	options
	cluster federation.ClusterID
	rest    *rest.Config
	keeper  *keeper
	bridge  *bridge
	spoke   *spoke.Spoke
	control *controllers.Controllers
	hub     *hubSide
	// ready is set once Envoy Gateway and Envoy are served.
	ready atomic.Bool
}

// run is the agent until ctx ends or a part fails. The proxies end first, for they need the rest to drain.
func run(ctx context.Context, o options) error {
	a := &agent{options: o}
	if err := a.build(ctx); err != nil {
		return err
	}
	status, err := listen(ctx, "--status-addr", a.statusAddr)
	if err != nil {
		return err
	}
	doors, err := a.openDoors(ctx)
	if err != nil {
		return errors.Join(err, status.Close())
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	g.Go(func() error { return a.spoke.Run(work) })
	g.Go(func() error { return web.Serve(work, status, a.status()) })
	g.Go(func() error { return a.control.Run(work) })
	g.Go(func() error { return a.keeper.run(work) })
	g.Go(func() error { return a.bridge.watch(work, a.spoke) })
	g.Go(func() error {
		defer stop() // nothing below ends by itself but when it is told to, or fails
		return a.serve(ctx, work, doors)
	})
	return g.Wait()
}

// doors are the listeners for the proxies.
type doors struct {
	socket net.Listener
	// port is nil where no proxies come over TCP.
	port net.Listener
}

func (a *agent) openDoors(ctx context.Context) (d doors, err error) {
	if d.socket, err = proxyserver.Listen(ctx, a.proxySocket); err != nil || a.proxyAddr == "" {
		return d, err
	}
	if d.port, err = listen(ctx, "--proxy-addr", a.proxyAddr); err != nil {
		return d, errors.Join(err, d.socket.Close())
	}
	return d, nil
}

// build makes the parts. None of them does anything yet.
func (a *agent) build(ctx context.Context) error {
	var err error
	if a.rest, err = restConfig(a.kubeconfig); err != nil {
		return err
	}
	a.cluster = federation.ClusterID(a.clusterID)
	if a.cluster == "" {
		if a.cluster, err = controllers.ClusterID(ctx, a.rest); err != nil {
			return err
		}
	}
	if a.hostname == "" {
		a.hostname = "tailgate-spoke-" + string(a.cluster)
	}
	client, err := kubernetes.NewForConfig(a.rest)
	if err != nil {
		return fmt.Errorf("connect to the member's API server: %w", err)
	}
	a.keeper = &keeper{
		client: client, namespace: a.namespace, gatewayNamespace: a.gatewayNamespace, log: a.log,
		names: serverNames([]string{a.extensionAddr, a.edsAddr}, a.serverNames),
	}
	if err := a.buildExtension(); err != nil {
		return err
	}
	a.hub = &hubSide{options: a.options, cluster: a.cluster}
	a.spoke, err = spoke.New(spoke.Config{
		Cluster: a.cluster, StateDir: a.stateDir, EgressAddr: a.egressAddr, EgressPods: a.proxies == proxiesStatefulSet, EgressPorts: a.ports, Extension: a.bridge,
		Hosts: a.hub.hosts, Log: a.log,
	})
	if err != nil {
		return err
	}
	if a.control, err = controllers.New(controllers.Options{
		API: a.rest, Spoke: a.spoke, Namespace: a.namespace, ExtensionPort: a.extensionPort, Proxies: a.proxySets(), Discover: a.hub.discover, Log: a.log,
	}); err != nil {
		return err
	}
	return a.hub.build(a.spoke, a.rest, client)
}

func (a *agent) buildExtension() error {
	opts := func(flag, addr string, secure *tls.Config) extension.Options {
		return extension.Options{
			Listen: func(ctx context.Context) (net.Listener, error) { return listen(ctx, flag, addr) }, TLS: secure, Log: a.log,
		}
	}
	gateways := certs.ServerConfig(&a.keeper.server, a.keeper.clients.Load, certs.ClientName)
	envoys := certs.ServerConfig(&a.keeper.server, a.keeper.envoys.Load, "") // whatever Envoy Gateway calls them
	a.bridge = &bridge{events: make(chan extension.Event, 1024), log: a.log}
	var err error
	if a.bridge.hooks, err = extension.NewServer(opts("--extension-addr", a.extensionAddr, gateways)); err != nil {
		return fmt.Errorf("extension server: %w", err)
	}
	if a.bridge.eds, err = extension.NewEDS(opts("--eds-addr", a.edsAddr, envoys), a.bridge.heard); err != nil {
		return fmt.Errorf("endpoint discovery server: %w", err)
	}
	return nil
}

// serve waits until the spoke knows its cluster, and then serves Envoy Gateway, Envoy, the proxies and the hub: before
// that, whatever it said would be half the truth. It returns when ctx ends and the proxies have ended.
func (a *agent) serve(ctx, work context.Context, doors doors) error {
	if err := a.control.Prime(untilEither(ctx, work)); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := a.bridge.eds.Apply(nil); err != nil {
		return fmt.Errorf("start the endpoint discovery: %w", err)
	}
	a.log.Info("the cluster is known", "cluster", string(a.cluster))
	g, work := errgroup.WithContext(work)
	ended, end := context.WithCancel(work)
	defer end()
	g.Go(func() error { return a.bridge.hooks.Run(ended) })
	g.Go(func() error { return a.bridge.eds.Run(ended) })
	proxies := proxyserver.New(a.spoke, a.log)
	proxies.Key = a.hub.proxyKey
	g.Go(func() error { return proxies.Serve(ended, doors.socket) })
	if doors.port != nil {
		secure := certs.ServerConfig(&a.keeper.server, a.keeper.clients.Load, proxytls.ProxyName)
		g.Go(func() error { return proxies.ServeTLS(ended, doors.port, secure) })
	}
	g.Go(func() error { return a.hub.run(ended) })
	g.Go(func() error {
		defer end()
		return a.runProxies(untilEither(ctx, work))
	})
	a.ready.Store(true)
	return g.Wait()
}

// untilEither returns a context that ends with the first of both.
func untilEither(a, b context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(a)
	context.AfterFunc(b, func() { cancel(context.Cause(b)) })
	return ctx
}

// runProxies runs the proxies, or waits where somebody else does.
func (a *agent) runProxies(ctx context.Context) error {
	if a.proxies != proxiesProcess {
		<-ctx.Done()
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	return children.Run(ctx, children.Options{
		Executable: self, Cluster: a.cluster, IngressReplicas: a.ingressReplicas, EgressReplicas: a.egressReplicas,
		StateDir: filepath.Join(a.stateDir, "proxies"), Socket: a.proxySocket, ControlURL: a.controlURL,
		Grace: a.drainTimeout + 2*time.Second, DrainTimeout: a.drainTimeout, LogLevel: a.loglevel, Output: os.Stderr, Log: a.log,
	})
}

// proxySets says what the StatefulSets of the proxies are like, where Kubernetes runs them.
func (a *agent) proxySets() *proxyset.Options {
	if a.proxies != proxiesStatefulSet {
		return nil
	}
	return &proxyset.Options{
		Namespace: a.namespace, Image: a.proxyImage, ImagePullSecrets: a.proxyPullSecrets, Spoke: a.proxyService, Cluster: a.cluster,
		DrainTimeout: a.drainTimeout, LogLevel: a.loglevel,
	}
}

// errStarting is why a spoke is not ready yet.
var errStarting = errors.New("reading the member's API server")

func (a *agent) status() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return web.Handler(web.Options{
		Status: a.spoke.Status, Metrics: registry,
		Ready: func() error {
			if !a.ready.Load() || !a.bridge.hooks.Status().Serving {
				return errStarting
			}
			return nil
		},
	})
}
