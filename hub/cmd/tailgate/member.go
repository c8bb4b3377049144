package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/departure"
)

// What the spoke's chart looks for.
const (
	spokeNamespace = "tailgate-system"
	joinKeySecret  = "tailgate-spoke-join-key"
	joinKeyField   = "authkey"
)

func (t *tool) joinCommand() *cobra.Command {
	var cluster, values string
	cmd := &cobra.Command{
		Use: "join --cluster CLUSTER", Short: "Let a cluster in, and print what it needs", Args: cobra.NoArgs,
		Long: `Let a cluster in, and print what it needs.

The hub accepts the cluster and makes a key with which its spoke can join the tailnet once, within the hour. The key is printed
in a Secret, for the member cluster:

  tailgate join --cluster cluster1 --values cluster1.yaml | kubectl --context cluster1 apply -f -
  helm --kube-context cluster1 install tailgate-spoke deploy/charts/tailgate-spoke -n tailgate-system -f cluster1.yaml

A cluster's id is chosen once: a member is never renamed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id := federation.ClusterID(cluster)
			if err := id.Validate(); err != nil {
				return usageError{fmt.Errorf("--cluster: %w", err)}
			}
			api, err := t.hub(cmd.Context())
			if err != nil {
				return err
			}
			i, err := api.Invite(cmd.Context(), id)
			if err != nil {
				return err
			}
			if values != "" {
				if err := writeValues(values, i); err != nil {
					return err
				}
			}
			if err := writeSecret(cmd.OutOrStdout(), i); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s is let in. Its key is good for one node, until %s.\n", id, i.Expires.UTC().Format("15:04 MST"))
			return nil
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "`id` of the new member, a DNS label (required)")
	cmd.Flags().StringVar(&values, "values", "", "`file` to write the values to that the spoke's chart needs; they are no secret")
	must(cmd.MarkFlagRequired("cluster"))
	return cmd
}

// writeValues writes what the chart tailgate-spoke has to know.
func writeValues(path string, i operator.Invitation) error {
	values := map[string]any{
		"cluster": map[string]any{"id": i.Cluster},
		"hub":     map[string]any{"address": i.Hub, "tag": i.HubTag},
	}
	if i.ControlURL != "" {
		values["controlURL"] = i.ControlURL
	}
	data, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("--values: %w", err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("--values: %w", err)
	}
	return nil
}

// writeSecret writes the namespace and the Secret with the join key, as YAML.
func writeSecret(w io.Writer, i operator.Invitation) error {
	for _, object := range []any{
		&corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: spokeNamespace},
		},
		&corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Name: joinKeySecret, Namespace: spokeNamespace},
			StringData: map[string]string{joinKeyField: i.AuthKey},
		},
	} {
		data, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("print the Secret: %w", err)
		}
		if _, err := fmt.Fprintf(w, "---\n%s", data); err != nil {
			return fmt.Errorf("print the Secret: %w", err)
		}
	}
	return nil
}

func (t *tool) leaveCommand() *cobra.Command {
	l := leaver{tool: t}
	cmd := &cobra.Command{
		Use: "leave --cluster CLUSTER", Short: "Have a cluster leave the federation for good", Args: cobra.NoArgs,
		Long: `Have a cluster leave the federation for good.

The others stop using it at once, and the hub deletes the devices of its spoke and proxies and its VIPs from the tailnets. It does
not matter whether the cluster is still there. Drain it first if requests go there:

  tailgate drain cluster1 && tailgate leave --cluster cluster1 --member kind-cluster1

With --member, what Tailgate has made in the cluster itself is deleted, too: TailscaleGateways, the proxies, the Services of VIPs,
certificates. The spoke is stopped. It does not matter whether the hub, or the spoke, is still there. Said again, it does what could
not be done the first time.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&l.cluster, "cluster", "", "`id` of the member (required)")
	f.StringVar(&l.member, "member", "", "`context` of the kubeconfig for the member itself, to clean it, too")
	f.BoolVarP(&l.yes, "yes", "y", false, "do not ask")
	f.DurationVar(&l.timeout, "timeout", 2*time.Minute, "how long objects of the member may take to go")
	must(cmd.MarkFlagRequired("cluster"))
	must(cmd.RegisterFlagCompletionFunc("cluster", t.completeClusters))
	must(cmd.RegisterFlagCompletionFunc("member", t.completeContexts))
	return cmd
}

// leaver sees a cluster out, on both sides.
type leaver struct {
	*tool

	cluster, member string
	yes             bool
	timeout         time.Duration
}

func (l *leaver) run(cmd *cobra.Command) error {
	id := federation.ClusterID(l.cluster)
	if err := id.Validate(); err != nil {
		return usageError{fmt.Errorf("--cluster: %w", err)}
	}
	if err := l.agreed(cmd); err != nil {
		return err
	}
	hubErr := l.fromHub(cmd, id)
	if l.member == "" {
		if hubErr == nil {
			l.printRest(cmd)
		}
		return hubErr
	}
	if errors.Is(hubErr, operator.ErrNotFound) { // it has left before
		fmt.Fprintf(cmd.OutOrStdout(), "To the hub, %v.\n", hubErr)
		hubErr = nil
	}
	if err := l.fromMember(cmd); err != nil {
		return errors.Join(hubErr, err)
	}
	l.printRest(cmd)
	return hubErr
}

