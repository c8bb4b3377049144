package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	mcmanager "sigs.k8s.io/multicluster-runtime/pkg/manager"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/clusters"
	"github.com/tailgate-project/tailgate/hub/console"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
	"github.com/tailgate-project/tailgate/hub/controllers/failoverpolicy"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
	tailnetcontroller "github.com/tailgate-project/tailgate/hub/controllers/tailnet"
	"github.com/tailgate-project/tailgate/hub/link"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/hub/web"
)

// run wires the hub and runs it until ctx ends or a part of it fails.
func run(ctx context.Context, o options, log *slog.Logger) (err error) {
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	status, err := net.Listen("tcp", o.statusAddr)
	if err != nil {
		return fmt.Errorf("--status-addr: %w; name another address", err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(status.Close())) }()
	p := &parts{log: log, metrics: web.NewMetrics(version()), ready: newReadiness(time.Now)}
	p.front = newFront(p.ready, p.metrics, metrics.Registry)
	local, err := loopback(ctx, o.operatorAddr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreClosed(local.Close())) }()
	ctx, end := context.WithCancel(ctx)
	defer end()
	g, ctx := errgroup.WithContext(ctx)
	// Who asks hears what a hub waits for that has not come far yet.
	g.Go(func() error {
		return serveHTTP(ctx, &http.Server{Handler: p.front, ReadHeaderTimeout: 10 * time.Second}, status)
	})
	g.Go(func() error {
		return serveHTTP(ctx, &http.Server{Handler: &p.local, ReadHeaderTimeout: 10 * time.Second}, local)
	})
	g.Go(func() error {
		defer end()
		return open(ctx, o, p)
	})
	return g.Wait()
}

// open opens what the hub stands on, and runs it.
func open(ctx context.Context, o options, p *parts) (err error) {
	if err := os.MkdirAll(o.stateDir, 0o700); err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	p.ready.wait("the store is being opened")
	db, err := o.openStore(ctx, p.log, p.ready)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	p.db = meteredStore{db, p.metrics, p.ready}
	if p.config, err = restConfig(o.kubeconfig); err != nil {
		return err
	}
	key, err := o.joinKey()
	if err != nil {
		return err
	}
	p.ready.wait("the tailnet is being joined as %s", o.hostname)
	p.node, err = tailnet.Join(ctx, tailnet.NodeOptions{
		Dir: o.nodeDir(), Hostname: o.hostname, AuthKey: key, ControlURL: o.controlURL, Log: p.log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.node.Close()) }()
	spokes, err := p.node.Listen("tcp", fmt.Sprintf(":%d", o.linkPort))
	if err != nil {
		return fmt.Errorf("--link-port: %w", err)
	}
	p.spokes = meteredListener{spokes, p.metrics}
	if o.webPort != 0 {
		if p.operators, err = p.node.Listen("tcp", fmt.Sprintf(":%d", o.webPort)); err != nil {
			return fmt.Errorf("--web-port: %w", err)
		}
	}
	p.ready.wait("the management cluster's objects are being read")
	return assemble(ctx, o, p)
}

// parts are what the hub stands on.
type parts struct {
	log     *slog.Logger
	metrics *web.Metrics
	ready   *readiness
	front   *front
	db      store.Store
	config  *rest.Config
	node    *tailnet.Node
	spokes  net.Listener
	// local answers operators on the machine itself, operators is where those on the tailnet come in; nil if nowhere.
	local     late
	operators net.Listener
}

