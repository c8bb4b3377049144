package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
)

// shared is the etcd that most tests use, each under a prefix of its own.
var shared *server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "tailgate-etcd-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // the data of a test, which may lie about
	if shared, err = launch(ctx, dir, clientv3.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.kill(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// server is an etcd of one member on 127.0.0.1. It dies with the test binary.
type server struct {
	supervisor machine.Supervisor
	process    machine.Process
	running    *machine.Running
	url        string
}

// launches are more than one because a free port may be taken by another test before etcd has it.
const launches = 3

// launch starts an etcd with further arguments. A config with TLS makes it speak that; it is also how to see that it is
// ready.
func launch(ctx context.Context, dir string, config clientv3.Config, args ...string) (*server, error) {
	found, err := assets.FindControlPlane(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	for i := range launches {
		s, err := newServer(found.Etcd, filepath.Join(dir, fmt.Sprint(i)), config, args)
		if err != nil {
			return nil, err
		}
		if failed = s.start(ctx); failed == nil {
			return s, nil
		}
	}
	return nil, failed
}

func newServer(program, dir string, config clientv3.Config, args []string) (*server, error) {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // after all are found, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	if config.TLS != nil {
		client = strings.Replace(client, "http", "https", 1)
	}
	config.Endpoints = []string{client}
	return &server{url: client, process: machine.Process{
		Name: "etcd", Path: program, LogFile: filepath.Join(dir, "etcd.log"),
		Args: append([]string{
			"--data-dir=" + filepath.Join(dir, "data"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
			"--heartbeat-interval=20", "--election-timeout=200",
		}, args...),
		Ready: func(ctx context.Context) error { return ready(ctx, config) },
	}}, nil
}

func ready(ctx context.Context, config clientv3.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := clientv3.New(config)
	if err != nil {
		return err
	}
	_, err = c.Get(ctx, "ready")
	return errors.Join(err, c.Close())
}

func (s *server) start(ctx context.Context) (err error) {
	s.running, err = s.supervisor.Start(ctx, s.process)
	return err
}

// kill ends it as the loss of its machine would, but for the disk.
func (s *server) kill() error {
	err := s.running.Kill()
	<-s.running.Done()
	return err
}

// own starts an etcd for one test.
func own(t *testing.T) *server {
	t.Helper()
	s, err := launch(t.Context(), t.TempDir(), clientv3.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client returns a client of the server for a test's own use.
func (s *server) client(t testing.TB) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// runs has a number for each run of a test: with -count, a name comes more than once.
var (
	runs sync.Map
	last atomic.Int64
)

// busy is how long etcd may take on a machine that runs all other tests too.
const busy = 30 * time.Second

// options are those of a store under a prefix of this run of the test.
func (s *server) options(t testing.TB) etcd.Options {
	run, _ := runs.LoadOrStore(t, last.Add(1))
	prefix := fmt.Sprintf("/%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), run)
	return etcd.Options{Endpoints: []string{s.url}, Prefix: prefix, Identity: "hub-a", LeaseTTL: time.Minute, Timeout: busy}
}

// open opens a store, which is checked and closed with the test.
func open(t testing.TB, o etcd.Options) *etcd.DB {
	t.Helper()
	db, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, db) })
	return db
}

func shut(t testing.TB, db *etcd.DB) {
	t.Helper()
	if err := db.Check(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
