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
// For example, with a service echo in the clusters c1 and c2:
//
//	an HTTPRoute has                        and gets
//	/cross-cluster/echo                     all below it; ours is not there, and a note says so
//	/cross-cluster/echo with a header       what has the header; ours gets the rest
//	/cross-cluster/echo-c1/special          that; ours gets the rest of /cross-cluster/echo-c1
//	/cross-cluster or /                     what no route of ours matches
//
// # Shared routes
//
// Envoy tries the routes of a virtual host one after the other, and Envoy Gateway checks, hashes and sends each of them in
// each virtual host. So the paths of all services with the same first segment and as many segments share their routes: an
// expression lets their names through, and a matcher, which stands once in the route configuration (Envoy's
// envoy.router.cluster_specifier_plugin.matcher), leads each path to its cluster. It makes no difference to a request.
// Paths have routes of their own where a route of the user's reaches among them, because it has to have its place between
// them, and where a template has the service in the first segment.
//
// The expressions grow with the number of services. Envoy Gateway sets re2.max_program_size.error_level so that Envoy takes
// them; an EnvoyProxy whose bootstrap sets less than 50,000 may make Envoy refuse the routes.
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
//
// # Connections and datagrams
//
// Envoy Gateway calls no hook for the routes and clusters of a TCPRoute, TLSRoute or UDPRoute. It makes one cluster of all
// backends of the route, <kind>/<namespace>/<name>/rule/-1, and a filter in a listener that leads there: tcp_proxy, with
// the server names in front of it for a TLSRoute, or udp_proxy. What is ours is done in the hook at the end of a
// translation, which is shown the listeners as well (listener.includeAll in Envoy Gateway's settings): the filter leads to
// our clusters, by weight, and to Envoy Gateway's own for the route's ordinary backends. What is missing has its share, too,
// and it is refused. The bytes go through as they are: TLS is between the client and the endpoint, also where HTTP routes
// to the same port would speak it themselves. Envoy's udp_proxy has no weights; datagrams are shared out by the last two
// digits of the client's port, so that all from one port go to one backend.
//
// Envoy Gateway v1.9 does not load TailscaleEndpoints, nor ReferenceGrants for them, for these kinds of routes: its provider
// lets no group pass that it does not know (validateBackendRef in internal/provider/kubernetes/routes.go), while HTTPRoutes
// and GRPCRoutes are exempt from that. The route is Accepted and carries traffic, but Envoy Gateway says ResolvedRefs=False,
// BackendNotFound, as if the object were not there, or RefNotPermitted for one in another namespace, whatever the grants
// are; those are looked up by the spoke instead, see [RuleBackend]. The condition cannot be put right from outside: Envoy
// Gateway takes an entry in status.parents of another controller's for its own and replaces it. Whoever needs ResolvedRefs
// to be True has two ways: any HTTPRoute of the same GatewayClass that refers to the same TailscaleEndpoints makes Envoy
// Gateway load it, or the route refers to the Service that stands for the VIP in the cluster. What is really missing is in
// the notes.
package translate

// Prefix starts the name of everything that is ours in Envoy. Nothing without it is ever added or removed; of the
// user's routes only where those lead that have TailscaleEndpoints as backends is changed.
const Prefix = "tsgw/"
