package codec_test

import (
	"fmt"
	"testing"
	"time"

	pb "github.com/envoyproxy/gateway/proto/extension"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tailgate-project/tailgate/extension/codec"
)

func request(routes int) *pb.PostTranslateModifyRequest {
	r := &pb.PostTranslateModifyRequest{
		PostTranslateContext: &pb.PostTranslateExtensionContext{ExtensionResources: []*pb.ExtensionResource{{UnstructuredBytes: []byte("{}")}}},
		Secrets:              []*tlsv3.Secret{{Name: "secret"}}, Listeners: []*listenerv3.Listener{{Name: "listener"}},
	}
	rc := &routev3.RouteConfiguration{Name: "config", InternalOnlyHeaders: []string{"a", "b"}}
	vh := &routev3.VirtualHost{Name: "host", Domains: []string{"*"}, RequireTls: routev3.VirtualHost_ALL}
	for i := range routes {
		r.Clusters = append(r.Clusters, &clusterv3.Cluster{Name: fmt.Sprintf("cluster-%d", i), ConnectTimeout: durationpb.New(time.Second)})
		vh.Routes = append(vh.Routes, route(fmt.Sprintf("route-%d", i)))
	}
	rc.VirtualHosts = []*routev3.VirtualHost{vh, {Name: "without-routes", Domains: []string{"b"}}}
	r.Routes = []*routev3.RouteConfiguration{rc, {Name: "empty"}}
	return r
}

func route(name string) *routev3.Route {
	return &routev3.Route{Name: name, Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/" + name}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}}}
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, c encoding.CodecV2, m proto.Message) *pb.PostTranslateModifyRequest {
	t.Helper()
	out := new(pb.PostTranslateModifyRequest)
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded(t, m))}, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// back encodes what a hook returns and decodes it as Envoy Gateway does.
func back(t testing.TB, c encoding.CodecV2, r *pb.PostTranslateModifyRequest) *pb.PostTranslateModifyResponse {
	t.Helper()
	b, err := c.Marshal(&pb.PostTranslateModifyResponse{Clusters: r.GetClusters(), Secrets: r.GetSecrets(), Listeners: r.GetListeners(), Routes: r.GetRoutes()})
	if err != nil {
		t.Fatal(err)
	}
	out := new(pb.PostTranslateModifyResponse)
	if err := proto.Unmarshal(b.Materialize(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	for _, limit := range []int{0, 100, 1 << 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			c := codec.Small(limit)
			in := request(20)
			for range 3 {
				got := decode(t, c, in)
				if diff := cmp.Diff(in, got, protocmp.Transform()); diff != "" {
					t.Fatal(diff)
				}
				// As the hook does: a route of its own in two virtual hosts, and a changed copy of a cluster.
				own := route("own")
				in2 := proto.CloneOf(in)
				for _, r := range []*pb.PostTranslateModifyRequest{got, in2} {
					for _, vh := range r.GetRoutes()[0].GetVirtualHosts() {
						vh.Routes = append([]*routev3.Route{own}, vh.Routes...)
					}
				}
				changed := proto.CloneOf(got.GetClusters()[0])
				changed.Name = "changed"
				got.Clusters[0], in2.Clusters[0] = changed, changed
				out := back(t, c, got)
				want := &pb.PostTranslateModifyResponse{Clusters: in2.Clusters, Secrets: in2.Secrets, Listeners: in2.Listeners, Routes: in2.Routes}
				if diff := cmp.Diff(want, out, protocmp.Transform()); diff != "" {
					t.Fatal(diff)
				}
				if c.Bytes() > 4*limit {
					t.Errorf("%d bytes are remembered", c.Bytes())
				}
			}
		})
	}
}

// TestMemory checks that what comes again is not decoded again, and that what is new is told apart.
func TestMemory(t *testing.T) {
	c := codec.New()
	first := decode(t, c, request(5))
	in := request(5)
	in.Clusters[1].ConnectTimeout = durationpb.New(2 * time.Second)
	in.Routes[0].VirtualHosts[0].Routes[1] = route("new")
	second := decode(t, c, in)
	for i := range in.Clusters {
		if same := first.Clusters[i] == second.Clusters[i]; same != (i != 1) {
			t.Errorf("cluster %d is the same: %t", i, same)
		}
		a, b := first.Routes[0].VirtualHosts[0].Routes[i], second.Routes[0].VirtualHosts[0].Routes[i]
		if same := a == b; same != (i != 1) {
			t.Errorf("route %d is the same: %t", i, same)
		}
	}
	if diff := cmp.Diff(in, second, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestForgetting checks that what is not used any more goes.
func TestForgetting(t *testing.T) {
	c := codec.Small(4000)
	for i := range 1000 {
		in := request(1)
		in.Clusters[0].Name = fmt.Sprintf("cluster-of-turn-%d", i)
		in.Routes[0].VirtualHosts[0].Routes[0] = route(fmt.Sprintf("route-of-turn-%d", i))
		decode(t, c, in)
	}
	if n := c.Bytes(); n > 16000 {
		t.Errorf("%d bytes are remembered", n)
	}
}

func TestOtherMessages(t *testing.T) {
	c := codec.New()
	in := &pb.PostClusterModifyRequest{Cluster: &clusterv3.Cluster{Name: "c"}}
	b, err := c.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := new(pb.PostClusterModifyRequest)
	if err := c.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Marshal("text"); err == nil {
		t.Error("a string was encoded")
	}
}

// FuzzDecode compares with gRPC's own codec.
func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, request(3)))
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 7))
	f.Add(append(encoded(f, request(1)), protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), []byte("unknown"))...))
	f.Add([]byte{0x2a, 0x05, 0x12})
	plain, c := encoding.GetCodecV2(grpcproto.Name), codec.New()
	f.Fuzz(func(t *testing.T, b []byte) {
		want, got := new(pb.PostTranslateModifyRequest), new(pb.PostTranslateModifyRequest)
		err1 := plain.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, want)
		err2 := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, got)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("errors %v and %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(back(t, plain, want), back(t, c, got), protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}
