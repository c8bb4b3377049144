// Command reference writes the references in deploy/docs from what they are about: the CRDs, the constants of the code, and
// the metrics as Prometheus would read them.
//
//	go run ./deploy/cmd/reference
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/tailgate-project/tailgate/deploy/cmd/reference/internal/pages"
)

func main() {
	root := flag.String("root", ".", "`directory` of the module")
	out := flag.String("out", "", "`directory` for the pages (default: deploy/docs of the module)")
	flag.Parse()
	if *out == "" {
		*out = filepath.Join(*root, "deploy", "docs")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *root, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

// run writes the pages. A page that is right already is not touched.
func run(ctx context.Context, root, out string) error {
	all, err := pages.All(ctx, root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make the directory of the pages: %w", err)
	}
	for _, p := range all {
		name := filepath.Join(out, p.Name)
		if old, err := os.ReadFile(name); err == nil && string(old) == p.Text {
			continue
		}
		if err := os.WriteFile(name, []byte(p.Text), 0o644); err != nil {
			return fmt.Errorf("write a page: %w", err)
		}
	}
	return nil
}
