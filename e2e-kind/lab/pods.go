package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tailgate-project/tailgate/e2e-kind/kubelet"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

const (
	// proxyPort is where a member's spoke awaits its proxies, proxyImage what they are called. There is no image: a pod runs
	// the spoke's program.
	proxyPort  = 5007
	proxyImage = "tailgate-spoke:lab"
	// podNamespace is that of the proxies.
	podNamespace = "tailgate-system"
	// podBlock is how many addresses of the fabric each member's pods have, from firstPod on.
	podBlock = 32
	firstPod = 128
)

// podConfig is what a machine that is a pod needs to know.
type podConfig struct {
	Args, Env []string
	// Root has what the container sees as /etc and /var.
	Root string
	// Grace is how long the container may take to end.
	Grace time.Duration
}

// pod runs the container. That it is ready is for the kubelet to see.
func (n *node) pod(ctx context.Context) error {
	_, err := n.supervisor.Start(ctx, machine.Process{
		Name: n.Name, Path: n.Programs.Spoke, LogFile: n.path("container.log"), Restart: true, Args: n.Pod.Args, Env: environ(n.Pod.Env...),
		Binds: map[string]string{"/etc": filepath.Join(n.Pod.Root, "etc"), "/var": filepath.Join(n.Pod.Root, "var")}, StopTimeout: n.Pod.Grace,
	})
	return err
}

// controllerManager starts the controllers that make pods of StatefulSets and EndpointSlices of Services.
func (n *node) controllerManager(ctx context.Context) error {
	dir := n.path("controllers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err := kubelet.StartControllerManager(ctx, kubelet.ControllerManagerOptions{
		Path: n.Controllers, Kubeconfig: n.plane.AdminKubeconfig(), Controllers: []string{"statefulset-controller", "endpointslice-controller"},
		Dir: dir, Supervisor: &n.supervisor,
	})
	return err
}

// pods runs the pods of a member's proxies, each on a machine of its own.
type pods struct {
	lab    *Lab
	member string
	client kubernetes.Interface
	nodes  kubelet.Pods
	// ctx never ends: pods end in their own time.
	ctx context.Context

	mu      sync.Mutex
	running map[types.UID]*podMachine
	names   map[string]types.UID
}

// podMachine is a pod's machine.
type podMachine struct {
	*machine.Machine
	addr   netip.Addr
	sleep  time.Duration // before the container is told to end
	grace  time.Duration
	ending bool
}

// newPods prepares for the member with this place in the order.
func (l *Lab) newPods(member string, place int) (*pods, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig(member))
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	first := l.fabric.Addr().As4()
	first[3] = byte(firstPod + place*podBlock)
	p := &pods{lab: l, member: member, client: client, running: map[types.UID]*podMachine{}, names: map[string]types.UID{}}
	p.nodes = kubelet.Pods{
		Config: config, Namespace: podNamespace, Addresses: netip.PrefixFrom(netip.AddrFrom4(first), 27), Start: p.start, Ready: p.ready, Gone: p.gone,
		Log: l.o.Log.With("member", member),
	}
	return p, nil
}

func (p *pods) run(ctx context.Context) error {
	p.ctx = context.WithoutCancel(ctx)
	return p.nodes.Run(ctx)
}

// start boots the machine of a pod, once.
func (p *pods) start(ctx context.Context, pod *corev1.Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.running[pod.UID]; m != nil {
		return nil
	}
	addr, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return err
	}
	c, err := p.config(ctx, pod, addr)
	if err != nil {
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
	host := p.lab.Addr(p.member)
	booted, err := p.lab.fabric.Boot(ctx, machine.Spec{
		Name: c.Name, IP: addr, Routes: map[netip.Prefix]netip.Addr{podPrefix(host): host}, Command: []string{self, Subcommand},
		Env: []string{configEnv + "=" + string(text)}, Stdout: io.Discard, Stderr: os.Stderr,
	})
	if err != nil {
		return err
	}
	m := &podMachine{Machine: booted, addr: addr, grace: c.Pod.Grace}
	if life := pod.Spec.Containers[0].Lifecycle; life != nil && life.PreStop != nil && life.PreStop.Sleep != nil {
		m.sleep = time.Duration(life.PreStop.Sleep.Seconds) * time.Second
	}
	p.running[pod.UID], p.names[pod.Name] = m, pod.UID
	p.lab.o.Log.Info("a pod runs", "member", p.member, "pod", pod.Name, "addr", addr)
	return nil
}

