package strict

import (
	"maps"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// rule says what happens to the fields of one message type.
type rule struct {
	honoured []string
	inert    map[string]string // field to the reason why it may be set without an effect
}

func honour(fields string) rule { return rule{honoured: strings.Fields(fields)} }

// but adds fields, separated by spaces, that are accepted without effect for one reason.
func (r rule) but(reason, fields string) rule {
	inert := map[string]string{}
	maps.Copy(inert, r.inert)
	for f := range strings.FieldsSeq(fields) {
		inert[f] = reason
	}
	return rule{honoured: r.honoured, inert: inert}
}

// Reasons that several rules share.
const (
	whyLabel     = "a label for operators and statistics; it does not change what is answered"
	whyBuffers   = "sizes of Envoy's own buffers and windows; Go's net/http sizes its own"
	whyAccessLog = "the stand-in writes no access log; use its events and statistics"
	whyStats     = "selects statistics only"
	whyProcess   = "protects or tunes Envoy's own process"
	whyPool      = "Go's transports have no limit of this kind; max_requests and max_retries are enforced"
	whyHTTP2     = "HTTP/2 details of Envoy's codec; Go's net/http uses its own"
)

var rules = map[protoreflect.FullName]rule{}

func init() {
	for _, table := range []map[string]rule{bootstrapRules, clusterRules, listenerRules, routeRules, coreRules} {
		for name, r := range table {
			rules[protoreflect.FullName("envoy."+name)] = r
		}
	}
	for name, r := range xdsRules {
		rules[protoreflect.FullName("xds."+name)] = r
	}
}

var bootstrapRules = map[string]rule{
	"config.bootstrap.v3.Bootstrap": honour("node static_resources dynamic_resources admin").
		but(whyStats, "deferred_stat_options stats_config").
		but(whyProcess, "overload_manager").
		but("runtime flags of Envoy's own code", "layered_runtime").
		but("the stand-in does no zone-aware routing", "cluster_manager"),
	"config.bootstrap.v3.Bootstrap.StaticResources":  honour("listeners clusters"),
	"config.bootstrap.v3.Bootstrap.DynamicResources": honour("ads_config lds_config cds_config"),
	"config.bootstrap.v3.Admin":                      honour("address").but(whyAccessLog, "access_log access_log_path"),
}

var clusterRules = map[string]rule{
	"config.cluster.v3.Cluster": honour(`name type cluster_type eds_cluster_config connect_timeout load_assignment
		lb_policy load_balancing_policy common_lb_config health_checks outlier_detection circuit_breakers
		transport_socket transport_socket_matches typed_extension_protocol_options ignore_health_on_host_removal
		dns_lookup_family least_request_lb_config http2_protocol_options`).
		but(whyBuffers, "per_connection_buffer_limit_bytes").
		but(whyLabel, "alt_stat_name metadata track_cluster_stats").
		but("the refresh rate decides; Go's resolver does not tell a TTL", "respect_dns_ttl").
		but("keepalive of the operating system's sockets is Go's", "upstream_connection_options"),
	"config.cluster.v3.Cluster.CustomClusterType":    honour("name typed_config"),
	"config.cluster.v3.Cluster.EdsClusterConfig":     honour("eds_config service_name"),
	"config.cluster.v3.Cluster.TransportSocketMatch": honour("name match transport_socket"),
	"config.cluster.v3.Cluster.LeastRequestLbConfig": honour("choice_count"),
	"config.cluster.v3.Cluster.CommonLbConfig": honour("healthy_panic_threshold locality_weighted_lb_config").
		but("no zone-aware routing", "zone_aware_lb_config"),
	"config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig": honour(""),
	"config.cluster.v3.LoadBalancingPolicy":                             honour("policies"),
	"config.cluster.v3.LoadBalancingPolicy.Policy":                      honour("typed_extension_config"),
	"extensions.load_balancing_policies.least_request.v3.LeastRequest":  honour("choice_count locality_lb_config"),
	"extensions.load_balancing_policies.round_robin.v3.RoundRobin":      honour("locality_lb_config"),
	"extensions.load_balancing_policies.random.v3.Random":               honour("locality_lb_config"),
	"extensions.load_balancing_policies.common.v3.LocalityLbConfig": honour("locality_weighted_lb_config").
		but("no zone-aware routing: every endpoint of a priority is used alike", "zone_aware_lb_config"),
	"extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig": honour(""),
	"extensions.clusters.dns.v3.DnsCluster": honour("dns_refresh_rate dns_lookup_family").
		but("the refresh rate decides; Go's resolver does not tell a TTL", "respect_dns_ttl"),
	"config.cluster.v3.OutlierDetection": honour(`consecutive_5xx interval base_ejection_time max_ejection_percent
		enforcing_consecutive_5xx consecutive_gateway_failure enforcing_consecutive_gateway_failure
		split_external_local_origin_errors consecutive_local_origin_failure enforcing_consecutive_local_origin_failure
		max_ejection_time successful_active_health_check_uneject_host always_eject_one_host`).
		but("the stand-in has no success-rate detection; zero switches it off in Envoy too", "enforcing_success_rate enforcing_local_origin_success_rate"),
	"config.cluster.v3.CircuitBreakers": honour("thresholds").but(whyPool, "per_host_thresholds"),
	"config.cluster.v3.CircuitBreakers.Thresholds": honour("priority max_requests max_retries").
		but(whyPool, "max_connections max_pending_requests max_connection_pools").but(whyStats, "track_remaining"),
	"config.core.v3.HealthCheck": honour(`timeout interval unhealthy_threshold healthy_threshold no_traffic_interval
		unhealthy_interval http_health_check tcp_health_check`).
		but("spreads the checks of many Envoys; one stand-in has nothing to spread", "initial_jitter interval_jitter interval_jitter_percent").
		but("every check uses a connection of its own", "reuse_connection").
		but("results are in /stats and /clusters", "event_logger always_log_health_check_failures always_log_health_check_success"),
	"config.core.v3.HealthCheck.HttpHealthCheck":      honour("host path method expected_statuses retriable_statuses receive request_headers_to_add"),
	"config.core.v3.HealthCheck.TcpHealthCheck":       honour("send receive"),
	"config.core.v3.HealthCheck.Payload":              honour("text binary"),
	"type.v3.Int64Range":                              honour("start end"),
	"type.v3.Percent":                                 honour("value"),
	"config.endpoint.v3.ClusterLoadAssignment":        honour("cluster_name endpoints policy"),
	"config.endpoint.v3.ClusterLoadAssignment.Policy": honour("overprovisioning_factor"),
	"config.endpoint.v3.LocalityLbEndpoints": honour("locality lb_endpoints load_balancing_weight priority").
		but(whyLabel, "metadata proximity"),
	"config.endpoint.v3.LbEndpoint":                 honour("endpoint health_status metadata load_balancing_weight"),
	"config.endpoint.v3.Endpoint":                   honour("address hostname health_check_config"),
	"config.endpoint.v3.Endpoint.HealthCheckConfig": honour("port_value hostname disable_active_health_check"),
	"extensions.upstreams.http.v3.HttpProtocolOptions": honour(`explicit_http_config auto_config use_downstream_protocol_config common_http_protocol_options
		upstream_http_protocol_options`),
	"extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig":      honour("http_protocol_options http2_protocol_options"),
	"extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig":          honour("http_protocol_options http2_protocol_options"),
	"extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": honour("http_protocol_options http2_protocol_options"),
	"config.core.v3.UpstreamHttpProtocolOptions":                               honour("auto_sni auto_san_validation"),
}

var listenerRules = map[string]rule{
	"config.listener.v3.Listener": honour("name address filter_chains default_filter_chain listener_filters").
		but(whyBuffers, "per_connection_buffer_limit_bytes max_connections_to_accept_per_socket_event tcp_backlog_size").
		but(whyAccessLog, "access_log").
		but(whyLabel, "stat_prefix metadata traffic_direction").
		but(whyProcess, "bypass_overload_manager ignore_global_conn_limit").
		but("the Go runtime accepts; there are no worker sockets", "enable_reuse_port connection_balance_config").
		but("socket options of Envoy's own sockets", "socket_options").
		but("draining is started by the admin interface or by a listener update in either mode", "drain_type").
		but("the TLS handshake has a time limit of its own", "listener_filters_timeout"),
	"config.listener.v3.ListenerFilter":                         honour("name typed_config"),
	"extensions.filters.listener.tls_inspector.v3.TlsInspector": honour(""),
	"config.listener.v3.FilterChain": honour("name filter_chain_match filters transport_socket transport_socket_connect_timeout").
		but(whyLabel, "metadata"),
	"config.listener.v3.FilterChainMatch": honour("server_names"),
	"config.listener.v3.Filter":           honour("name typed_config"),
	"extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": honour(`codec_type rds route_config
		http_filters use_remote_address skip_xff_append via server_name server_header_transformation normalize_path
		merge_slashes path_with_escaped_slashes_action common_http_protocol_options generate_request_id
		preserve_external_request_id always_set_request_id_in_response strip_matching_host_port strip_any_host_port
		strip_trailing_host_dot stream_idle_timeout request_headers_timeout upgrade_configs http_protocol_options`).
		but(whyLabel, "stat_prefix").
		but(whyAccessLog, "access_log access_log_options").
		but(whyHTTP2, "http2_protocol_options").
		but("counts hops for the client's address, which nothing in the stand-in decides by", "xff_num_trusted_hops").
		but("draining lasts for --drain-time-s", "drain_timeout").
		but("half-closed connections are Go's", "delayed_close_timeout"),
	"extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": honour("upgrade_type enabled"),
	"extensions.filters.network.http_connection_manager.v3.Rds":                                 honour("config_source route_config_name"),
	"extensions.filters.network.http_connection_manager.v3.HttpFilter":                          honour("name typed_config"),
	"extensions.filters.http.router.v3.Router": honour("suppress_envoy_headers").
		but(whyStats, "dynamic_stats").but(whyAccessLog, "upstream_log upstream_log_options"),
	"extensions.filters.http.health_check.v3.HealthCheck": honour("pass_through_mode headers"),
}

var routeRules = map[string]rule{
	"config.route.v3.RouteConfiguration": honour(`name virtual_hosts request_headers_to_add request_headers_to_remove
		response_headers_to_add response_headers_to_remove most_specific_header_mutations_wins ignore_port_in_host_matching
		cluster_specifier_plugins`).
		but("routes may name clusters that do not exist yet, as Envoy allows for RDS", "validate_clusters").
		but("bodies are not limited", "max_direct_response_body_size_bytes").but(whyLabel, "metadata"),
	"config.route.v3.VirtualHost": honour(`name domains routes request_headers_to_add request_headers_to_remove
		response_headers_to_add response_headers_to_remove retry_policy include_request_attempt_count
		include_attempt_count_in_response`).but(whyLabel, "metadata virtual_clusters").
		but("bodies are buffered for a retry up to a bound of the stand-in's own", "per_request_buffer_limit_bytes request_body_buffer_limit"),
	"config.route.v3.Route": honour(`name match route redirect direct_response request_headers_to_add
		request_headers_to_remove response_headers_to_add response_headers_to_remove`).but(whyLabel, "metadata stat_prefix decorator").
		but("bodies are buffered for a retry up to a bound of the stand-in's own", "per_request_buffer_limit_bytes request_body_buffer_limit"),
	"config.route.v3.RouteMatch":            honour("prefix path safe_regex path_separated_prefix case_sensitive headers query_parameters cookies"),
	"config.route.v3.HeaderMatcher":         honour("name range_match present_match string_match invert_match treat_missing_header_as_empty"),
	"config.route.v3.QueryParameterMatcher": honour("name string_match present_match"),
	"config.route.v3.CookieMatcher":         honour("name string_match invert_match"),
	"config.route.v3.RouteAction": honour(`cluster weighted_clusters cluster_specifier_plugin cluster_not_found_response_code prefix_rewrite
		regex_rewrite host_rewrite_literal auto_host_rewrite host_rewrite_header append_x_forwarded_host timeout
		idle_timeout max_stream_duration retry_policy upgrade_configs`),
	"config.route.v3.ClusterSpecifierPlugin":                                  honour("extension"),
	"extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier": honour("cluster_matcher"),
	"extensions.router.cluster_specifiers.matcher.v3.ClusterAction":           honour("cluster"),
	"config.route.v3.RouteAction.MaxStreamDuration":                           honour("max_stream_duration grpc_timeout_header_max"),
	"config.route.v3.WeightedCluster":                                         honour("clusters").but("the sum of the weights is used, as in Envoy", "total_weight"),
	"config.route.v3.WeightedCluster.ClusterWeight": honour(`name weight request_headers_to_add request_headers_to_remove
		response_headers_to_add response_headers_to_remove host_rewrite_literal`),
	"config.route.v3.RouteAction.UpgradeConfig": honour("upgrade_type enabled"),
	"config.route.v3.RedirectAction":            honour("https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite response_code strip_query"),
	"config.route.v3.DirectResponseAction":      honour("status body body_format"),
	"config.route.v3.RetryPolicy": honour(`retry_on num_retries per_try_timeout retry_priority retry_host_predicate
		host_selection_retry_max_attempts retriable_status_codes retry_back_off`),
	"config.route.v3.RetryPolicy.RetryPriority":                                 honour("name typed_config"),
	"config.route.v3.RetryPolicy.RetryHostPredicate":                            honour("name typed_config"),
	"config.route.v3.RetryPolicy.RetryBackOff":                                  honour("base_interval max_interval"),
	"extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate":            honour(""),
	"extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig": honour("update_frequency"),
}

// xdsRules are for messages of the xDS API that are not Envoy's own.
var xdsRules = map[string]rule{
	"core.v3.TypedExtensionConfig":                 honour("name typed_config"),
	"type.matcher.v3.Matcher":                      honour("matcher_tree on_no_match"),
	"type.matcher.v3.Matcher.MatcherTree":          honour("input exact_match_map prefix_match_map"),
	"type.matcher.v3.Matcher.MatcherTree.MatchMap": honour("map"),
	"type.matcher.v3.Matcher.OnMatch":              honour("action"),
}

var coreRules = map[string]rule{
	"config.core.v3.Node": honour("id cluster metadata locality").
		but("the stand-in names itself", "user_agent_name user_agent_version user_agent_build_version"),
	"config.core.v3.Locality":                 honour("region zone sub_zone"),
	"config.core.v3.Address":                  honour("socket_address"),
	"config.core.v3.SocketAddress":            honour("protocol address port_value ipv4_compat"),
	"config.core.v3.Metadata":                 honour("filter_metadata").but(whyLabel, "typed_filter_metadata"),
	"config.core.v3.TypedExtensionConfig":     honour("name typed_config"),
	"config.core.v3.TransportSocket":          honour("name typed_config"),
	"config.core.v3.DataSource":               honour("filename inline_bytes inline_string environment_variable"),
	"config.core.v3.HeaderValueOption":        honour("header append append_action keep_empty_value"),
	"config.core.v3.HeaderValue":              honour("key value raw_value"),
	"config.core.v3.SubstitutionFormatString": honour("text_format text_format_source content_type"),
	"config.core.v3.ConfigSource":             honour("ads api_config_source path_config_source initial_fetch_timeout resource_api_version"),
	"config.core.v3.AggregatedConfigSource":   honour(""),
	"config.core.v3.PathConfigSource":         honour("path"),
	"config.core.v3.ApiConfigSource":          honour("api_type transport_api_version grpc_services set_node_on_first_message_only"),
	"config.core.v3.GrpcService":              honour("envoy_grpc").but("a stream has no time limit", "timeout"),
	"config.core.v3.GrpcService.EnvoyGrpc":    honour("cluster_name authority").but("messages are not limited", "max_receive_message_length"),
	"config.core.v3.HttpProtocolOptions":      honour("idle_timeout headers_with_underscores_action"),
	"config.core.v3.Http1ProtocolOptions":     rule{}.but("Go's net/http always speaks it so", "enable_trailers accept_http_10 allow_absolute_url"),
	"config.core.v3.Http2ProtocolOptions": honour("connection_keepalive").
		but(whyHTTP2, "max_concurrent_streams initial_stream_window_size initial_connection_window_size override_stream_error_on_invalid_http_message"),
	"config.core.v3.KeepaliveSettings":                     honour("interval timeout").but(whyHTTP2, "interval_jitter connection_idle_interval"),
	"type.matcher.v3.HttpRequestHeaderMatchInput":          honour("header_name"),
	"type.matcher.v3.StringMatcher":                        honour("exact prefix suffix safe_regex contains ignore_case"),
	"type.matcher.v3.RegexMatcher":                         honour("regex").but("RE2 is what Go's regexp is", "google_re2"),
	"type.matcher.v3.RegexMatchAndSubstitute":              honour("pattern substitution"),
	"extensions.transport_sockets.raw_buffer.v3.RawBuffer": honour(""),
	"extensions.transport_sockets.tls.v3.UpstreamTlsContext": honour("common_tls_context sni").
		but("no TLS session is resumed", "max_session_keys"),
	"extensions.transport_sockets.tls.v3.DownstreamTlsContext": honour("common_tls_context require_client_certificate").
		but("no TLS session is resumed over a restart", "disable_stateful_session_resumption disable_stateless_session_resumption session_timeout"),
	"extensions.transport_sockets.tls.v3.CommonTlsContext": honour(`tls_params tls_certificates tls_certificate_sds_secret_configs
		validation_context validation_context_sds_secret_config combined_validation_context alpn_protocols`),
	"extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": honour(`default_validation_context
		validation_context_sds_secret_config`),
	"extensions.transport_sockets.tls.v3.TlsParameters": honour("tls_minimum_protocol_version tls_maximum_protocol_version").
		but("Go's crypto/tls chooses among the safe ones", "cipher_suites ecdh_curves signature_algorithms"),
	"extensions.transport_sockets.tls.v3.SdsSecretConfig":                              honour("name sds_config"),
	"extensions.transport_sockets.tls.v3.Secret":                                       honour("name tls_certificate validation_context"),
	"extensions.transport_sockets.tls.v3.TlsCertificate":                               honour("certificate_chain private_key"),
	"extensions.transport_sockets.tls.v3.CertificateValidationContext":                 honour("trusted_ca system_root_certs match_typed_subject_alt_names trust_chain_verification"),
	"extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts": honour(""),
	"extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                        honour("san_type matcher"),
}
