// Package lab is a whole federation on one host: a real tailnet, a management cluster with the hub and member
// clusters with a spoke, Envoy Gateway and a workload each, all of them machines of their own. It is test equipment;
// the demo and the scenarios run on it.
package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

// Ports on the machines' addresses.
const (
	GatewayPort   = 10080 // Envoy's, for the Gateway's listener on port 80
	APIServerPort = 6443
	StatusPort    = 9470 // the spoke's
	HubStatusPort = 9471
)

// Management is the name of the machine with the hub.
const Management = "management"

// tailnetPort is where the control server and the admin API listen on the fabric.
const tailnetPort = 8080

// Programs are the paths of what the machines run.
type Programs struct {
	Hub, Spoke, Webapp string
	// Envoy is a real Envoy, or the stand-in.
	Envoy string
}

// Options say what federation to make.
type Options struct {
	// Dir gets everything that is written. It must exist.
	Dir      string
	Programs Programs
	// CRDs is the directory of Tailgate's own.
	CRDs string
	// Members are the member clusters; Workload those of them that run webapp.
	Members, Workload []string
	// Standalone is set where the first member is the management cluster too, and there is no other one.
	Standalone bool
	// Bare members get nothing but their GatewayClass: no Gateway, no TailscaleGateway, and webapp's objects are awaited.
	// With Standalone, the hub gets nothing but its accepted members either.
	Bare bool
	// Outside are the names of hosts outside of the clusters, with webapp at port 80. Each machine has a copy of its own,
	// which answers as the cluster "outside".
	Outside []string
	// OAuth is the hub's OAuth client, one of the lab's own by default.
	OAuth tailnet.OAuthClient
	// ProxyPods has Kubernetes run the members' proxies, as pods of StatefulSets: a real kube-controller-manager makes the
	// pods, and each runs on a machine of its own.
	ProxyPods bool
	// AdminLatency is how long each answer of the tailnet's admin API takes.
	AdminLatency time.Duration
	// FailbackDelay is the hub's.
	FailbackDelay time.Duration
	// Progress hears of every step that is done.
	Progress func(Step)
	Log      *slog.Logger
}

// Step is something that a machine has done.
type Step struct {
	Machine string        `json:"machine,omitempty"`
	What    string        `json:"what"`
	Took    time.Duration `json:"took"`
	// Error is why the machine gave up.
	Error string `json:"error,omitempty"`
	// Ready is set on a machine's last step.
	Ready bool `json:"ready,omitempty"`
}

// Lab is a running federation.
type Lab struct {
	o      Options
	assets assets.Paths
	// controllers is kube-controller-manager, where the members have one.
	controllers string
	fabric      *machine.Fabric
	tailnet     *tailnet.Tailnet
	stop        context.CancelFunc
	done        errgroup.Group

	mu       sync.Mutex
	machines map[string]*machine.Machine
}

// oauthClient is the hub's, where the options name none.
var oauthClient = tailnet.OAuthClient{ID: "tailgate-hub", Secret: "lab-oauth-secret", Tags: []string{"tag:tailgate-hub"}}

// policy approves the proxies as hosts of all services; it is what users paste into their policy file.
const policy = `{
	// Tailgate's tags. The hub's OAuth client carries the tag:tailgate-hub and makes keys for what that owns.
	"tagOwners": {
		"tag:tailgate-hub":   [],
		"tag:tailgate-spoke": ["tag:tailgate-hub"],
		"tag:tailgate-proxy": ["tag:tailgate-hub"],
		"tag:other":          [],
		"tag:tailgate-endpoint": [],
	},
	"autoApprovers": {"services": {"tag:tailgate-proxy": ["tag:tailgate-proxy"]}},
}`