// config makes what the machine of a pod needs, with the files that the kubelet would mount.
func (p *pods) config(ctx context.Context, pod *corev1.Pod, addr netip.Addr) (config, error) {
	name := p.member + "-" + pod.Name
	dir := filepath.Join(p.lab.Dir(p.member), "pods", pod.Name+"-"+string(pod.UID))
	root := filepath.Join(dir, "root")
	container := pod.Spec.Containers[0]
	env := map[string]string{
		"POD_NAME": pod.Name, "POD_NAMESPACE": pod.Namespace, "POD_IP": addr.String(), "KUBECONFIG": "/etc/kubeconfig",
	}
	for _, e := range container.Env {
		if e.Value != "" {
			env[e.Name] = e.Value
		}
	}
	out := config{
		Name: name, IP: addr, Dir: dir, Programs: p.lab.o.Programs,
		Pod: &podConfig{Root: root, Grace: time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second},
	}
	for k, v := range env {
		out.Pod.Env = append(out.Pod.Env, k+"="+v)
	}
	for _, arg := range container.Args {
		for k, v := range env {
			arg = strings.ReplaceAll(arg, "$("+k+")", v)
		}
		out.Pod.Args = append(out.Pod.Args, arg)
	}
	files := map[string][]byte{"etc/hosts": []byte("127.0.0.1 localhost\n"), "etc/resolv.conf": nil}
	for _, v := range pod.Spec.Volumes {
		if err := p.volume(ctx, v, container.VolumeMounts, files); err != nil {
			return out, err
		}
	}
	var err error
	if files["etc/kubeconfig"], err = p.kubeconfig(ctx, pod); err != nil {
		return out, err
	}
	for _, d := range []string{"etc", "var/lib/tailgate"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return out, err
		}
	}
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
			return out, err
		}
	}
	return out, nil
}

// volume adds the files of a Secret that is mounted.
func (p *pods) volume(ctx context.Context, v corev1.Volume, mounts []corev1.VolumeMount, files map[string][]byte) error {
	if v.Secret == nil {
		return nil // an emptyDir is made anyway
	}
	secret, err := p.client.CoreV1().Secrets(podNamespace).Get(ctx, v.Secret.SecretName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("mount a Secret: %w", err)
	}
	for _, m := range mounts {
		for key, data := range secret.Data {
			if m.Name == v.Name {
				files[strings.TrimPrefix(m.MountPath, "/")+"/"+key] = data
			}
		}
	}
	return nil
}

// kubeconfig is for the pod's own account, with the rights that this has.
func (p *pods) kubeconfig(ctx context.Context, pod *corev1.Pod) ([]byte, error) {
	token, err := p.client.CoreV1().ServiceAccounts(podNamespace).CreateToken(ctx, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make a token for the pod: %w", err)
	}
	out := clientcmdapi.NewConfig()
	out.Clusters["own"] = &clientcmdapi.Cluster{Server: p.nodes.Config.Host, CertificateAuthorityData: p.nodes.Config.CAData}
	out.AuthInfos["own"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	out.Contexts["own"] = &clientcmdapi.Context{Cluster: "own", AuthInfo: "own"}
	out.CurrentContext = "own"
	return clientcmd.Write(*out)
}

func (p *pods) find(pod string) *podMachine {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running[p.names[pod]]
}

// probe is how long a pod may take to say that it is ready.
var probe = http.Client{Timeout: 2 * time.Second}

// ready asks a pod as the kubelet does.
func (p *pods) ready(pod string) bool {
	m := p.find(pod)
	if m == nil {
		return false
	}
	resp, err := probe.Get("http://" + netip.AddrPortFrom(m.addr, 8086).String() + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // the status is all
	return resp.StatusCode == http.StatusOK
}

// gone has a pod end, and reports whether it has.
func (p *pods) gone(pod string) bool {
	m := p.find(pod)
	if m == nil {
		return true
	}
	p.mu.Lock()
	first := !m.ending
	m.ending = true
	p.mu.Unlock()
	if first {
		go p.end(pod, m)
	}
	select {
	case <-m.Off():
		p.mu.Lock()
		delete(p.running, p.names[pod])
		delete(p.names, pod)
		p.mu.Unlock()
		return true
	default:
		return false
	}
}

// end ends a pod's machine as the kubelet ends a container.
func (p *pods) end(pod string, m *podMachine) {
	select {
	case <-time.After(m.sleep):
	case <-m.Off():
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, m.grace)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		p.lab.o.Log.Warn("a pod did not end in time", "member", p.member, "pod", pod, slog.Any("error", err))
	}
}
