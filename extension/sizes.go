package extension

import (
	"context"

	pb "github.com/envoyproxy/gateway/proto/extension"
	"google.golang.org/grpc/stats"
)

// sizes notes how large the messages of the hooks are, which gRPC knows without encoding anything again.
type sizes struct{ server *Server }

type callKey struct{}

// call is one call of a hook. What came is known before the hook's method runs.
type call struct {
	hook    Hook
	request int
}

// requestSize returns the encoded size of a hook's request, 0 where nobody counted.
func requestSize(ctx context.Context) int {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.request
	}
	return 0
}

var hookOf = map[string]Hook{
	pb.EnvoyGatewayExtension_PostClusterModify_FullMethodName:   HookCluster,
	pb.EnvoyGatewayExtension_PostTranslateModify_FullMethodName: HookTranslation,
}

// TagRPC implements [stats.Handler].
func (s sizes) TagRPC(ctx context.Context, i *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, callKey{}, &call{hook: hookOf[i.FullMethodName]})
}

// HandleRPC implements [stats.Handler].
func (s sizes) HandleRPC(ctx context.Context, r stats.RPCStats) {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil || c.hook == "" {
		return
	}
	switch r := r.(type) {
	case *stats.InPayload:
		c.request = r.Length
		s.server.sized(c.hook, func(h *HookStatus) { h.Request = r.Length })
	case *stats.OutPayload:
		s.server.sized(c.hook, func(h *HookStatus) { h.Response = r.Length })
	}
}

// TagConn implements [stats.Handler].
func (s sizes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (s sizes) HandleConn(context.Context, stats.ConnStats) {}

func (s *Server) sized(h Hook, set func(*HookStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status.Hooks[h]
	set(&st)
	s.status.Hooks[h] = st
}
