package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/tailgate-project/tailgate/hub/verify"
)

func (t *tool) verifyCommand() *cobra.Command {
	var members []string
	cmd := &cobra.Command{
		Use: "verify [--member CONTEXT]...", Short: "Look at every hop of an installation, and say what is wrong and what to do", Args: cobra.NoArgs,
		Long: `Look at every hop of an installation, and say what is wrong and what to do.

The hub and its cluster are always looked at. Each member that --member names, by its context in the kubeconfig, is looked at
from its own side, too: its clock, Envoy Gateway, the spoke, its link to the hub, the proxies, the gateways, and whether requests
through them are answered by services in all clusters. Nothing is changed; the requests are GETs of /cross-cluster/ paths.

The first hop that failed is where to begin. The command ends with an error if any did.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := t.installation(members)
			if err != nil {
				return err
			}
			return t.verify(cmd, func(ctx context.Context) (verify.Picture, error) { return verify.Look(ctx, o) })
		},
	}
	cmd.Flags().StringSliceVar(&members, "member", nil, "`context` of the kubeconfig for a member to look at from its own side; may be repeated")
	must(cmd.RegisterFlagCompletionFunc("member", t.completeContexts))
	return cmd
}

// verify looks, prints what is found, and fails if a hop did.
func (t *tool) verify(cmd *cobra.Command, look func(context.Context) (verify.Picture, error)) error {
	picture, err := look(cmd.Context())
	if err != nil {
		return err
	}
	found := verify.Judge(picture)
	if err := t.print(cmd, found, func(w *page) { printFindings(w, found) }); err != nil {
		return err
	}
	failed := 0
	for _, f := range found {
		if f.Verdict == verify.Failed {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d hops failed", failed, len(found))
	}
	return nil
}

func printFindings(w *page, all []verify.Finding) {
	tones := map[verify.Verdict]tone{verify.OK: fine, verify.Warning: warn, verify.Failed: bad}
	rows := make([][]any, 0, len(all))
	for _, f := range all {
		rows = append(rows, []any{f.Where, f.Hop, cell{string(f.Verdict), tones[f.Verdict]}, f.Detail, f.SeenFrom})
	}
	w.columns([]string{"WHERE", "HOP", "VERDICT", "DETAIL"}, []string{"SEEN-FROM"}, rows)
	n := 0
	for _, f := range all {
		if f.Fix == "" {
			continue
		}
		if n++; n == 1 {
			fmt.Fprintln(w, "\nWhat to do, the first thing first:")
		}
		fmt.Fprintf(w, "%d. %s, %s: %s\n", n, f.Where, f.Hop, strings.TrimSuffix(f.Fix, "."))
	}
}

// cluster is the way to the cluster of a context.
func (t *tool) cluster(name string) (verify.Cluster, error) {
	config, err := t.kube(name).ClientConfig()
	if err != nil {
		return verify.Cluster{}, fmt.Errorf("context %q: %w; see: kubectl config get-contexts", name, err)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return verify.Cluster{}, fmt.Errorf("cluster: %w", err)
	}
	return verify.Cluster{Context: name, REST: config, Dial: podDialer(config, clients)}, nil
}
