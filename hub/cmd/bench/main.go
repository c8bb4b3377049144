// Command bench measures the hub's core and its stores, without a network and without waiting for anybody. It prints a
// JSON line for each measurement, beside a baseline of the same run: machines differ, ratios less so.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// line is one measurement.
type line struct {
	Name string `json:"name"`
	// Unit is of Value and Baseline.
	Unit     string  `json:"unit"`
	Value    float64 `json:"value"`
	Baseline float64 `json:"baseline"`
	// Of says what the baseline is; Ratio is Value / Baseline.
	Of     string  `json:"baseline_is"`
	Ratio  float64 `json:"ratio"`
	Target string  `json:"target"`
	Met    bool    `json:"met"`
	Where  string  `json:"where"`
}

// measurement is what one part of the program measures.
type measurement struct {
	name string
	run  func(ctx context.Context, print func(line)) error
}

var measurements = []measurement{
	{"flap", flap},
	{"memory", memory},
	{"drain", drain},
	{"commit", commit},
	{"load", load},
}

func main() {
	only := flag.String("only", "", "comma-separated `names` of what to measure (default: all)")
	flag.Parse()
	if err := run(context.Background(), *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	out := json.NewEncoder(os.Stdout)
	for _, m := range measurements {
		if only != "" && !slices.Contains(strings.Split(only, ","), m.name) {
			continue
		}
		var failed error
		print := func(l line) {
			l.Ratio = l.Value / l.Baseline
			if err := out.Encode(l); err != nil {
				failed = err
			}
		}
		if err := m.run(ctx, print); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// The words of the federation that stand often here.
type (
	clusterID = federation.ClusterID
	key       = federation.ExportKey
)

func change(e vip.Entry) vip.Change { return vip.Change{Entry: e} }

func sortServices(ids []federation.ServiceID) { slices.SortFunc(ids, federation.ServiceID.Compare) }
