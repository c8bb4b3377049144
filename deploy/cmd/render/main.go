// Command render copies CRDs and RBAC into the charts, and renders deploy/install from them.
//
//	go run ./deploy/cmd/render
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tailgate-project/tailgate/deploy"
)

func main() {
	dir := flag.String("dir", "deploy", "`directory` with crds, rbac, charts and install")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

// run writes what is generated, and removes what is not any more. A file that is right already is not touched.
func run(dir string) error {
	all, err := deploy.Generate(dir)
	if err != nil {
		return err
	}
	for name, text := range all {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if old, err := os.ReadFile(file); err == nil && string(old) == text {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write a generated file: %w", err)
		}
	}
	stale, err := deploy.Stale(dir, all)
	if err != nil {
		return err
	}
	for _, name := range stale {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("remove a file that is not generated any more: %w", err)
		}
	}
	return nil
}
