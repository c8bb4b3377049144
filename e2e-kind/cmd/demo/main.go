// Command demo starts a federation of four clusters on this machine, sends requests across it, kills a cluster, brings
// it back, and shows what happened when. It is test equipment; see package lab for what the clusters are made of.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// relaysEnv tells the inner program that it has listeners to relay from, see relay.go.
const relaysEnv = "TAILGATE_DEMO_RELAYS"

type options struct {
	keep  bool
	bench bool
	scale int
	idle  time.Duration
	dir   string
	crds  string
}

func main() {
	machine.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == lab.Subcommand {
		os.Exit(lab.Run(ctx, os.Stdout))
	}
	var o options
	flag.BoolVar(&o.keep, "keep", false, "leave the federation running until Ctrl-C, and say how to reach it")
	flag.BoolVar(&o.bench, "bench", false, "measure how fast an endpoint's change reaches another cluster's Envoy, instead")
	flag.IntVar(&o.scale, "scale", 0, "measure a cluster that exposes so many Services, instead")
	flag.DurationVar(&o.idle, "idle", time.Minute, "with --scale, how long to watch the federation do nothing")
	flag.StringVar(&o.dir, "dir", ".demo", "`directory` for the result; what runs is in its directory run, and in bin are the programs")
	flag.StringVar(&o.crds, "crds", "deploy/crds", "`directory` of the CRDs")
	flag.Parse()
	run := outside
	if machine.Isolated() {
		run = inside
	}
	status, err := run(ctx, o)
	switch {
	case ctx.Err() != nil:
		status = max(status, 130) // by a signal, as asked
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// outside makes the directory, isolates the demo and cleans up after it.
func outside(ctx context.Context, o options) (status int, err error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return 1, err
	}
	run := filepath.Join(dir, "run")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 1, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return 1, err
	}
	defer unlock()
	if err := errors.Join(os.RemoveAll(run), os.Mkdir(run, 0o755)); err != nil {
		return 1, err
	}
	defer func() {
		if (status != 0 || err != nil) && ctx.Err() == nil {
			err = errors.Join(err, saveLogs(run, filepath.Join(dir, "logs")))
		}
		err = errors.Join(err, os.RemoveAll(run))
	}()
	iso := machine.IsolateOptions{}
	if o.keep {
		if iso.Files, err = relayListeners(); err != nil {
			return 1, err
		}
		iso.Env = []string{relaysEnv + "=1"}
	}
	return machine.Isolate(iso)
}

// lock keeps a second demo out of the directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another demo runs in %s: end it first, or name another --dir", dir), f.Close())
	}
	return func() {
		_ = os.Remove(f.Name())
		_ = f.Close() // which unlocks
	}, nil
}

// relayListeners are sockets outside, on loopback, that the inner demo answers: one for each address of relayed.
func relayListeners() ([]*os.File, error) {
	var files []*os.File
	for range relayed {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			return nil, err
		}
		if err := ln.Close(); err != nil { // the duplicate lives on
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
