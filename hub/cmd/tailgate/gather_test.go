package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGather(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	gather := []string{"gather", "--hub", "http://127.0.0.1:1", "--file", path}
	out, says, err := run(t, federationOfThree(), gather...)
	if err != nil || out != "" || !strings.HasPrefix(says, "Wrote ") || !strings.Contains(says, path) {
		t.Fatalf("printed %q and %q, error %v", out, says, err)
	}
	made, err := os.Stat(path)
	if err != nil || made.Mode().Perm() != 0o600 || made.Size() == 0 {
		t.Errorf("made %v, %v; want a file for nobody else", made, err)
	}
	if _, _, err := run(t, federationOfThree(), gather...); err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("error %v, want the file to be kept", err)
	}
	out, _, err = run(t, federationOfThree(), "gather", "--hub", "http://127.0.0.1:1", "--file", "-")
	if err != nil || !strings.HasPrefix(out, "\x1f\x8b") {
		t.Errorf("to standard output: %d bytes, %v", len(out), err)
	}
}
