package v1alpha1

// Annotations that a user may put on a Service. They say more than the patterns of a TailscaleGateway's service
// discovery.
const (
	// AnnotationPublishVIP with the value "true" gives the Service a VIP though no pattern selects it.
	AnnotationPublishVIP = GroupName + "/publish-vip"
	// AnnotationExcludeFromDiscovery with the value "true" keeps the Service from getting a VIP, whatever else
	// selects it.
	AnnotationExcludeFromDiscovery = GroupName + "/exclude-from-discovery"
)

// Kinds of this group, as references name them.
const (
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
