package translate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// markKey is the metadata in which the two hooks of one translation tell each other of backends.
const (
	markKey     = "tailgate.backends"
	markObjects = "objects"
)

// Mark returns the cluster that Envoy Gateway made for a rule with a note of the custom backends in it, which are given
// as JSON. Envoy Gateway hands over those that exist and may be referred to (ReferenceGrant), and it says so only to the
// hook for clusters; [Translate] reads the note and takes it away. The input is not changed.
func Mark(c *clusterv3.Cluster, objects [][]byte) (*clusterv3.Cluster, error) {
	names := map[string]bool{}
	for _, text := range objects {
		var o struct {
			APIVersion, Kind string
			Metadata         struct{ Namespace, Name string }
		}
		if err := json.Unmarshal(text, &o); err != nil {
			return nil, fmt.Errorf("read a backend of %s: %w", c.GetName(), err)
		}
		if group, _, _ := strings.Cut(o.APIVersion, "/"); group == v1alpha1.GroupName && o.Kind == v1alpha1.KindTailscaleEndpoints {
			names[o.Metadata.Namespace+"/"+o.Metadata.Name] = true
		}
	}
	if len(names) == 0 {
		return c, nil
	}
	list := &structpb.ListValue{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		list.Values = append(list.Values, structpb.NewStringValue(name))
	}
	c = proto.CloneOf(c)
	if c.Metadata == nil {
		c.Metadata = &corev3.Metadata{}
	}
	if c.Metadata.FilterMetadata == nil {
		c.Metadata.FilterMetadata = map[string]*structpb.Struct{}
	}
	c.Metadata.FilterMetadata[markKey] = &structpb.Struct{Fields: map[string]*structpb.Value{markObjects: structpb.NewListValue(list)}}
	return c, nil
}

// marked returns the backends that [Mark] noted, or nil.
func marked(c *clusterv3.Cluster) map[string]bool {
	note, ok := c.GetMetadata().GetFilterMetadata()[markKey]
	if !ok {
		return nil
	}
	out := map[string]bool{}
	for _, v := range note.GetFields()[markObjects].GetListValue().GetValues() {
		out[v.GetStringValue()] = true
	}
	return out
}

// unmark returns the cluster as it was before [Mark].
func unmark(c *clusterv3.Cluster) *clusterv3.Cluster {
	c = proto.CloneOf(c)
	delete(c.Metadata.FilterMetadata, markKey)
	if len(c.Metadata.FilterMetadata) == 0 {
		c.Metadata.FilterMetadata = nil
		if proto.Size(c.Metadata) == 0 {
			c.Metadata = nil
		}
	}
	return c
}
