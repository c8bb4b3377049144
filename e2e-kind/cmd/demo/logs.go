package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keepLogsEnv keeps the logs of a demo that failed.
const keepLogsEnv = "KEEP_LOGS"

// saveLogs copies the logs of all processes, which would go with everything else, if the environment asks for it.
func saveLogs(run, to string) error {
	if os.Getenv(keepLogsEnv) == "" {
		fmt.Fprintf(os.Stderr, "demo: run it again with %s=1 to keep the logs of all processes\n", keepLogsEnv)
		return nil
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	var errs []error
	walk := filepath.WalkDir(run, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") {
			return err
		}
		rel, err := filepath.Rel(run, path)
		if err == nil {
			err = copyFile(path, filepath.Join(to, rel))
		}
		errs = append(errs, err)
		return nil
	})
	fmt.Fprintln(os.Stderr, "demo: the logs are in", to)
	return errors.Join(append(errs, walk)...)
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
