// Package codec is how the hook server's messages are encoded: as any in gRPC, but what came in one translation and comes
// again in the next is decoded only once, and what goes back as it came is not encoded again.
//
// Envoy Gateway sends all clusters and routes of a gateway for each change of one, and wants all of them back.
package codec

import (
	"fmt"
	"sync"

	pb "github.com/envoyproxy/gateway/proto/extension"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// kept bounds the encoded size of what is remembered, twice over: of the newest and of what was used before it. Some
// fourteen thousand routes with their clusters are as large.
const kept = 8 << 20

// Codec is a codec for a gRPC server. What it decodes is shared between messages, and must not be changed.
type Codec struct {
	plain encoding.CodecV2

	mu       sync.Mutex
	clusters memory[*clusterv3.Cluster]
	routes   memory[*routev3.Route]
	// config and host are where parts of an answer are put together.
	config, host []byte
}

// New returns a codec that remembers nothing yet.
func New() *Codec {
	return &Codec{plain: encoding.GetCodecV2(grpcproto.Name), clusters: newMemory[*clusterv3.Cluster](kept), routes: newMemory[*routev3.Route](kept)}
}

// Name implements [encoding.CodecV2].
func (c *Codec) Name() string { return grpcproto.Name }

// Unmarshal implements [encoding.CodecV2].
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*pb.PostTranslateModifyRequest)
	if !ok {
		return c.plain.Unmarshal(data, v)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decode(data.Materialize(), r)
}

// Marshal implements [encoding.CodecV2].
func (c *Codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*pb.PostTranslateModifyResponse)
	if !ok {
		return c.plain.Marshal(v)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.encode(r)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// The fields that are looked into.
var (
	requestClusters  = number((*pb.PostTranslateModifyRequest)(nil), "clusters")
	requestRoutes    = number((*pb.PostTranslateModifyRequest)(nil), "routes")
	responseClusters = number((*pb.PostTranslateModifyResponse)(nil), "clusters")
	responseRoutes   = number((*pb.PostTranslateModifyResponse)(nil), "routes")
	configHosts      = number((*routev3.RouteConfiguration)(nil), "virtual_hosts")
	hostRoutes       = number((*routev3.VirtualHost)(nil), "routes")
)

func number(m proto.Message, field protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(field).Number()
}

func (c *Codec) decode(b []byte, r *pb.PostTranslateModifyRequest) error {
	proto.Reset(r)
	return split(b, r, func(n protowire.Number, value []byte) (bool, error) {
		switch n {
		case requestClusters:
			m, err := recall(&c.clusters, value)
			r.Clusters = append(r.Clusters, m)
			return true, err
		case requestRoutes:
			m, err := c.decodeConfig(value)
			r.Routes = append(r.Routes, m)
			return true, err
		}
		return false, nil
	})
}

func (c *Codec) decodeConfig(b []byte) (*routev3.RouteConfiguration, error) {
	rc := new(routev3.RouteConfiguration)
	return rc, split(b, rc, func(n protowire.Number, value []byte) (bool, error) {
		if n != configHosts {
			return false, nil
		}
		vh, err := c.decodeHost(value)
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
		return true, err
	})
}

func (c *Codec) decodeHost(b []byte) (*routev3.VirtualHost, error) {
	vh := new(routev3.VirtualHost)
	return vh, split(b, vh, func(n protowire.Number, value []byte) (bool, error) {
		if n != hostRoutes {
			return false, nil
		}
		m, err := recall(&c.routes, value)
		vh.Routes = append(vh.Routes, m)
		return true, err
	})
}

// split decodes a message: each field of bytes is offered to take, and what that does not take goes the ordinary way.
func split(b []byte, m proto.Message, take func(protowire.Number, []byte) (bool, error)) error {
	var rest []byte
	for len(b) > 0 {
		n, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().FullName(), protowire.ParseError(tag))
		}
		size := protowire.ConsumeFieldValue(n, kind, b[tag:])
		if size < 0 {
			return fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().FullName(), protowire.ParseError(size))
		}
		field := b[:tag+size]
		b = b[tag+size:]
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(field[tag:])
			taken, err := take(n, value)
			if err != nil {
				return err
			}
			if taken {
				continue
			}
		}
		rest = append(rest, field...)
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(rest, m)
}

func (c *Codec) encode(r *pb.PostTranslateModifyResponse) ([]byte, error) {
	b, err := appendWithout(make([]byte, 0, 2*cap(c.config)), r, responseClusters, responseRoutes)
	if err != nil {
		return nil, err
	}
	for _, m := range r.GetClusters() {
		text, err := c.clusters.textOf(m)
		if err != nil {
			return nil, err
		}
		b = appendField(b, responseClusters, text)
	}
	// Routes of ours stand in many virtual hosts, and are encoded once. They are others the next time.
	now := map[*routev3.Route]string{}
	for _, rc := range r.GetRoutes() {
		if c.config, err = c.appendConfig(c.config[:0], rc, now); err != nil {
			return nil, err
		}
		b = appendField(b, responseRoutes, c.config)
	}
	if cap(c.config) > kept {
		c.config, c.host = nil, nil
	}
	return b, nil
}

func (c *Codec) appendConfig(b []byte, rc *routev3.RouteConfiguration, now map[*routev3.Route]string) ([]byte, error) {
	b, err := appendWithout(b, rc, configHosts)
	if err != nil {
		return nil, err
	}
	for _, vh := range rc.GetVirtualHosts() {
		if c.host, err = appendWithout(c.host[:0], vh, hostRoutes); err != nil {
			return nil, err
		}
		for _, m := range vh.GetRoutes() {
			text, ok := c.routes.text(m)
			if !ok {
				text, ok = now[m]
			}
			if !ok {
				if text, err = c.routes.textOf(m); err != nil {
					return nil, err
				}
				now[m] = text
			}
			c.host = appendField(c.host, hostRoutes, text)
		}
		b = appendField(b, configHosts, c.host)
	}
	return b, nil
}

func appendField[T string | []byte](b []byte, n protowire.Number, value T) []byte {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(value)))
	return append(b, value...)
}

// appendWithout appends the encoding of a message without some fields.
func appendWithout(b []byte, m proto.Message, without ...protowire.Number) ([]byte, error) {
	from := m.ProtoReflect()
	rest := from.New()
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		for _, n := range without {
			if f.Number() == n {
				return true
			}
		}
		rest.Set(f, v)
		return true
	})
	rest.SetUnknown(from.GetUnknown())
	out, err := deterministic.MarshalAppend(b, rest.Interface())
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", from.Descriptor().FullName(), err)
	}
	return out, nil
}

var deterministic = proto.MarshalOptions{Deterministic: true}
