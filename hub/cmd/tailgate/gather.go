package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/hub/gather"
	"github.com/tailgate-project/tailgate/hub/verify"
)

func (t *tool) gatherCommand() *cobra.Command {
	var members []string
	var path string
	var logBytes int64
	cmd := &cobra.Command{
		Use: "gather [--member CONTEXT]...", Short: "Make a support bundle without secrets", Args: cobra.NoArgs,
		Long: `Make a support bundle without secrets.

It has what hub and spokes say of themselves, the newest decisions, the findings of tailgate verify, and the objects, pods and logs of
Tailgate and Envoy Gateway, of the management cluster and of each member that --member names. What cannot be had is said, and
keeps nothing else out: it is made for what is broken.

The data of Secrets is not read, values of containers' variables are left out, and what looks like a credential is replaced
everywhere. Names and addresses stay: look into it before you give it away.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := t.installation(members)
			if err != nil {
				return err
			}
			return t.gather(cmd, path, gather.Options{Verify: o, Version: version(), Now: t.now(), LogBytes: logBytes})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&members, "member", nil, "`context` of the kubeconfig for a member to look at from its own side; may be repeated")
	f.StringVarP(&path, "file", "f", "", "`file` to write, - for standard output (default: tailgate-TIME.tar.gz)")
	f.Int64Var(&logBytes, "log-bytes", 4<<20, "how much of each container's log to take, in `bytes`")
	must(cmd.RegisterFlagCompletionFunc("member", t.completeContexts))
	return cmd
}

// installation is the one that the flags name.
func (t *tool) installation(members []string) (verify.Options, error) {
	o := verify.Options{Hub: t.hub, Namespace: t.namespace}
	if t.url == "" {
		config, err := t.rest()
		if err != nil {
			return o, err
		}
		o.Management = &verify.Cluster{REST: config}
	}
	for _, m := range members {
		c, err := t.cluster(m)
		if err != nil {
			return o, usagef("--member: %w", err)
		}
		o.Members = append(o.Members, c)
	}
	return o, nil
}

// gather writes the bundle, and says what is in it. A file that is there is not overwritten; half a bundle is not left.
func (t *tool) gather(cmd *cobra.Command, path string, o gather.Options) error {
	out, says := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if path != "-" {
		path = cmp.Or(path, "tailgate-"+o.Now.UTC().Format("20060102T150405Z")+".tar.gz")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return usagef("--file: %w", err)
		}
		summary, err := gather.Write(cmd.Context(), f, o)
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		printGathered(says, path, summary)
		return nil
	}
	summary, err := gather.Write(cmd.Context(), out, o)
	if err != nil {
		return err
	}
	printGathered(says, "standard output", summary)
	return nil
}

func printGathered(w io.Writer, path string, s gather.Summary) {
	fmt.Fprintf(w, "Wrote %d files to %s; %d times a credential was replaced.\n", len(s.Files), path, s.Redacted)
	for _, m := range s.Missing {
		fmt.Fprintln(w, "Missing:", m)
	}
}
