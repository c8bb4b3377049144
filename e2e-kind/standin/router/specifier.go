package router

import (
	"fmt"
	"net/http"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	specifierv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/router/cluster_specifiers/matcher/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// specifier returns the cluster that a request goes to, or "" where it finds none, which is then not there.
type specifier func(*http.Request) string

// compileSpecifiers compiles the cluster specifiers of a route configuration, by name.
func compileSpecifiers(in *routev3.RouteConfiguration) (map[string]specifier, error) {
	out := map[string]specifier{}
	for _, p := range in.GetClusterSpecifierPlugins() {
		name := p.GetExtension().GetName()
		if out[name] != nil {
			return nil, fmt.Errorf("cluster specifier plugin %s is there twice", name)
		}
		var m specifierv3.MatcherClusterSpecifier
		if err := p.GetExtension().GetTypedConfig().UnmarshalTo(&m); err != nil {
			return nil, fmt.Errorf("cluster specifier plugin %s: %w", name, err)
		}
		find, err := compileMatcher(m.GetClusterMatcher())
		if err != nil {
			return nil, fmt.Errorf("cluster specifier plugin %s: %w", name, err)
		}
		out[name] = find
	}
	return out, nil
}

// compileMatcher compiles a tree over the value of a request header whose leaves name clusters.
func compileMatcher(in *xdsmatcherv3.Matcher) (specifier, error) {
	tree := in.GetMatcherTree()
	var input matcherv3.HttpRequestHeaderMatchInput
	if err := tree.GetInput().GetTypedConfig().UnmarshalTo(&input); err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	otherwise, err := clusterOf(in.GetOnNoMatch())
	if err != nil {
		return nil, err
	}
	clusters := map[string]string{}
	exact := tree.GetExactMatchMap().GetMap()
	for value, leaf := range tree.GetPrefixMatchMap().GetMap() {
		if clusters[value], err = clusterOf(leaf); err != nil {
			return nil, err
		}
	}
	for value, leaf := range exact {
		if clusters[value], err = clusterOf(leaf); err != nil {
			return nil, err
		}
	}
	return func(r *http.Request) string {
		value, ok := Header(r, input.GetHeaderName())
		for ok {
			if cluster, found := clusters[value]; found {
				return cluster
			}
			if exact != nil || value == "" {
				break
			}
			value = value[:len(value)-1] // the longest prefix wins
		}
		return otherwise
	}, nil
}

// clusterOf returns the cluster that a leaf names, "" for no leaf.
func clusterOf(leaf *xdsmatcherv3.Matcher_OnMatch) (string, error) {
	if leaf == nil {
		return "", nil
	}
	var action specifierv3.ClusterAction
	if err := leaf.GetAction().GetTypedConfig().UnmarshalTo(&action); err != nil {
		return "", fmt.Errorf("action: %w", err)
	}
	return action.GetCluster(), nil
}