// assemble joins the loop with its adapters. It reads like the drawing in the README.
func assemble(ctx context.Context, o options, p *parts) error {
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	sink := &memberSink{metrics: p.metrics}
	provided := clusters.New(clusters.Options{
		Scheme: scheme, Sink: sink, Log: p.log,
		Dial: func(ctx context.Context, m clusters.Member) (net.Conn, error) {
			return p.node.DialPeer(ctx, m.Addr, m.NodeID, o.spokeTag)
		},
	})
	mgr, err := mcmanager.New(p.config, provided, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return fmt.Errorf("management cluster: %w", err)
	}
	local := mgr.GetLocalManager()
	tailnets := tailnetcontroller.New(tailnetcontroller.Options{
		Client: local.GetClient(), Reader: local.GetAPIReader(), Namespace: o.namespace, Federation: o.federation, APIURL: o.apiURL,
		Transport: newAdminTransport(p.metrics),
	})
	vips := provider{tailnets: tailnets}
	fallback := policy.Default()
	fallback.Grace, fallback.FailbackDelay = o.grace, o.failbackDelay
	if err := fallback.Validate(); err != nil {
		return fmt.Errorf("--grace, --failback-delay: %w", err)
	}
	desk := console.New(console.Options{Journal: p.db, Now: time.Now, Version: version()})
	h, err := hub.New(ctx, hub.Config{
		Store: p.db, Provider: meteredProvider{vips, p.metrics}, Log: p.log, Changed: desk.Changed,
		Decisions: coordinator.Config{Fallback: fallback, VIPs: vip.Options{Quarantine: o.quarantine}},
	})
	if err != nil {
		return err
	}
	members := member.New(member.Options{
		Client: local.GetClient(), Reader: local.GetAPIReader(), Clusters: provided, Sink: h, Now: time.Now, AcceptAll: o.acceptAll,
	})
	exports := export.New(provided, h)
	policies := failoverpolicy.New(failoverpolicy.Options{Client: local.GetClient(), Policies: h, Fallback: fallback})
	desk.Hub, desk.Options.Invite = h, inviter{o, vips, members, p.node}.invite
	desk.Dismiss = newUsher(o, vips, members, h, p.log).dismiss
	sink.hub, sink.members, sink.exports, sink.desk = h, members, exports, desk
	if err := errors.Join(tailnets.AddTo(local), members.AddTo(local), policies.AddTo(local), exports.AddTo(ctx, mgr), provided.AddTo(mgr)); err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	inventories := vips.inventories(o)
	server := link.New(link.Options{
		Hub: meteredHub{h, p.metrics}, Members: linkMembers{registry: members, hub: h, metrics: p.metrics, desk: desk}, WhoIs: whoIs(p.node), SpokeTag: o.spokeTag,
		ProxyTag: o.proxyTag, Log: p.log,
		MintKey:  func(ctx context.Context, p link.Proxy) (link.ProxyKey, error) { return vips.mintKey(ctx, o, p) },
		Discover: inventories.discover, Probed: func(p link.Probe) { tellProbe(desk, p) },
	})
	p.metrics.Ask(h.Stats)
	p.front.serve(web.Handler(web.Options{Hub: h, Journal: p.db, Log: p.log}))
	p.local.serve(operators(desk, localOperator, nil, p.log))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.Run(ctx) })
	g.Go(func() error { return mgr.Start(ctx) })
	if p.operators != nil {
		g.Go(func() error {
			name, err := p.node.FullName(ctx)
			if err != nil {
				return err
			}
			front := operators(desk, tailnetOperator(p.node), []string{name}, p.log)
			return serveHTTP(ctx, &http.Server{Handler: front, ReadHeaderTimeout: 10 * time.Second}, p.operators)
		})
	}
	g.Go(func() error {
		// The members' spokes are served once their MemberClusters can be read.
		if !local.GetCache().WaitForCacheSync(ctx) {
			return nil // ctx ended
		}
		if err := members.Prune(ctx, h.Members()); err != nil {
			return fmt.Errorf("forget members that were deleted meanwhile: %w", err)
		}
		accepted, err := members.Accepted(ctx)
		if err != nil {
			return err
		}
		if err := h.Expect(ctx, accepted); err != nil {
			return nil // ctx ended
		}
		p.ready.serving()
		p.log.Info("the hub serves its spokes", "addrs", p.node.Addrs(), "port", o.linkPort, "epoch", h.Epoch())
		return server.Serve(ctx, p.spokes)
	})
	return g.Wait()
}

func serveHTTP(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	return nil
}

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), gatewayv1.Install(s), mcsv1alpha1.Install(s), mcsv1beta1.Install(s), v1alpha1.AddToScheme(s))
}

// restConfig is the management cluster's. Its client does not limit itself: the API server's fairness does.
func restConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("management cluster: %w; name one with --kubeconfig", err)
	}
	config.QPS = -1
	return config, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
