package translate

import (
	"regexp"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tailgate-project/tailgate/federation"
)

// HopHeader collects the ids of the clusters whose gateways a request has gone through. A gateway that finds its own
// cluster's id in it answers 508 (Loop Detected).
const HopHeader = "x-tailgate-hop"

const (
	// idempotent are the methods that may be sent twice (RFC 9110, 9.2.2).
	idempotent = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
	retries    = 3
	// A connection to the egress proxy always succeeds, and a dead remote shows as a reset: whether the request had
	// arrived is not known then, so only idempotent ones are sent again after it. Calls of gRPC are POSTs.
	retryOnIdempotent = "reset,connect-failure,refused-stream,reset-before-request"
	retryOnOther      = "connect-failure,refused-stream,reset-before-request"
	// firstByteTimeout is how long what may be sent twice waits for the beginning of an answer before it is sent to
	// another host.
	firstByteTimeout = time.Minute
	// idleTimeout is how long nothing may move on a stream. It is what Envoy Gateway gives its own routes.
	idleTimeout = time.Hour
)

// routesOf returns the routes of an entry: one for idempotent methods and one for the rest, or one for both where it leads
// to the gateway's own listener.
func routesOf(e entry) []*routev3.Route {
	if e[0].local {
		// The routes behind the listener have retries and shorter time limits of their own.
		return []*routev3.Route{route("own", e, e.match(), action(e, nil))}
	}
	first := e.match()
	first.Headers = append(first.Headers, headerMatch(":method", idempotent))
	again := retryPolicy(retryOnIdempotent)
	again.PerTryTimeout = durationpb.New(firstByteTimeout)
	return []*routev3.Route{
		route("idempotent", e, first, action(e, again)),
		route("once", e, e.match(), action(e, retryPolicy(retryOnOther))),
	}
}

// http2 reports whether the target speaks nothing else.
func (w wish) http2() bool { return w.app == federation.AppH2C || w.app == federation.AppGRPCS }

// action returns what all routes of an entry do. Without a time limit of its own, a route has Envoy's of 15 seconds.
func action(e entry, retry *routev3.RetryPolicy) *routev3.RouteAction {
	a := &routev3.RouteAction{Timeout: durationpb.New(0), IdleTimeout: durationpb.New(idleTimeout), RetryPolicy: retry}
	http2Only := e[0].http2()
	if http2Only || e[0].local {
		// No limit, but the one that the client gives in grpc-timeout.
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{
			MaxStreamDuration: durationpb.New(0), GrpcTimeoutHeaderMax: durationpb.New(0),
		}
	}
	if !http2Only {
		a.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "websocket"}}
	}
	return a
}

func route(name string, e entry, match *routev3.RouteMatch, a *routev3.RouteAction) *routev3.Route {
	a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: e[0].target}
	if e.shared() {
		a.ClusterSpecifier = &routev3.RouteAction_ClusterSpecifierPlugin{ClusterSpecifierPlugin: table}
	}
	if e[0].path != "" {
		// prefix_rewrite would leave "//"; the slashes go with the prefix and one comes back.
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: e.prefix()}, Substitution: "/"}
	}
	return &routev3.Route{
		Name: Prefix + "route" + e.path() + "/" + name, Match: match, Action: &routev3.Route_Route{Route: a},
		RequestHeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: HopHeader, Value: e[0].hop},
			AppendAction: corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
		}},
	}
}

// guard returns the route that ends a loop at what matches: the hop header has the value already.
func guard(path string, match *routev3.RouteMatch, hop string) *routev3.Route {
	// Envoy joins the values of a repeated header with commas and wants the expression to match the whole of it.
	match.Headers = append(match.Headers, headerMatch(HopHeader, `(.*,)?\s*`+regexp.QuoteMeta(hop)+`\s*(,.*)?`))
	return &routev3.Route{
		Name: Prefix + "guard" + path, Match: match,
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 508,
			Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "the request has come through this gateway before (" + HopHeader + ")\n"}},
		}},
	}
}

func matchPath(path string) *routev3.RouteMatch {
	if path == "" {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	}
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: path}}
}

func headerMatch(name, regex string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
		StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}}},
	}}
}

// retryPolicy sends a request again to another host, of the next priority where one is left.
func retryPolicy(on string) *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn: on, NumRetries: wrapperspb.UInt32(retries),
		RetryPriority: &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: pack(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: 1}),
			},
		},
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: retries,
	}
}

// pack wraps a message byte-stably. Marshalling a message that was built here cannot fail.
func pack(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("marshal " + string(m.ProtoReflect().Descriptor().FullName()) + ": " + err.Error())
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}
