package translate

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	specifierv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/router/cluster_specifiers/matcher/v3"
)

// lint drops what Envoy or Envoy Gateway would refuse, of ours only, because either would refuse everything else with
// it: what violates the API's constraints, expressions that do not compile, routes to clusters that do not exist and
// second claims to a domain. Of the route configurations it looks only at those that are copies already.
func lint(r *Resources, touched []*routev3.RouteConfiguration) []Note {
	var notes []Note
	drop := func(name string, err error) bool {
		if err != nil {
			notes = append(notes, Note{name, "dropped: " + err.Error()})
		}
		return err != nil
	}
	known := map[string]bool{}
	for i := 0; i < len(r.Clusters); {
		c := r.Clusters[i]
		var err error
		if ours(c.GetName()) {
			err = c.ValidateAll()
		}
		if drop(c.GetName(), err) {
			r.Clusters = slices.Delete(r.Clusters, i, i+1)
			continue
		}
		known[c.GetName()] = true
		i++
	}
	verdicts := map[*routev3.Route]error{}
	regexes := map[string]error{}
	for _, rc := range touched {
		domains := map[string]bool{}
		specifiers := map[string]bool{}
		rc.ClusterSpecifierPlugins = slices.DeleteFunc(rc.ClusterSpecifierPlugins, func(p *routev3.ClusterSpecifierPlugin) bool {
			name := p.GetExtension().GetName()
			specifiers[name] = !ours(name) || !drop(name, lintSpecifier(p))
			return !specifiers[name]
		})
		rc.VirtualHosts = slices.DeleteFunc(rc.VirtualHosts, func(vh *routev3.VirtualHost) bool {
			vh.Routes = slices.DeleteFunc(vh.Routes, func(route *routev3.Route) bool {
				if !ours(route.GetName()) {
					return false
				}
				err, ok := verdicts[route]
				if !ok {
					err = lintRoute(route, known, specifiers, regexes)
					verdicts[route] = err
				}
				return drop(route.GetName(), err)
			})
			var err error
			if ours(vh.GetName()) {
				err = lintHost(vh, domains)
			}
			for _, d := range vh.GetDomains() {
				domains[d] = true
			}
			return drop(vh.GetName(), err)
		})
	}
	return notes
}

func lintHost(vh *routev3.VirtualHost, domains map[string]bool) error {
	if len(vh.GetRoutes()) == 0 {
		return fmt.Errorf("no route is left")
	}
	for _, d := range vh.GetDomains() {
		if domains[d] {
			return fmt.Errorf("domain %s is in another virtual host", d)
		}
	}
	return nil
}

func lintSpecifier(p *routev3.ClusterSpecifierPlugin) error {
	var m specifierv3.MatcherClusterSpecifier
	if err := p.GetExtension().GetTypedConfig().UnmarshalTo(&m); err != nil {
		return err
	}
	return errors.Join(p.ValidateAll(), m.ValidateAll())
}

func lintRoute(r *routev3.Route, clusters, specifiers map[string]bool, regexes map[string]error) error {
	if err := r.ValidateAll(); err != nil {
		return err
	}
	for _, h := range r.GetMatch().GetHeaders() {
		if err := compiles(h.GetStringMatch().GetSafeRegex().GetRegex(), regexes); err != nil {
			return err
		}
	}
	a := r.GetRoute()
	if a == nil {
		return nil
	}
	if err := compiles(a.GetRegexRewrite().GetPattern().GetRegex(), regexes); err != nil {
		return err
	}
	if s := a.GetClusterSpecifierPlugin(); s != "" {
		if !specifiers[s] {
			return fmt.Errorf("cluster specifier %s does not exist", s)
		}
		return nil
	}
	if !clusters[a.GetCluster()] {
		return fmt.Errorf("cluster %s does not exist", a.GetCluster())
	}
	return nil
}

// compiles says what is wrong with an expression. Most stand in many routes, and known holds what was found before.
func compiles(regex string, known map[string]error) error {
	err, ok := known[regex]
	if !ok {
		_, err = regexp.Compile(regex)
		known[regex] = err
	}
	return err
}
