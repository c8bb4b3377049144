// Command envoy is the stand-in for Envoy in tests. It is started with Envoy's command line. It is test equipment,
// not Envoy, and never part of the product.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/standin"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/bootstrap"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
)

// eventsKept is how many events /standin/events shows.
const eventsKept = 10_000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", standin.Version, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags, err := bootstrap.ParseFlags(args)
	if err != nil {
		return err
	}
	if flags.Version {
		_, err := fmt.Fprintf(stdout, "envoy  version: %s\n", standin.Version)
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level(flags.LogLevel)}))
	if len(flags.Ignored) > 0 {
		log.Info("flags of Envoy's that have no effect in the stand-in", "flags", flags.Ignored)
	}
	b, err := bootstrap.Load(flags)
	if err != nil {
		return err
	}
	if flags.Mode == "validate" {
		_, err := fmt.Fprintf(stdout, "configuration OK for %s\n", standin.Version)
		return err
	}
	mirror, err := openEvents(flags.EventsPath)
	if err != nil {
		return err
	}
	ring := events.New(eventsKept, time.Now, mirror)
	server := standin.New(standin.Options{
		Bootstrap: b, AdminAddressPath: flags.AdminAddressPath, DrainTime: flags.DrainTime, Events: ring, Log: log,
	})
	err = server.Run(ctx)
	if f, ok := mirror.(io.Closer); ok {
		err = errors.Join(err, f.Close())
	}
	return err
}

func openEvents(path string) (io.Writer, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open --standin-events: %w", err)
	}
	return f, nil
}

// level translates Envoy's log levels.
func level(name string) slog.Level {
	switch strings.ToLower(name) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "critical", "off":
		return slog.LevelError
	}
	return slog.LevelInfo
}
