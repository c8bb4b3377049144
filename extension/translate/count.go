package translate

// RouteCount is how many places a Gateway offers services at: paths, and paths of hosts.
type RouteCount struct {
	// Ingress and Egress come from the templates of these names, CrossCluster are those below /cross-cluster/.
	Ingress, Egress, CrossCluster int
}

// CountRoutes returns what each Gateway of a snapshot offers where nothing stands in the way: routes of the user's own at
// one of the places come first there. The Gateways are in the order of the snapshot.
func CountRoutes(s Snapshot) []RouteCount {
	p := newPlanner(s, whole)
	out := make([]RouteCount, 0, len(s.Gateways))
	for _, g := range s.Gateways {
		var n RouteCount
		plan := p.plan([]Gateway{g})
		for _, w := range plan.paths {
			n.add(w)
		}
		for _, ws := range plan.hosts {
			for _, w := range ws {
				n.add(w)
			}
		}
		out = append(out, n)
	}
	return out
}

func (n *RouteCount) add(w wish) {
	switch {
	case w.family == crossCluster:
		n.CrossCluster++
	case w.made == fromIngress:
		n.Ingress++
	case w.made == fromEgress:
		n.Egress++
	}
}
