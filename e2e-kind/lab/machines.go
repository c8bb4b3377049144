package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// Subcommand is what a program that uses the lab is started with to be a machine: it must call [Run] then.
const Subcommand = "machine"

// configEnv holds a machine's config, as JSON.
const configEnv = "TAILGATE_LAB_MACHINE"

// config is what a machine's program needs to know.
type config struct {
	Name     string
	IP       netip.Addr
	Dir      string
	Pods     netip.Prefix
	Members  []string
	Workload bool
	// Controllers is kube-controller-manager; empty where the proxies are no pods.
	Controllers string
	// Pod is set on a machine that is a pod.
	Pod *podConfig
	// Bare and Outside are those of [Options], OAuthID and OAuthSecret of its client.
	Bare                 bool
	Outside              []string
	OAuthID, OAuthSecret string

	Programs Programs
	Assets   assets.Paths
	CRDs     string

	ControlURL    string
	FailbackDelay time.Duration
	// JoinKey is the spoke's, HubKey the hub's; each is empty on a machine that has none.
	JoinKey, HubKey string
}

func (l *Lab) config(name string) (config, error) {
	ip := l.Addr(name)
	c := config{
		Name: name, IP: ip, Dir: l.Dir(name), Members: l.o.Members, Workload: slices.Contains(l.o.Workload, name), Bare: l.o.Bare,
		Controllers: l.controllers, Outside: l.o.Outside, OAuthID: l.o.OAuth.ID, OAuthSecret: l.o.OAuth.Secret,
		// Pods of different clusters must not share addresses, or traffic could reach the right pod by accident.
		Pods:     podPrefix(ip),
		Programs: l.o.Programs, Assets: l.assets, CRDs: l.o.CRDs,
		ControlURL: l.tailnet.URL(), FailbackDelay: l.o.FailbackDelay,
	}
	keys := map[string]*string{}
	if name != Management {
		keys["tag:tailgate-spoke"] = &c.JoinKey
	}
	if name == Management || l.o.Standalone && name == l.o.Members[0] {
		keys["tag:tailgate-hub"] = &c.HubKey
	}
	for tag, key := range keys {
		var err error
		if *key, err = l.MintKey(tag); err != nil {
			return config{}, fmt.Errorf("mint a join key for %s: %w", name, err)
		}
	}
	return c, nil
}

// podPrefix are the addresses of the pods that run on a machine itself.
func podPrefix(ip netip.Addr) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, ip.As4()[3], 0}), 24)
}

// node is a machine, from the inside.
type node struct {
	config
	out        io.Writer
	log        *slog.Logger
	supervisor machine.Supervisor
	plane      *controlplane.ControlPlane
	last       time.Time

	// tasks run until the machine ends.
	ctx   context.Context // the machine's life
	tasks sync.WaitGroup
	fail  chan error
}

// Run is the whole life of a machine, from its config in the environment until ctx ends. Its steps go to out, where the
// lab reads them. It returns the exit status.
func Run(ctx context.Context, out io.Writer) int {
	n := node{out: out}
	err := json.Unmarshal([]byte(os.Getenv(configEnv)), &n.config)
	if err == nil {
		err = n.run(ctx)
	}
	if err != nil {
		n.say(Step{Error: err.Error()})
		return 1
	}
	return 0
}

func (n *node) run(ctx context.Context) error {
	file, err := os.OpenFile(n.path("machine.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	n.log = slog.New(slog.NewTextHandler(file, nil))
	ctx, stop := context.WithCancel(ctx)
	defer func() { stop(); n.tasks.Wait() }()
	n.ctx, n.fail, n.last = ctx, make(chan error, 1), time.Now()
	build := n.member
	switch {
	case n.Pod != nil:
		build = n.pod
	case n.Name == Management:
		build = n.management
	}
	if err := build(ctx); err != nil {
		_ = n.supervisor.Stop() // the machine gives up and takes all of them with it
		return err
	}
	n.say(Step{What: "ready", Ready: true})
	end := make(chan error, 1)
	go func() { end <- n.supervisor.Run(ctx) }()
	select {
	case err := <-end:
		return err
	case err := <-n.fail:
		stop()
		<-end
		return err
	}
}

// background runs a part of the machine until the machine ends. Its failure ends the machine.
func (n *node) background(what string, f func(context.Context) error) {
	n.tasks.Go(func() {
		if err := f(n.ctx); err != nil && n.ctx.Err() == nil {
			select {
			case n.fail <- fmt.Errorf("%s: %w", what, err):
			default:
			}
		}
	})
}

// done says that a step is done.
func (n *node) done(what string) {
	n.say(Step{What: what, Took: time.Since(n.last)})
	n.last = time.Now()
}

func (n *node) say(s Step) {
	line, err := json.Marshal(s)
	if err != nil {
		panic(err) // no Step is unfit for JSON
	}
	fmt.Fprintf(n.out, "%s\n", line)
}

func (n *node) path(elem ...string) string { return filepath.Join(append([]string{n.Dir}, elem...)...) }

// controlPlane starts etcd and the API server, and applies Tailgate's CRDs.
func (n *node) controlPlane(ctx context.Context, crds ...string) error {
	plane, err := controlplane.Start(ctx, controlplane.Options{
		Dir: n.path("control-plane"), Assets: n.Assets, BindAddress: n.IP, Supervisor: &n.supervisor,
	})
	if err != nil {
		return err
	}
	n.plane = plane
	n.done("kube-apiserver and etcd")
	own, err := filepath.Glob(filepath.Join(n.CRDs, "*.yaml"))
	if err != nil {
		return err
	}
	if err := plane.ApplyFiles(ctx, append(crds, own...)...); err != nil {
		return fmt.Errorf("apply CRDs: %w", err)
	}
	n.done("CRDs")
	return nil
}
