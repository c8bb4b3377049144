package translate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// Note says of one item why it is not as it was asked for.
type Note struct {
	// Item is what the note is about: a path, a host, a service or one of our resources.
	Item string
	Text string
}

// The first path segments of the routes that every gateway has.
const (
	crossCluster = "/cross-cluster"
	ownGateway   = "/gateway"
)

const defaultDomain = "gateway.local"

// candidate is a wish for a text, which is a path or a host.
type candidate struct {
	text    string
	service federation.ServiceID
	// cluster is empty for the federated service.
	cluster federation.ClusterID
}

// target returns the Envoy cluster that the text leads to.
func (c candidate) target() string {
	if c.cluster == "" {
		return ClusterName(c.service)
	}
	return ClusterNameIn(c.service, c.cluster)
}

// dotted returns the path that nothing else can have, because none of its three parts contains a dot.
func (c candidate) dotted() string {
	path := crossCluster + "/" + c.service.Name + "." + c.service.Namespace
	if c.cluster != "" {
		path += "." + string(c.cluster)
	}
	return path
}

func (c candidate) compare(o candidate) int {
	return cmp.Or(cmp.Compare(c.text, o.text), cmp.Compare(c.service.Name, o.service.Name),
		cmp.Compare(c.cluster, o.cluster), cmp.Compare(c.service.Namespace, o.service.Namespace))
}

// resolve gives each text to one candidate at most. Where different names make the same text ("a-b" in c, "a" in
// b-c), the first in order has it. Where only the namespace differs, nobody has it: the order of namespaces means
// nothing, and guessing would send requests to a stranger.
func resolve(all []candidate) ([]candidate, []Note) {
	slices.SortFunc(all, candidate.compare)
	all = slices.Compact(all)
	var won []candidate
	var notes []Note
	for len(all) > 0 {
		first := all[0]
		n := 1
		for n < len(all) && all[n].text == first.text {
			n++
		}
		same, clash := all[:n], false
		all = all[n:]
		for _, c := range same[1:] {
			clash = clash || (c.service.Name == first.service.Name && c.cluster == first.cluster)
		}
		if !clash {
			won = append(won, first)
		}
		for i, c := range same {
			switch {
			case clash:
				notes = append(notes, Note{c.text, fmt.Sprintf("several namespaces have a service of this name, so the text leads nowhere; %s/%s is at %s/",
					c.service.Namespace, c.service.Name, c.dotted())})
			case i > 0:
				notes = append(notes, Note{c.text, fmt.Sprintf("belongs to %s already; %s is at %s/", first.describe(), c.describe(), c.dotted())})
			}
		}
	}
	return won, notes
}

func (c candidate) describe() string {
	s := c.service.Namespace + "/" + c.service.Name
	if c.cluster != "" {
		s += " in " + string(c.cluster)
	}
	return s
}

// crossPaths returns the candidates of /cross-cluster/, plain and dotted.
func crossPaths(services []Service) []candidate {
	var out []candidate
	add := func(c candidate, plain string) {
		c.text = crossCluster + "/" + plain
		out = append(out, c)
		c.text = c.dotted()
		out = append(out, c)
	}
	for _, s := range services {
		add(candidate{service: s.ID}, s.ID.Name)
		for _, m := range s.Clusters {
			add(candidate{service: s.ID, cluster: m}, s.ID.Name+"-"+string(m))
		}
	}
	return out
}

var (
	pathText    = regexp.MustCompile(`^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*$`)
	placeholder = regexp.MustCompile(`\{[^}]*\}`)
)

// expand returns the candidates of a pattern for the services of a tailnet.
func expand(pattern string, t Tailnet, services []Service) []candidate {
	var out []candidate
	for _, s := range services {
		if len(s.Tailnets) > 0 && t.Ref != "" && !slices.Contains(s.Tailnets, t.Ref) {
			continue
		}
		members := []federation.ClusterID{""}
		if strings.Contains(pattern, "{cluster}") {
			members = s.Clusters
		}
		for _, m := range members {
			text := strings.NewReplacer("{service}", s.ID.Name, "{namespace}", s.ID.Namespace, "{cluster}", string(m),
				"{tailnet}", t.Name, "{domain}", defaultDomain).Replace(pattern)
			out = append(out, candidate{text: text, service: s.ID, cluster: m})
		}
	}
	return out
}

// checkPattern says what is wrong with a pattern, or nothing.
func checkPattern(pattern string) string {
	for _, p := range placeholder.FindAllString(pattern, -1) {
		if !slices.Contains([]string{"{service}", "{namespace}", "{cluster}", "{tailnet}", "{domain}"}, p) {
			return "knows no " + p + "; use {service}, {namespace}, {cluster}, {tailnet} or {domain}"
		}
	}
	if !strings.Contains(pattern, "{service}") {
		return "must contain {service}, or all services would be at the same place"
	}
	return ""
}

// checkHost says what is wrong with a host name, or nothing.
func checkHost(host string) string {
	if len(host) > 253 {
		return "is longer than 253 bytes"
	}
	for label := range strings.SplitSeq(host, ".") {
		if !federation.IsLabel(label) {
			return fmt.Sprintf("is no host name: %q is no RFC 1123 label", label)
		}
	}
	return ""
}

// checkPath says what is wrong with a path without its last slash, or nothing.
func checkPath(path string) string {
	if !pathText.MatchString(path) {
		return "is no path: it must start with '/' and have no empty segment and no '?', '#', '%' or space"
	}
	return ""
}

// usable returns the services that can have routes, sorted and each once.
func usable(in []Service) ([]Service, []Note) {
	var out []Service
	var notes []Note
	for _, s := range in {
		switch {
		case s.ID.Kind != federation.KindService:
			notes = append(notes, Note{s.ID.String(), "listeners of other clusters have no routes of their own; reach them by their VIP"})
		case unroutable(s.App) != "":
			notes = append(notes, Note{s.ID.String(), unroutable(s.App) + "; reach it by its VIP"})
		case !federation.IsLabel(s.ID.Name) || !federation.IsLabel(s.ID.Namespace):
			notes = append(notes, Note{s.ID.String(), "namespace and name must be RFC 1123 labels"})
		default:
			s.Clusters = slices.Compact(slices.Sorted(slices.Values(s.Clusters)))
			s.Clusters = slices.DeleteFunc(s.Clusters, func(c federation.ClusterID) bool {
				err := c.Validate()
				if err != nil {
					notes = append(notes, Note{s.ID.String(), err.Error()})
				}
				return err != nil
			})
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Service) int {
		return cmp.Or(a.ID.Compare(b.ID), slices.Compare(a.Clusters, b.Clusters), slices.Compare(a.Tailnets, b.Tailnets), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.App, b.App))
	})
	return slices.CompactFunc(out, func(a, b Service) bool { return a.ID == b.ID }), notes
}

func compareListeners(a, b Listener) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port))
}

func compareGateways(a, b Gateway) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.TailscaleGateway, b.TailscaleGateway),
		cmp.Compare(a.Policy, b.Policy))
}
