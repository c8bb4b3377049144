package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

// failbackDelay is shorter than the hub's default, so that the demo need not wait that long.
const failbackDelay = 5 * time.Second

// startTimeout is for machines that are busy with something else.
const startTimeout = 5 * time.Minute

// inside is the demo in namespaces of its own.
func inside(ctx context.Context, o options) (status int, err error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return 1, err
	}
	crds, err := filepath.Abs(o.crds)
	if err != nil {
		return 1, err
	}
	bin := func(name string) string { return filepath.Join(dir, "bin", name) }
	envoy, isReal := lab.FindEnvoy(bin("standin"))
	delay := failbackDelay
	if o.bench {
		delay = time.Millisecond // each second change is one for the better, and must show at once
		if envoy, err = recording(dir, bin("standin")); err != nil {
			return 1, err
		}
		isReal = false
	}
	p := newPrinter(os.Stdout)
	if o.bench || o.scale > 0 {
		p = newPrinter(os.Stderr) // standard output is for the measurements alone
	}
	p.head("Starting a federation: a management cluster, three members, one tailnet")
	if !isReal {
		p.note("no envoy in the PATH or ENVOY_BIN: the Envoy stand-in of e2e-kind/standin takes its place")
	}
	start, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	options := lab.Options{
		Dir:      filepath.Join(dir, "run"),
		Programs: lab.Programs{Hub: bin("hub"), Spoke: bin("spoke"), Webapp: bin("webapp"), Envoy: envoy},
		CRDs:     crds, Members: members, Workload: []string{"cluster2", "cluster3"},
		FailbackDelay: delay, Progress: p.step,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if o.scale > 0 {
		options.Members, options.Workload, options.Standalone, options.AdminLatency = []string{alone}, []string{alone}, true, adminLatency
	}
	l, err := lab.Start(start, options)
	if err != nil {
		return 1, err
	}
	defer func() {
		p.head("Stopping")
		err = errors.Join(err, l.Close())
	}()
	if o.scale > 0 {
		s := &scaling{lab: l, printer: p, services: o.scale, idle: o.idle, dir: filepath.Join(dir, "run")}
		return 0, s.run(ctx)
	}
	if o.bench {
		return 0, bench(ctx, l, p, dir)
	}
	s := &scenario{lab: l, printer: p, dataPlane: dataPlane(ctx, envoy, isReal), result: filepath.Join(dir, "result.json")}
	if err := s.run(ctx); err != nil {
		return 1, err
	}
	if !o.keep {
		return 0, nil
	}
	r, err := inheritRelays()
	if err != nil {
		return 1, err
	}
	if err := r.invite(p, l, filepath.Join(dir, "run")); err != nil {
		return 1, err
	}
	return 0, r.run(ctx, l)
}