// agreed asks whoever sits at the terminal.
func (l *leaver) agreed(cmd *cobra.Command) error {
	if l.yes {
		return nil
	}
	if in, ok := cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("nobody can be asked here: say --yes to have %s leave for good", l.cluster)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s leaves for good: its VIPs and devices are deleted. Go on? [y/N] ", l.cluster)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y") {
		return errors.New("nothing was done")
	}
	return nil
}

// fromHub has the hub see the member out.
func (l *leaver) fromHub(cmd *cobra.Command, id federation.ClusterID) error {
	var d operator.Departure
	api, err := l.hub(cmd.Context())
	if err == nil {
		d, err = api.Leave(cmd.Context(), id)
	}
	switch {
	case errors.Is(err, errNoHub):
		return l.withoutHub(cmd, id, err)
	case errors.Is(err, operator.ErrNotFound), errors.Is(err, operator.ErrForbidden):
		return err
	case err != nil:
		return fmt.Errorf("the hub has not seen %s out: %w; say it again once the hub runs", id, err)
	}
	out := cmd.OutOrStdout()
	when := "are deleted now"
	if d.Resting {
		when = "rest for the hub's --quarantine and are deleted then, because of what is left"
	}
	fmt.Fprintf(out, "%s has left. %d VIPs %s; %d devices were deleted.\n", id, len(d.VIPs), when, d.Devices)
	for _, left := range d.Left {
		fmt.Fprintln(out, "Left:", left)
	}
	return nil
}

// withoutHub deletes the MemberCluster where no hub is left to do so, and says what it leaves in the tailnets.
func (l *leaver) withoutHub(cmd *cobra.Command, id federation.ClusterID, noHub error) error {
	config, err := l.rest()
	if err != nil {
		return err
	}
	c, err := departure.NewClient(config)
	if err != nil {
		return err
	}
	object := &v1alpha1.MemberCluster{}
	err = c.Get(cmd.Context(), client.ObjectKey{Name: string(id)}, object)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return fmt.Errorf("MemberCluster %s is %w, and there is %w", id, operator.ErrNotFound, noHub)
	}
	if err == nil {
		err = c.Delete(cmd.Context(), object, client.Preconditions{UID: &object.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("there is %w; delete the MemberCluster %s: %w", noHub, id, err)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "There is no hub any more. The MemberCluster %s is deleted; the tailnets are not changed. Delete in the admin console:\n", id)
	for _, d := range append(object.Status.Devices, v1alpha1.MemberDevice{NodeID: object.Status.NodeID}) {
		if d.NodeID != "" {
			fmt.Fprintf(out, "Left: device %s of %s\n", d.NodeID, cmp.Or(d.Tailnet, "the tailnet of hub and spokes"))
		}
	}
	fmt.Fprintf(out, "Left: the Tailscale Services of %s; a hub that is installed again with its --federation deletes them once they have rested\n", id)
	return nil
}

// fromMember cleans the cluster itself.
func (l *leaver) fromMember(cmd *cobra.Command) error {
	config, err := l.kube(l.member).ClientConfig()
	if err != nil {
		return usagef("--member: context %q: %w; see: kubectl config get-contexts", l.member, err)
	}
	c, err := departure.NewClient(config)
	if err != nil {
		return err
	}
	r, err := departure.Clean(cmd.Context(), c, departure.Options{Namespace: l.namespace, Timeout: l.timeout})
	var counts []string
	for _, kind := range slices.Sorted(maps.Keys(r.Deleted)) {
		counts = append(counts, fmt.Sprintf("%d %s", r.Deleted[kind], kind))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Deleted in %s: %s.\n", l.member, cmp.Or(strings.Join(counts, ", "), "nothing, for there was nothing"))
	for _, kept := range r.Kept {
		fmt.Fprintf(cmd.OutOrStdout(), "Kept: TailscaleEndpoints %s, which you wrote.\n", kept)
	}
	if err != nil {
		return fmt.Errorf("clean %s: %w", l.member, err)
	}
	return nil
}

// printRest says what is left to do in the member itself.
func (l *leaver) printRest(cmd *cobra.Command) {
	on := l.member
	if on == "" {
		on = "CONTEXT"
		fmt.Fprintf(cmd.OutOrStdout(), "\nIn the cluster itself, if it is still there:\n\n  tailgate leave --cluster %s --member %s\n", l.cluster, on)
	} else {
		fmt.Fprint(cmd.OutOrStdout(), "\nWhat helm has installed, helm takes away:\n\n")
	}
	fmt.Fprintf(cmd.OutOrStdout(), "  helm --kube-context %s uninstall tailgate-spoke -n %s\n", on, l.namespace)
}
