package standin

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/xds"
)

// Apply applies an xDS response; it implements xds.Handler.
func (s *Server) Apply(source, typeURL string, resources []*discoveryv3.Resource, removed []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	var scope string
	switch typeURL {
	case xds.ClusterType:
		scope, err = "cluster_manager.cds", s.applyClusters(resources, removed)
	case xds.EndpointType:
		scope, err = "eds", s.applyEndpoints(source, resources, removed)
	case xds.ListenerType:
		scope, err = "listener_manager.lds", s.applyListeners(resources, removed)
	case xds.RouteType:
		scope, err = "rds", s.applyRoutes(resources)
	case xds.SecretType:
		scope, err = "sds", s.applySecrets(resources)
	default:
		return fmt.Errorf("type %s was not asked for", typeURL)
	}
	outcome := "update_success"
	if err != nil {
		outcome = "update_rejected"
	}
	s.stats.Counter(scope, "", outcome).Inc()
	return err
}

// clientLocked starts an xDS client for a control plane that is reached by a static cluster.
func (s *Server) clientLocked(source, cluster string) (*xds.Client, error) {
	e := s.clusters[cluster]
	if e == nil || !e.spec.Bootstrapped || e.spec.Discovery == upstream.EDS {
		return nil, fmt.Errorf("%s is not a statically defined, non-EDS cluster of the bootstrap", cluster)
	}
	conn, err := s.dial(e.spec)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cluster, err)
	}
	client := xds.New(xds.Options{
		Source: source, Node: s.opts.Bootstrap.GetNode(), Handler: s, Events: s.opts.Events, Log: s.log,
		BackoffBase: s.opts.BackoffBase, BackoffMax: s.opts.BackoffMax,
		Open: func(ctx context.Context) (xds.Stream, error) {
			if source == adsSource {
				return discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
			}
			return endpointservicev3.NewEndpointDiscoveryServiceClient(conn).DeltaEndpoints(ctx)
		},
	})
	s.group.Go(func() error {
		return errors.Join(client.Run(s.ctx), conn.Close())
	})
	return client, nil
}

// dial returns a gRPC connection to a cluster. Names are resolved and TLS secrets read at each attempt to connect;
// with several endpoints, each attempt begins with the next one.
func (s *Server) dial(spec *upstream.Spec) (*grpc.ClientConn, error) {
	addresses := spec.Addresses()
	if len(addresses) == 0 {
		return nil, errors.New("the cluster has no endpoint")
	}
	cfg, err := spec.ClientTLS(s.secrets)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if cfg != nil {
		transport = credentials.NewTLS(withALPN(cfg))
	}
	var next atomic.Uint32
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256 << 20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: spec.ConnectTimeout,
			Backoff:           backoff.Config{BaseDelay: s.opts.BackoffBase / 5, Multiplier: 1.6, Jitter: 0.2, MaxDelay: s.opts.BackoffMax / 10},
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			var errs []error
			for range addresses {
				conn, err := d.DialContext(ctx, "tcp", addresses[int(next.Add(1)-1)%len(addresses)])
				if err == nil {
					return conn, nil
				}
				errs = append(errs, err)
			}
			return nil, errors.Join(errs...)
		}),
	}
	if k := spec.Keepalive; k != nil {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: max(k.GetInterval().AsDuration(), 10*time.Second), Timeout: k.GetTimeout().AsDuration(),
		}))
	}
	return grpc.NewClient("passthrough:///"+spec.Name, opts...)
}

func withALPN(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	return cfg
}

// same reports whether two resources mean the same. Messages packed in Any are compared by their content, because
// their encoding is not always the same: maps have no order.
func same(a, b proto.Message) bool {
	if proto.Equal(a, b) {
		return true
	}
	x, errA := protojson.Marshal(a)
	y, errB := protojson.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}
