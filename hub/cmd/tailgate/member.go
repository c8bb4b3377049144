package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
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
	var cluster string
	cmd := &cobra.Command{
		Use: "leave --cluster CLUSTER", Short: "Have a cluster leave the federation", Args: cobra.NoArgs,
		Long: `Have a cluster leave the federation.

Its MemberCluster is deleted: the others stop using it at once, and its VIPs rest for the hub's --quarantine before they are
deleted from the tailnet. It does not matter whether the cluster is still there. Drain it first if requests go there:

  tailgate drain cluster1 && tailgate leave --cluster cluster1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := t.rest()
			if err != nil {
				return err
			}
			scheme := runtime.NewScheme()
			if err := v1alpha1.AddToScheme(scheme); err != nil {
				return fmt.Errorf("leave: %w", err)
			}
			c, err := client.New(config, client.Options{Scheme: scheme})
			if err != nil {
				return fmt.Errorf("management cluster: %w", err)
			}
			return leave(cmd.Context(), c, federation.ClusterID(cluster), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "`id` of the member (required)")
	must(cmd.MarkFlagRequired("cluster"))
	must(cmd.RegisterFlagCompletionFunc("cluster", t.completeClusters))
	return cmd
}

// leave deletes a member's object and says what is left to do in the member itself.
func leave(ctx context.Context, c client.Client, id federation.ClusterID, out io.Writer) error {
	err := c.Delete(ctx, &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: string(id)}})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no MemberCluster %s; see: kubectl get memberclusters", id)
	case err != nil:
		return fmt.Errorf("delete the MemberCluster %s: %w", id, err)
	}
	fmt.Fprintf(out, `%s has left. In the cluster itself, if it is still there:

  kubectl delete tailscalegateways,tailscaleendpoints --all --all-namespaces
  helm uninstall tailgate-spoke -n %s

And in the tailnet, delete the devices tailgate-spoke-%[1]s and those of its proxies.
`, id, spokeNamespace)
	return nil
}
