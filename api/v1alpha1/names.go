package v1alpha1

// LabelVIPService with the value "true" is on the Services that stand for VIPs in a member cluster. They are never
// exported themselves.
const LabelVIPService = GroupName + "/vip-service"

// What else the Services that stand for VIPs carry.
const (
	// LabelCluster is the cluster that owns the VIP; a federated VIP has none.
	LabelCluster = GroupName + "/cluster"
	// LabelTarget says where the VIP leads, as far as a label can: `kubectl get services -L` shows it.
	LabelTarget = GroupName + "/target"
	// AnnotationTarget says where each port of the VIP leads.
	AnnotationTarget = GroupName + "/target"
	// AnnotationTailscaleService is the Tailscale Service that holds an own VIP, with svc: before its name.
	AnnotationTailscaleService = GroupName + "/tailscale-service"
	// AnnotationUnreachable says why pods cannot reach a VIP through its Service, and what to do.
	AnnotationUnreachable = GroupName + "/unreachable"
	// LoadBalancerClassVIP is the class of these Services: the load balancer is the tailnet, and the spoke writes its
	// addresses. No other controller is to touch them.
	LoadBalancerClassVIP = GroupName + "/vip"
)

// What the objects of the proxies carry.
const (
	// LabelTailnet is the TailscaleTailnet whose proxies an object belongs to. A name that is too long for a label is cut,
	// with a hash; the annotation of the same name has all of it.
	LabelTailnet = GroupName + "/tailnet"
	// LabelProxyRole is the role of these proxies: ingress or egress.
	LabelProxyRole = GroupName + "/proxy-role"
	// AnnotationTailnet is the TailscaleTailnet whose proxies an object belongs to.
	AnnotationTailnet = GroupName + "/tailnet"
)

// TagEndpoint is the tag of devices and Tailscale Services that are in the TailscaleEndpoints which each TailscaleGateway gets
// for each of its tailnets, called <TailscaleGateway>-<tailnet>.
const TagEndpoint Tag = "tag:tailgate-endpoint"

// Kinds of this group, as references name them.
const (
	// KindFailoverPolicy is the kind of [FailoverPolicy].
	KindFailoverPolicy = "FailoverPolicy"
	// KindMemberCluster is the kind of [MemberCluster].
	KindMemberCluster = "MemberCluster"
	// KindTailscaleEndpoints is the kind of [TailscaleEndpoints].
	KindTailscaleEndpoints = "TailscaleEndpoints"
	// KindTailscaleGateway is the kind of [TailscaleGateway].
	KindTailscaleGateway = "TailscaleGateway"
	// KindTailscaleRoutePolicy is the kind of [TailscaleRoutePolicy].
	KindTailscaleRoutePolicy = "TailscaleRoutePolicy"
	// KindTailscaleTailnet is the kind of [TailscaleTailnet].
	KindTailscaleTailnet = "TailscaleTailnet"
)

// Keys of the Secret that a TailscaleTailnet names.
const (
	// SecretKeyClientID holds the id of the OAuth client.
	SecretKeyClientID = "client_id"
	// SecretKeyClientSecret holds the secret of the OAuth client.
	SecretKeyClientSecret = "client_secret"
)

// DefaultFailoverPolicy is the name of the FailoverPolicy that counts for whatever no other one selects.
const DefaultFailoverPolicy = "default"
