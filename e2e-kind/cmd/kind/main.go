// Command kind runs the multi-cluster suite on kind clusters: a management cluster and three members, installed by the
// README's commands, then the scenarios, each with what was sent, what failed and the longest gap.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/kind"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "kind:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("kind", flag.ContinueOnError)
	dir := flags.String("dir", ".kind", "`directory` for kubeconfigs, images and artifacts")
	keep := flags.Bool("keep", false, "leave the clusters running, and say how to reach them")
	installed := flags.Bool("installed", false, "the clusters of an earlier run with -keep are there: only play the scenarios and what follows")
	only := flags.String("run", "", "only what matches this `regexp`: names of scenarios, workflow, diagnoses, uninstall")
	hubAway := flags.Duration("hub-away", 5*time.Minute, "how long the hub is away in the scenario of that name")
	down := flags.Bool("down", false, "only delete the clusters of an earlier run")
	if err := flags.Parse(args); err != nil {
		return err
	}
	selected, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	s := kind.New(kind.Options{Root: root, Dir: abs, Members: []string{"cluster1", "cluster2", "cluster3"}, Only: selected, HubAway: *hubAway, Log: out})
	if *down {
		return s.Down(ctx)
	}
	if *installed {
		if err := s.Attach(ctx); err != nil {
			return err
		}
		return s.Examine(ctx)
	}
	if !*keep {
		defer func() { err = errors.Join(err, s.Down(context.WithoutCancel(ctx))) }()
	}
	if err := s.Up(ctx); err != nil {
		return err
	}
	if err := s.Prove(ctx); err != nil {
		return errors.Join(err, s.Collect(context.WithoutCancel(ctx)))
	}
	if *keep {
		fmt.Fprintf(out, "\nThe clusters run on: KUBECONFIG=%s, contexts kind-management, kind-cluster1 ...; make e2e-kind DOWN=1 deletes them.\n", s.Kubeconfig())
	}
	return nil
}
