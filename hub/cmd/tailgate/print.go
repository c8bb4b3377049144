package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// print writes a value in the format that was asked for. A table is written by the function.
func (t *tool) print(cmd *cobra.Command, v any, table func(w io.Writer)) error {
	switch t.format {
	case "table", "":
		table(cmd.OutOrStdout())
		return nil
	case "json":
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(data))
		return err
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = cmd.OutOrStdout().Write(data)
		return err
	}
	return usagef("--output %q: want table, json or yaml", t.format)
}

// columns writes rows under a head, aligned. An empty cell is a dash, so that columns can be told apart.
func columns(w io.Writer, head string, rows [][]string) {
	out := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(out, strings.Join(strings.Fields(head), "\t"))
	for _, r := range rows {
		for i, cell := range r {
			if cell == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(out, strings.Join(r, "\t"))
	}
	_ = out.Flush() // as with all writes to the terminal, there is nobody to tell
}

// age says how long ago a time was, in one unit; nothing if it never was.
func age(now, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	switch d := now.Sub(at); {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// health says in a word how a subject is.
func health(v operator.Verdict) string {
	word := v.Health.String()
	switch {
	case v.Stale:
		word += " (stale)"
	case v.Health == federation.Healthy && v.Share < 100:
		word += fmt.Sprintf(" (%d%%)", v.Share)
	}
	return word
}

func addresses(all []netip.Addr) string {
	var out []string
	for _, a := range all {
		if a.Is4() {
			out = append(out, a.String())
		}
	}
	if len(out) == 0 && len(all) > 0 {
		out = append(out, all[0].String())
	}
	return strings.Join(out, ",")
}

func ports(all []operator.Port) string {
	var out []string
	for _, p := range all {
		out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return strings.Join(out, ",")
}
