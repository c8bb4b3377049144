// Package translate turns what a spoke knows of the federation into Envoy routes and clusters. It is pure: the
// resources of one gateway and a [Snapshot] in, resources and [Note]s out; the same input gives the same bytes.
package translate

// Prefix starts the name of everything that is ours in Envoy; nothing without it is ever changed or removed.
const Prefix = "tsgw/"
