package endpoints

import (
	"cmp"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// Diff says how to come from the old sets to the new ones: changed are the new sets that are not among the old or say
// something else there, removed the old ones whose consumer and service have no new one. So old - removed + changed =
// new. There is one set for each consumer and service, in any order; both results are sorted by consumer and service.
func Diff(old, new []federation.EndpointSet) (changed, removed []federation.EndpointSet) {
	old, new = inOrder(old), inOrder(new)
	for len(old) > 0 && len(new) > 0 {
		switch c := compareSets(old[0], new[0]); {
		case c < 0:
			removed, old = append(removed, old[0]), old[1:]
		case c > 0:
			changed, new = append(changed, new[0]), new[1:]
		default:
			if !Equal(old[0], new[0]) {
				changed = append(changed, new[0])
			}
			old, new = old[1:], new[1:]
		}
	}
	return append(changed, new...), append(removed, old...)
}

func compareSets(a, b federation.EndpointSet) int {
	if c := cmp.Compare(a.Consumer, b.Consumer); c != 0 {
		return c
	}
	return a.Service.Compare(b.Service)
}

func inOrder(sets []federation.EndpointSet) []federation.EndpointSet {
	if slices.IsSortedFunc(sets, compareSets) {
		return sets
	}
	return slices.SortedFunc(slices.Values(sets), compareSets)
}
