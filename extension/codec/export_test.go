package codec

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Small returns a codec that remembers no more than so many bytes.
func Small(bytes int) *Codec {
	c := New()
	c.clusters, c.routes = newMemory[*clusterv3.Cluster](bytes), newMemory[*routev3.Route](bytes)
	return c
}

// Bytes is how much the codec remembers.
func (c *Codec) Bytes() int {
	return c.clusters.young.bytes + c.clusters.old.bytes + c.routes.young.bytes + c.routes.old.bytes
}
