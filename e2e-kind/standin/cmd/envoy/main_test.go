package main

import (
	"strings"
	"testing"
)

func TestSaysThatItIsAStandIn(t *testing.T) {
	for _, args := range [][]string{
		{"--version"},
		{"--mode", "validate", "--service-node", "n", "--service-cluster", "c", "--config-yaml", "{}"},
	} {
		var out, log strings.Builder
		if err := run(t.Context(), args, &out, &log); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "not Envoy") {
			t.Errorf("%v printed %q", args, out.String())
		}
	}
}
