package standin

import (
	"errors"
	"maps"
	"slices"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// accepted keeps the resources that are only needed to be shown.
type accepted struct {
	routes    map[string]*routev3.RouteConfiguration
	endpoints map[endpointKey]*endpointv3.ClusterLoadAssignment
}

func newAccepted() accepted {
	return accepted{
		routes:    map[string]*routev3.RouteConfiguration{},
		endpoints: map[endpointKey]*endpointv3.ClusterLoadAssignment{},
	}
}

// ConfigDump returns the configuration that was accepted. Private keys are left out.
func (s *Server) ConfigDump() (*adminv3.ConfigDump, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	pack := func(m proto.Message) *anypb.Any {
		m = proto.Clone(m)
		redact(m.ProtoReflect())
		a, err := anypb.New(m)
		errs = append(errs, err)
		return a
	}
	clusters := &adminv3.ClustersConfigDump{}
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		e := s.clusters[name]
		switch {
		case e.spec.Bootstrapped:
			clusters.StaticClusters = append(clusters.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{Cluster: pack(e.spec.Proto)})
		case e.warming != nil:
			clusters.DynamicWarmingClusters = append(clusters.DynamicWarmingClusters, &adminv3.ClustersConfigDump_DynamicCluster{Cluster: pack(e.spec.Proto)})
		default:
			clusters.DynamicActiveClusters = append(clusters.DynamicActiveClusters, &adminv3.ClustersConfigDump_DynamicCluster{Cluster: pack(e.spec.Proto)})
		}
	}
	listeners := &adminv3.ListenersConfigDump{}
	for _, name := range slices.Sorted(maps.Keys(s.listeners)) {
		state := &adminv3.ListenersConfigDump_DynamicListenerState{Listener: pack(s.listeners[name].spec.Proto)}
		l := &adminv3.ListenersConfigDump_DynamicListener{Name: name, ActiveState: state}
		if s.listeners[name].pending {
			l.ActiveState, l.WarmingState = nil, state
		}
		listeners.DynamicListeners = append(listeners.DynamicListeners, l)
	}
	routes := &adminv3.RoutesConfigDump{}
	for _, name := range slices.Sorted(maps.Keys(s.accepted.routes)) {
		routes.DynamicRouteConfigs = append(routes.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{RouteConfig: pack(s.accepted.routes[name])})
	}
	endpoints := &adminv3.EndpointsConfigDump{}
	keys := slices.SortedFunc(maps.Keys(s.accepted.endpoints), func(a, b endpointKey) int {
		return strings.Compare(a.source+" "+a.name, b.source+" "+b.name)
	})
	for _, k := range keys {
		endpoints.DynamicEndpointConfigs = append(endpoints.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{EndpointConfig: pack(s.accepted.endpoints[k])})
	}
	dump := &adminv3.ConfigDump{Configs: []*anypb.Any{
		pack(&adminv3.BootstrapConfigDump{Bootstrap: s.opts.Bootstrap}), pack(clusters), pack(listeners), pack(routes), pack(endpoints),
	}}
	return dump, errors.Join(errs...)
}

// redact takes private keys out of a message and of all messages in it.
func redact(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *tlsv3.TlsCertificate:
		v.PrivateKey = nil
		return
	case *anypb.Any:
		inner, err := v.UnmarshalNew()
		if err != nil {
			return // of a type that the stand-in does not read, and so holds no key of its
		}
		redact(inner.ProtoReflect())
		if packed, err := anypb.New(inner); err == nil {
			v.Value = packed.Value
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					redact(e.Message())
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		default:
			redact(v.Message())
		}
		return true
	})
}
