package link_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/stats"

	"github.com/tailgate-project/tailgate/api/link"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// wire notes what the client receives.
type wire struct {
	mu          sync.Mutex
	compression string
	sizes       [][2]int // of each message, itself and as it came
}

func (*wire) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*wire) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*wire) HandleConn(context.Context, stats.ConnStats)                       {}

func (w *wire) HandleRPC(_ context.Context, s stats.RPCStats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch s := s.(type) {
	case *stats.InHeader:
		w.compression = s.Compression
	case *stats.InPayload:
		w.sizes = append(w.sizes, [2]int{s.Length, s.CompressedLength})
	}
}

// sets returns a full update with as many endpoint sets, each of three clusters.
func sets(count int) linkstate.Update {
	u := linkstate.Update{Epoch: 7, Version: 3, Full: true}
	for i := range count {
		set := &federation.EndpointSet{Consumer: "c1", Service: federation.Service("prod", fmt.Sprintf("service-%d", i))}
		for j, c := range []federation.ClusterID{"c1", "c2", "c3"} {
			set.Endpoints = append(set.Endpoints, federation.Endpoint{
				Cluster: c, Addr: netip.AddrFrom4([4]byte{100, byte(100 + j), byte(i >> 8), byte(i)}), Priority: uint32(j), Weight: 1, Reason: "Serving",
				Ports: []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}},
			})
		}
		u.Upserts = append(u.Upserts, linkstate.Resource{EndpointSet: set})
	}
	return u
}

func TestWatchIsCompressedForWhoCanReadIt(t *testing.T) {
	for name, tc := range map[string]struct {
		can  []grpc.CallOption
		want string
	}{
		"a-spoke-of-today":    {nil, link.Compression},
		"a-spoke-that-cannot": {[]grpc.CallOption{experimental.AcceptCompressors(gzip.Name)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, 50*time.Millisecond)
			w := &wire{}
			conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(w))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}()
			r.join(t, "c1")
			want := sets(2000)
			r.update <- want
			stream, err := link.NewHubClient(conn).Watch(t.Context(), &link.WatchRequest{ClusterId: "c1"}, tc.can...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := stream.Recv()
			beat, err2 := stream.Recv()
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if u, refused := link.ToUpdate("c1", got); len(refused) > 0 || len(u.Upserts) != len(want.Upserts) || beat.GetVersion() != 3 {
				t.Errorf("%d of %d sets came, %d were refused, then %v", len(u.Upserts), len(want.Upserts), len(refused), beat)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.compression != tc.want {
				t.Errorf("encoding %q, want %q", w.compression, tc.want)
			}
			if tc.want == "" {
				return
			}
			t.Logf("bytes of a full update, and of a heartbeat: %v", w.sizes)
			if full := w.sizes[0]; full[1]*5 > full[0] {
				t.Errorf("%d bytes of resources that are much alike became %d", full[0], full[1])
			}
			if beat := w.sizes[1]; beat[1] > beat[0]+16 {
				t.Errorf("a heartbeat of %d bytes became %d", beat[0], beat[1])
			}
		})
	}
}
