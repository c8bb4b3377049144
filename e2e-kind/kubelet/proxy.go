package kubelet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

const envoyContainer = "envoy"

// proxy is one running incarnation of a Deployment's pod template.
type proxy struct {
	deployment string
	hash       string
	running    *machine.Running
	ready      bool
	probed     bool
}

// sync brings the process, the volumes and the objects in line with the Deployment.
func (p *Proxies) sync(ctx context.Context, l listers) error {
	d, err := p.oldest(l)
	if err != nil {
		return err
	}
	if d == nil {
		return p.stop()
	}
	container, err := findContainer(&d.Spec.Template.Spec)
	if err != nil {
		return fmt.Errorf("deployment %s: %w", d.Name, err)
	}
	dir := filepath.Join(p.options.Dir, d.Name)
	// Also while it runs: the files of a Secret change below the process, as a kubelet changes them.
	binds, err := fillVolumes(dir, &d.Spec.Template.Spec, container, l)
	if err != nil {
		return fmt.Errorf("deployment %s: %w", d.Name, err)
	}
	if err := p.ensure(ctx, d, container, dir, binds); err != nil {
		return fmt.Errorf("deployment %s: %w", d.Name, err)
	}
	ready := p.probe(ctx, container)
	if ready != p.current.ready || !p.current.probed {
		p.options.Log.Info("proxy readiness", "deployment", d.Name, "ready", ready)
		p.current.ready, p.current.probed = ready, true
	}
	return p.report(ctx, l, d)
}

// oldest is the Deployment to run, nil if there is none.
func (p *Proxies) oldest(l listers) (*appsv1.Deployment, error) {
	all, err := l.deployments.List(proxySelector)
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	all = slices.DeleteFunc(all, func(d *appsv1.Deployment) bool {
		return d.DeletionTimestamp != nil || d.Spec.Replicas != nil && *d.Spec.Replicas == 0
	})
	if len(all) == 0 {
		return nil, nil
	}
	slices.SortFunc(all, func(a, b *appsv1.Deployment) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all[0], nil
}

func findContainer(spec *corev1.PodSpec) (*corev1.Container, error) {
	for i := range spec.Containers {
		if spec.Containers[i].Name == envoyContainer {
			return &spec.Containers[i], nil
		}
	}
	return nil, fmt.Errorf("it has no container %q", envoyContainer)
}

// ensure makes the process that runs be the one that the template describes.
func (p *Proxies) ensure(ctx context.Context, d *appsv1.Deployment, c *corev1.Container, dir string, binds map[string]string) error {
	hash, err := templateHash(&d.Spec.Template)
	if err != nil {
		return err
	}
	if p.current != nil {
		select {
		case <-p.current.running.Done():
			p.options.Log.Warn("proxy could not be started again", "deployment", p.current.deployment, "error", p.current.running.Err())
			p.current = nil
		default:
		}
	}
	if p.current != nil && p.current.deployment == d.Name && p.current.hash == hash {
		return nil
	}
	if err := p.stop(); err != nil {
		return fmt.Errorf("stop the former process: %w", err)
	}
	pod := pod{
		template: &d.Spec.Template, namespace: d.Namespace, name: d.Name + "-" + hash[:10], ip: p.options.NodeIP, zone: p.options.Zone,
	}
	env, err := pod.environment(c)
	if err != nil {
		return err
	}
	args := expandAll(slices.Concat(c.Command[min(1, len(c.Command)):], c.Args), env)
	hosts := filepath.Join(dir, "hosts")
	if err := replaceFile(hosts, p.hosts()); err != nil {
		return err
	}
	binds = maps.Clone(binds)
	binds["/etc/hosts"] = hosts
	process := machine.Process{
		Name: d.Name, Path: p.options.EnvoyPath, Args: args, Env: slices.Concat(baseEnv(), assignments(env), p.options.Env),
		Dir: dir, LogFile: filepath.Join(dir, envoyContainer+".log"), Binds: binds, Restart: true,
	}
	running, err := p.options.Supervisor.Start(ctx, process)
	if err != nil {
		return err
	}
	p.options.Log.Info("proxy started", "deployment", d.Name, "pid", running.PID(), "log", process.LogFile)
	p.current = &proxy{deployment: d.Name, hash: hash, running: running}
	return nil
}

// templateHash names a state of a pod template.
func templateHash(t *corev1.PodTemplateSpec) (string, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("encode pod template: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// baseEnv is what a process gets that its image would give it.
func baseEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// hosts is the container's /etc/hosts, in place of the cluster's DNS. The bootstrap has the name with the final dot, which
// not every resolver takes off before it looks here; one that does finds the same address twice.
func (p *Proxies) hosts() []byte {
	names := map[string]netip.Addr{
		"localhost": netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		fmt.Sprintf("envoy-gateway.%s.svc.cluster.local", p.options.Namespace): p.options.NodeIP,
	}
	maps.Copy(names, p.options.Hosts)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "%s %s %s.\n", names[name], name, name)
	}
	return []byte(b.String())
}

// probe tells whether the container's readiness probe passes. A container without one is ready when it runs.
func (p *Proxies) probe(ctx context.Context, c *corev1.Container) bool {
	if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet == nil {
		return true
	}
	get := c.ReadinessProbe.HTTPGet
	return probeHTTP(ctx, netip.AddrPortFrom(p.options.NodeIP, uint16(get.Port.IntValue())), get.Path) == nil
}

func probeHTTP(ctx context.Context, addr netip.AddrPort, path string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+path, http.NoBody)
	if err != nil {
		return err
	}
	req.Close = true // a kept connection would outlive the process behind it and fail the next probe
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return nil
}

func probeTCP(ctx context.Context, addr netip.AddrPort) error {
	d := net.Dialer{Timeout: probeTimeout}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr.Addr().String(), strconv.Itoa(int(addr.Port()))))
	if err != nil {
		return err
	}
	return c.Close()
}
