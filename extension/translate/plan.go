package translate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// wish is one route that a gateway should have: a path (without its last slash; empty for all paths) to an Envoy
// cluster.
type wish struct {
	path   string
	target string
	// app is what the target speaks.
	app federation.AppProtocol
	// family is the first segment whose wishes share one loop guard; empty for a guard of its own.
	family string
	// made is which of a tailnet's templates made it, if one did.
	made template
	// hop is what the route appends to the hop header.
	hop string
	// local is set for a route to the gateway's own listener, which leaves retries and time limits to the routes
	// that it meets there.
	local bool
}

// template is one of a tailnet's.
type template int

const (
	fromIngress template = iota + 1
	fromEgress
)

// same reports whether both lead from the same place to the same target, whatever made them.
func (w wish) same(o wish) bool {
	w.made = o.made
	return w == o
}

// plan is what the gateways of one route configuration should have.
type plan struct {
	// paths stand in each virtual host, longest first.
	paths []wish
	// hosts are by domain.
	hosts map[string][]wish
	// local are the listeners that wishes lead to, by Envoy cluster name.
	local map[string]Listener
}

// planner makes the plans of one snapshot.
type planner struct {
	cluster  federation.ClusterID
	services []Service
	apps     map[federation.ServiceID]federation.AppProtocol
	cross    []candidate
	notes    []Note
}

func newPlanner(s Snapshot, t thrift) *planner {
	services, notes := usable(s.Services)
	cross, clashes := resolve(crossPaths(services))
	if t >= plainOnly {
		plain := map[string]bool{}
		for _, c := range cross {
			plain[c.target()] = plain[c.target()] || c.text != c.dotted()
		}
		cross = slices.DeleteFunc(cross, func(c candidate) bool { return c.text == c.dotted() && plain[c.target()] })
	}
	apps := make(map[federation.ServiceID]federation.AppProtocol, len(services))
	for _, svc := range services {
		apps[svc.ID] = svc.App
	}
	return &planner{cluster: s.Cluster, services: services, apps: apps, cross: cross, notes: append(notes, clashes...)}
}

func (p *planner) note(item, text string) { p.notes = append(p.notes, Note{item, text}) }

// plan returns what the gateways want together. The first to want a path or a host has it.
func (p *planner) plan(gateways []Gateway) plan {
	out := plan{hosts: map[string][]wish{}, local: map[string]Listener{}}
	taken := map[string]wish{}
	add := func(w wish) {
		first, ok := taken[w.path]
		if !ok {
			taken[w.path] = w
			out.paths = append(out.paths, w)
		} else if !first.same(w) { // a service that is in two tailnets may be at one place by the templates of both
			p.note(w.path, "is taken by another route of ours")
		}
	}
	for _, c := range p.cross {
		add(wish{path: c.text, target: c.target(), app: p.apps[c.service], family: crossCluster, hop: string(p.cluster)})
	}
	for _, g := range gateways {
		for _, l := range g.Listeners {
			name := localCluster(g, l)
			out.local[name] = l
			path := ownGateway + "/" + g.Name + "-" + l.Name
			if _, ok := taken[path]; ok {
				// Two gateways of two TailscaleGateways, or the clash of "a-b" with "c" and "a" with "b-c".
				if !slices.ContainsFunc(out.paths, func(w wish) bool { return w.target == name }) {
					p.note(path, "is taken by another listener; "+g.Namespace+"/"+g.Name+"'s "+l.Name+" has no path")
				}
				continue
			}
			add(wish{path: path, target: name, family: ownGateway, local: true, hop: string(p.cluster) + "/" + g.Namespace + "/" + g.Name})
		}
		for _, t := range g.Tailnets {
			for _, c := range p.templated(t.Egress, t.Egress.PathPrefix, t) {
				path := strings.TrimSuffix(c.text, "/")
				if bad := checkPath(path); bad != "" {
					p.note(c.text, bad)
					continue
				}
				add(wish{path: path, target: c.target(), app: p.apps[c.service], made: fromEgress, hop: string(p.cluster)})
			}
			p.addHosts(out.hosts, t, fromIngress)
			p.addHosts(out.hosts, t, fromEgress)
		}
	}
	slices.SortFunc(out.paths, compareWishes)
	return out
}

// addHosts adds the hosts of a template. The path of an egress template stands in each virtual host, that of an ingress
// template under its hosts.
func (p *planner) addHosts(hosts map[string][]wish, in Tailnet, made template) {
	t, path := in.Egress, ""
	if made == fromIngress {
		t, path = in.Ingress, strings.TrimSuffix(in.Ingress.PathPrefix, "/")
	}
	for _, c := range p.templated(t, t.HostPattern, in) {
		host := strings.ToLower(c.text)
		if bad := checkHost(host); bad != "" {
			p.note(host, bad)
			continue
		}
		w := wish{path: strings.NewReplacer("{service}", c.service.Name, "{namespace}", c.service.Namespace,
			"{cluster}", string(c.cluster), "{tailnet}", in.Name, "{domain}", defaultDomain).Replace(path),
			target: c.target(), app: p.apps[c.service], made: made, hop: string(p.cluster)}
		if bad := checkPath(w.path); bad != "" {
			p.note(host+w.path, bad)
			continue
		}
		if slices.ContainsFunc(hosts[host], func(o wish) bool { return o.path == w.path }) {
			if !slices.ContainsFunc(hosts[host], w.same) {
				p.note(host+w.path, "is taken by another route of ours; "+c.describe()+" is at "+c.dotted()+"/")
			}
			continue
		}
		hosts[host] = append(hosts[host], w)
		slices.SortFunc(hosts[host], compareWishes)
	}
}

// templated returns who has what a template's pattern makes.
func (p *planner) templated(t RouteTemplate, pattern string, in Tailnet) []candidate {
	if pattern == "" {
		return nil
	}
	if t.Protocol != "" && t.Protocol != "HTTP" && t.Protocol != "HTTPS" {
		p.note(pattern, "protocol "+t.Protocol+" has no routes; use HTTP or HTTPS")
		return nil
	}
	if bad := checkPattern(pattern); bad != "" {
		p.note(pattern, bad)
		return nil
	}
	won, notes := resolve(expand(pattern, in, p.services))
	p.notes = append(p.notes, notes...)
	return won
}

// compareWishes puts longer paths first, so that a path below another one is met first.
func compareWishes(a, b wish) int {
	return cmp.Or(cmp.Compare(len(b.path), len(a.path)), cmp.Compare(a.path, b.path))
}

// targets returns all Envoy clusters of services that the plan leads to, and what they speak.
func (p plan) targets() map[string]federation.AppProtocol {
	out := map[string]federation.AppProtocol{}
	add := func(ws []wish) {
		for _, w := range ws {
			if !w.local {
				out[w.target] = w.app
			}
		}
	}
	add(p.paths)
	for _, ws := range p.hosts {
		add(ws)
	}
	return out
}

// localCluster returns the name of the Envoy cluster of a gateway's own listener.
func localCluster(g Gateway, l Listener) string {
	return Prefix + "gateway/" + g.Namespace + "/" + g.Name + "/" + l.Name
}
