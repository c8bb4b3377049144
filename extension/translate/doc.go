// Package translate turns what a spoke knows of the federation into Envoy routes and clusters. It is pure: the
// resources of one gateway and a [Snapshot] in, resources and [Note]s out; the same input gives the same bytes.
//
// # Precedence
//
// Envoy takes the first route of a virtual host that matches, so the order says who wins. In each virtual host:
//
//   - A route of the user's that matches exactly one of our paths, unconditionally, keeps it: ours is not there.
//   - A route of the user's at or below one of our paths, or on it under further conditions (headers, query, method),
//     goes before ours.
//   - Ours go before all other routes of the user's: those are broader, and would hide ours for ever.
//   - The user's routes keep their order among themselves. Of ours, the longer path goes first.
//
// A host that an HTTPRoute names is the user's virtual host: what a host pattern makes of the same host is put into it,
// by the same rules. Where two of our own texts clash, [Translate] says who has it; a Gateway's listeners and paths stand
// in the virtual hosts of that Gateway only, also where several Gateways share a route configuration (mergeGateways).
//
// # Time limits and retries
//
// No route of ours has a limit for a whole request, which would cut long downloads, server-sent events, WebSockets and
// streams of gRPC. It ends when nothing has moved in either direction for an hour, as Envoy Gateway has it for its own
// routes. What may be sent twice (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) must begin to be answered within a minute,
// and is tried again elsewhere, three times, where the connection breaks before; once an answer has begun, it is never
// repeated. Everything else, all calls of gRPC among it, is tried again only where it cannot have reached the service:
// the connection was not made, or the stream was refused. A status of gRPC is never a reason: UNAVAILABLE does not say
// that nothing was done. The deadline in grpc-timeout holds where a service speaks HTTP/2.
//
// # Backends
//
// A rule of the user's with TailscaleEndpoints as backends keeps its matches, filters, time limits and retries, and only
// the clusters that it leads to change: see [Rule].
package translate

// Prefix starts the name of everything that is ours in Envoy. Nothing without it is ever added or removed; of the
// user's routes only where those lead that have TailscaleEndpoints as backends is changed.
const Prefix = "tsgw/"
