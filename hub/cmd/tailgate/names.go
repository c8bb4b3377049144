package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// findService returns the id of the service that a user means: NAME, NAMESPACE/NAME, or Kind/namespace/name in full.
func findService(ctx context.Context, api operator.API, name string) (federation.ServiceID, error) {
	if id, err := federation.ParseServiceID(name); err == nil {
		return id, nil
	}
	all, err := api.Services(ctx)
	if err != nil {
		return federation.ServiceID{}, err
	}
	var exact, near []string
	var found federation.ServiceID
	for _, s := range all {
		id := s.ID.ServiceID
		switch full := id.String(); {
		case id.Name == name || id.Namespace+"/"+id.Name == name:
			exact, found = append(exact, full), id
		case strings.Contains(full, name):
			near = append(near, full)
		}
	}
	switch {
	case len(exact) == 1:
		return found, nil
	case len(exact) > 1:
		return found, usagef("%q may be %s: give it in full", name, strings.Join(exact, ", "))
	case len(near) > 0:
		return found, fmt.Errorf("service %q is %w; did you mean %s?", name, operator.ErrNotFound, strings.Join(near[:min(len(near), 5)], ", "))
	}
	return found, fmt.Errorf("service %q is %w; see: tailgate services", name, operator.ErrNotFound)
}

// short is how tables name a service: without its kind where that is the usual one.
func short(id operator.ServiceID) string {
	if id.Kind == federation.KindService {
		return id.Namespace + "/" + id.Name
	}
	return id.String()
}

// completeClusters and completeServices ask the hub what may stand on the command line. Where it does not answer, nothing is
// offered.
func (t *tool) completeClusters(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	api, err := t.hub(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := api.Status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, c := range s.Clusters {
		out = append(out, string(c.ID))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) completeServices(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, err := t.hub(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := api.Services(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, s := range all {
		out = append(out, short(s.ID))
	}
	return slices.Sorted(slices.Values(out)), cobra.ShellCompDirectiveNoFileComp
}

// completeContexts offers those of the kubeconfig.
func (t *tool) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	config, err := t.kube("").RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
}