// Start makes the federation and returns when all of it is ready. It must run in namespaces of its own, see
// [machine.RunIsolated].
func Start(ctx context.Context, o Options) (_ *Lab, err error) {
	if o.OAuth.ID == "" {
		o.OAuth = oauthClient
	}
	paths, err := assets.Find(ctx)
	if err != nil {
		return nil, err
	}
	controllers := ""
	if o.ProxyPods {
		if controllers, err = assets.FindControllerManager(); err != nil {
			return nil, err
		}
	}
	l := &Lab{o: o, controllers: controllers, assets: paths, machines: map[string]*machine.Machine{}}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.fabric, err = machine.NewFabric(machine.DefaultPrefix); err != nil {
		return nil, err
	}
	start := time.Now()
	l.tailnet, err = tailnet.New(tailnet.Options{
		Addr: netip.AddrPortFrom(l.fabric.Addr(), tailnetPort).String(), DERPIP: l.fabric.Addr(),
		Policy: policy, OAuthClients: []tailnet.OAuthClient{o.OAuth}, AdminLatency: o.AdminLatency,
	})
	if err != nil {
		return nil, fmt.Errorf("start the tailnet: %w", err)
	}
	l.done.Go(func() error { return l.tailnet.Run(run) })
	select {
	case <-l.tailnet.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o.Progress(Step{What: "tailnet: control server, DERP, STUN, admin API", Took: time.Since(start)})

	g, booting := errgroup.WithContext(ctx)
	machines := o.Members
	if !o.Standalone {
		machines = append([]string{Management}, o.Members...)
	}
	for _, name := range machines {
		g.Go(func() error { return l.Boot(booting, name) })
	}
	if err := g.Wait(); err != nil || !o.ProxyPods {
		return l, err
	}
	for i, name := range o.Members {
		k, err := l.newPods(name, i)
		if err != nil {
			return l, err
		}
		l.done.Go(func() error { return k.run(run) })
	}
	return l, nil
}

// Addr is a machine's address on the fabric: the management cluster's 10.200.0.10, then the members' in their order.
func (l *Lab) Addr(name string) netip.Addr {
	n := 10
	for i, m := range l.o.Members {
		if m == name {
			n = 11 + i
		}
	}
	a := l.fabric.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// Dir is a machine's directory.
func (l *Lab) Dir(name string) string { return filepath.Join(l.o.Dir, name) }

// Kubeconfig is the path of a cluster admin's kubeconfig.
func (l *Lab) Kubeconfig(name string) string {
	return filepath.Join(l.Dir(name), "control-plane", "admin.kubeconfig")
}

// Gateway is the URL of a member's gateway.
func (l *Lab) Gateway(name string) string {
	return "http://" + netip.AddrPortFrom(l.Addr(name), GatewayPort).String()
}

// Status is the URL of a spoke's status server, or of the hub's in the management cluster.
func (l *Lab) Status(name string) string {
	port := uint16(StatusPort)
	if name == Management {
		port = HubStatusPort
	}
	return "http://" + netip.AddrPortFrom(l.Addr(name), port).String()
}

// MintKey makes an auth key, as an administrator would in the console.
func (l *Lab) MintKey(tag string) (string, error) {
	return l.tailnet.MintKey(tailnet.KeyOptions{Tags: []string{tag}, Reusable: true, Preauthorized: true})
}

// VIPs are the tailnet's services.
func (l *Lab) VIPs() []tailnet.ServiceInfo { return l.tailnet.Services() }

// AdminRequests counts the requests to the tailnet's admin API, by method and path.
func (l *Lab) AdminRequests() map[string]int { return l.tailnet.Requests() }

// ControlURL is the tailnet's.
func (l *Lab) ControlURL() string { return l.tailnet.URL() }

// Boot starts a machine, for the first time or again, and returns when it is ready.
func (l *Lab) Boot(ctx context.Context, name string) error {
	c, err := l.config(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	m, err := l.fabric.Boot(ctx, machine.Spec{
		Name: name, IP: c.IP, LocalPrefixes: []netip.Prefix{c.Pods}, Command: []string{self, Subcommand},
		Env: []string{configEnv + "=" + string(text)}, Stdout: w, Stderr: os.Stderr,
	})
	if err != nil {
		return fmt.Errorf("boot %s: %w", name, err)
	}
	l.mu.Lock()
	l.machines[name] = m
	l.mu.Unlock()
	go func() {
		<-m.Off()
		w.CloseWithError(fmt.Errorf("%s went off", name))
	}()
	return l.follow(ctx, name, r)
}

// follow reads a machine's steps until it is ready, and drains what comes later.
func (l *Lab) follow(ctx context.Context, name string, r *io.PipeReader) error {
	stop := context.AfterFunc(ctx, func() { r.CloseWithError(ctx.Err()) })
	defer stop()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var s Step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			l.o.Log.Info("machine", "name", name, "says", lines.Text())
			continue
		}
		s.Machine = name
		if s.Error != "" {
			return fmt.Errorf("%s: %s", name, s.Error)
		}
		l.o.Progress(s)
		if s.Ready {
			go drain(r)
			return nil
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was not ready in time: %w", name, ctx.Err())
	}
	return fmt.Errorf("%s ended before it was ready: %w", name, lines.Err())
}

func drain(r io.Reader) {
	_, _ = io.Copy(io.Discard, r) // ends with the machine; what it prints once it is ready is in its logs too
}

// Kill cuts a machine's power: no process of it says goodbye to anybody.
func (l *Lab) Kill(name string) error {
	l.mu.Lock()
	m := l.machines[name]
	delete(l.machines, name)
	l.mu.Unlock()
	if m == nil {
		return fmt.Errorf("kill %s: it is off", name)
	}
	return m.Kill()
}

// Close ends everything.
func (l *Lab) Close() error {
	var err error
	if l.fabric != nil {
		err = l.fabric.Close()
	}
	l.stop()
	return errors.Join(err, l.done.Wait())
}
