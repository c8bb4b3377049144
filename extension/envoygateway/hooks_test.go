package envoygateway_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/extension/translate"
)

// hooksFile names the file by which this very program, started once more, is an extension server.
const hooksFile = "TAILGATE_TEST_HOOKS"

var hooksAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), hooksPort)

// poison is the name of a service that no snapshot survives: translating it panics.
const poison = "poison"

// hooksConfig is the content of the file.
type hooksConfig struct {
	Server   certs.Pair
	Trust    []byte
	Snapshot extension.Snapshot
}

// runHooks is the extension server as a process of its own, until ctx ends. SIGHUP has it read its file again.
func runHooks(ctx context.Context, file string) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	config, err := readHooks(file)
	if err != nil {
		return err
	}
	pool, err := certs.Pool(config.Trust)
	if err != nil {
		return err
	}
	live := new(certs.Live)
	if err := live.Set(config.Server); err != nil {
		return err
	}
	hooks, err := extension.NewServer(extension.Options{
		TLS: certs.ServerConfig(live, func() *x509.CertPool { return pool }, ""),
		Listen: func(ctx context.Context) (net.Listener, error) {
			var c net.ListenConfig
			return c.Listen(ctx, "tcp", hooksAddress.String())
		},
		Translate: func(in translate.Resources, ps []translate.Policy, s extension.Snapshot) (translate.Resources, []translate.Note) {
			if slices.ContainsFunc(s.Services, func(x extension.Service) bool { return x.ID.Name == poison }) {
				panic("poison")
			}
			return translate.Translate(in, ps, s)
		},
	})
	if err != nil {
		return err
	}
	hooks.SetSnapshot(config.Snapshot)
	ended := make(chan error, 1)
	go func() { ended <- hooks.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-reload:
			if config, err = readHooks(file); err != nil {
				return err
			}
			hooks.SetSnapshot(config.Snapshot)
		}
	}
}

func readHooks(file string) (hooksConfig, error) {
	var config hooksConfig
	b, err := os.ReadFile(file)
	if err != nil {
		return config, fmt.Errorf("read settings of the extension server: %w", err)
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return config, fmt.Errorf("read settings of the extension server: %w", err)
	}
	return config, nil
}

// hooksProcess is an extension server of its own, which faults can be done to.
type hooksProcess struct {
	world *world
	file  string
	// bundle has the certificates, the same for each start.
	bundle     certs.Bundle
	supervisor machine.Supervisor
	running    *machine.Running
}

// newHooksProcess prepares an extension server, which does not run yet.
func (w *world) newHooksProcess(snap extension.Snapshot) *hooksProcess {
	w.Helper()
	p := &hooksProcess{world: w, file: filepath.Join(w.TempDir(), "hooks.json"), bundle: w.certificates()}
	p.write(snap)
	w.Cleanup(func() {
		if p.running != nil && p.running.Err() == nil {
			w.must(p.running.Stop())
		}
	})
	return p
}

func (p *hooksProcess) write(snap extension.Snapshot) {
	p.world.Helper()
	b, err := json.Marshal(hooksConfig{Server: p.bundle.Server, Trust: p.bundle.Trust, Snapshot: snap})
	p.world.must(err)
	p.world.must(os.WriteFile(p.file, b, 0o600))
}

// start returns when the port is open.
func (p *hooksProcess) start() {
	p.world.Helper()
	running, err := p.supervisor.Start(p.world.Context(), machine.Process{
		Name: "extension server", Path: "/proc/self/exe", Env: append(os.Environ(), hooksFile+"="+p.file), LogFile: p.file + ".log",
		Ready: func(ctx context.Context) error {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", hooksAddress.String())
			if err != nil {
				return err
			}
			return c.Close()
		},
	})
	p.world.must(err)
	p.running = running
}

// kill ends the process as a crash would, and returns when it is gone.
func (p *hooksProcess) kill() {
	p.world.Helper()
	p.world.must(p.running.Kill())
	<-p.running.Done()
}

// stop ends the process as the kubelet does.
func (p *hooksProcess) stop() {
	p.world.Helper()
	p.world.must(p.running.Stop())
}

func (p *hooksProcess) signal(s syscall.Signal) {
	p.world.Helper()
	p.world.must(unix.Kill(p.running.PID(), s))
}

// set gives the running process another snapshot, and has Envoy Gateway ask for it.
func (p *hooksProcess) set(snap extension.Snapshot, revision int) {
	p.world.Helper()
	p.write(snap)
	p.signal(unix.SIGHUP)
	p.world.retranslate(revision)
}

// silence is a port that takes connections and never says anything.
func (w *world) silence() (end func()) {
	w.Helper()
	var c net.ListenConfig
	l, err := c.Listen(w.Context(), "tcp", hooksAddress.String())
	w.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			_ = c.Close() // nothing was said on it
		}
	}()
	return func() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			w.Error(err)
		}
		<-done
	}
}

// recovery is how long it may take from the end of a fault until the Envoys have what they should.
const recovery = 5 * time.Second
