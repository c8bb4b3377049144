package v1alpha1

// Condition types. A condition that is absent was not looked at yet.
const (
	// ConditionReady sums up the other conditions of an object.
	//
	// True: the object does what its spec says. Reason: Ready.
	//
	// False: it does not, or not all of it. Reason: that of the first condition that keeps it from being ready.
	//
	// Unknown: nobody could look. Reason: Pending, HubUnreachable.
	ConditionReady = "Ready"

	// ConditionAccepted says whether the object can be acted on.
	//
	// True: what the object says is valid and everything it refers to exists; a MemberCluster was let in by an
	// administrator. Reason: Accepted.
	//
	// False: TailscaleTailnet: SecretNotFound, SecretForbidden, SecretInvalid, Invalid. TailscaleGateway: GatewayNotFound, TailnetNotFound,
	// Conflict, Invalid. TailscaleEndpoints: TailnetNotFound, Invalid. MemberCluster: NotAccepted, ClusterIDTaken.
	// FailoverPolicy: Invalid, Shadowed.
	ConditionAccepted = "Accepted"

	// ConditionAuthenticated says whether the Tailscale API takes the credentials of a TailscaleTailnet.
	//
	// True: the last call was answered. Reason: Authenticated.
	//
	// False: the API refused the credentials. Reason: Unauthorized, Revoked.
	//
	// Unknown: the API did not answer, or was not asked. What exists on the tailnet goes on working; changes wait. Reason:
	// APIUnreachable, APITimeout, APIError, NameNotResolved, RateLimited, UnexpectedAnswer, IdentityTokenFailed.
	ConditionAuthenticated = "Authenticated"

	// ConditionValidated says whether the credentials of a TailscaleTailnet may do what the hub needs.
	//
	// True: they have all scopes. That they own the tags shows when the first VIP is made. Reason: Validated.
	//
	// False: they lack some. Reason: MissingScope, Forbidden.
	//
	// Unknown: they could not be tried; the condition Authenticated says why. Reason: that of Authenticated.
	ConditionValidated = "Validated"

	// ConditionProgrammed says whether Envoy has what a TailscaleGateway asks for.
	//
	// True: Envoy Gateway has called the extension server for the current revision. Reason: Programmed.
	//
	// False: it has not yet, or some object was left out. Reason: Pending, ExtensionNotCalled, PartiallyInvalid.
	ConditionProgrammed = "Programmed"

	// ConditionHubConnected says whether a member's state is fresh.
	//
	// True: the spoke has a link to the hub and has applied what came over it. Reason: Connected.
	//
	// False: it has none. Traffic goes on from the last state that came, and fails over by what Envoy and the proxies
	// see for themselves; the condition's transition time says since when. Reason: HubUnreachable, JoinKeyRefused,
	// NotAccepted, ClusterIDTaken.
	ConditionHubConnected = "HubConnected"

	// ConditionConnected says whether the hub hears a member.
	//
	// True: the member's spoke holds its link and its API server answers. Reason: Connected.
	//
	// False: the transition time says since when. Reason: NeverJoined, LinkLost, APIUnreachable.
	ConditionConnected = "Connected"

	// ConditionSynced says whether the hub has read all of a member's objects.
	//
	// True: every watch on the member's API server has its first full list and has been confirmed since. Reason:
	// Synced.
	//
	// False: what the hub knows of the member is incomplete or old. Reason: Syncing, APIUnreachable.
	ConditionSynced = "Synced"

	// ConditionDiscovered says what came of a TailscaleEndpoints' autoDiscovery.
	//
	// True: the set has what matches in the tailnet. Reason: Discovered.
	//
	// False: it has nothing, not all, or what matched some time ago. Reason: NoMatch, Invalid, TooMany, TailnetNotFound,
	// HubUnreachable, APIError.
	ConditionDiscovered = "Discovered"

	// ConditionProxiesReady says whether a cluster's proxies carry traffic.
	//
	// True: at least one proxy of every needed role is on the tailnet and has applied its configuration. Reason:
	// ProxiesReady.
	//
	// False: Reason: ProxiesNotReady, ProxyRefusedConfig, and where the proxies are StatefulSets also Pending, Conflict,
	// Invalid.
	ConditionProxiesReady = "ProxiesReady"
)

// Reasons of conditions that are True.
const (
	// ReasonReady is the reason of Ready=True.
	ReasonReady = "Ready"
	// ReasonAccepted is the reason of Accepted=True.
	ReasonAccepted = "Accepted"
	// ReasonAuthenticated is the reason of Authenticated=True.
	ReasonAuthenticated = "Authenticated"
	// ReasonValidated is the reason of Validated=True.
	ReasonValidated = "Validated"
	// ReasonProgrammed is the reason of Programmed=True.
	ReasonProgrammed = "Programmed"
	// ReasonConnected is the reason of Connected=True and HubConnected=True.
	ReasonConnected = "Connected"
	// ReasonSynced is the reason of Synced=True.
	ReasonSynced = "Synced"
	// ReasonProxiesReady is the reason of ProxiesReady=True.
	ReasonProxiesReady = "ProxiesReady"
)

// Reasons of conditions that are False or Unknown.
const (
	// ReasonPending: work has begun and nothing went wrong so far.
	ReasonPending = "Pending"
	// ReasonInvalid: the object contradicts itself in a way that its schema cannot tell.
	ReasonInvalid = "Invalid"
	// ReasonConflict: an older object already claims the same thing; the message names it.
	ReasonConflict = "Conflict"
	// ReasonShadowed: another FailoverPolicy, which the message names, comes first by precedence and selects all that
	// this one does, so that this one never counts.
	ReasonShadowed = "Shadowed"

	// ReasonSecretNotFound: the Secret with the OAuth client does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretForbidden: the hub may not read the Secret with the OAuth client.
	ReasonSecretForbidden = "SecretForbidden"
	// ReasonSecretInvalid: the Secret lacks the key client_id or client_secret, or one of them is empty.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonUnauthorized: the Tailscale API refuses the credentials, and never took them.
	ReasonUnauthorized = "Unauthorized"
	// ReasonRevoked: the Tailscale API refuses credentials that it took before, so they were revoked or have expired.
	ReasonRevoked = "Revoked"
	// ReasonIdentityTokenFailed: the hub got no identity token from the API server of its own cluster; the message says
	// why.
	ReasonIdentityTokenFailed = "IdentityTokenFailed"
	// ReasonMissingScope: the credentials lack scopes, or may only read; the message names them.
	ReasonMissingScope = "MissingScope"
	// ReasonForbidden: the Tailscale API forbids a call for another reason than a scope; the message has it.
	ReasonForbidden = "Forbidden"
	// ReasonAPIUnreachable: the API did not answer; for a MemberCluster its API server, for a TailscaleTailnet the
	// Tailscale API.
	ReasonAPIUnreachable = "APIUnreachable"
	// ReasonAPITimeout: the Tailscale API did not answer in time.
	ReasonAPITimeout = "APITimeout"
	// ReasonAPIError: the Tailscale API answered that it has a problem of its own (status 5xx).
	ReasonAPIError = "APIError"
	// ReasonNameNotResolved: the name of the Tailscale API cannot be resolved where the hub runs.
	ReasonNameNotResolved = "NameNotResolved"
	// ReasonUnexpectedAnswer: what answers at apiURL is not the Tailscale API, or does not know the tailnet.
	ReasonUnexpectedAnswer = "UnexpectedAnswer"
	// ReasonInUse: the object is deleted and waits until the tailnet has no VIP of this federation left; the message names
	// those that it has.
	ReasonInUse = "InUse"
	// ReasonRateLimited: the Tailscale API asked to be called less often; the message says when the next call is due.
	ReasonRateLimited = "RateLimited"

	// ReasonGatewayNotFound: the Gateway of gatewayRef does not exist in the object's namespace.
	ReasonGatewayNotFound = "GatewayNotFound"
	// ReasonTailnetNotFound: no TailscaleTailnet of that name exists in the hub's cluster.
	ReasonTailnetNotFound = "TailnetNotFound"
	// ReasonExtensionNotCalled: Envoy Gateway has not called the extension server; most often its extensionManager is
	// not configured.
	ReasonExtensionNotCalled = "ExtensionNotCalled"
	// ReasonPartiallyInvalid: some objects could not be programmed and were left out; the message names the first.
	ReasonPartiallyInvalid = "PartiallyInvalid"
	// ReasonDiscovered: the set has what autoDiscovery asks for.
	ReasonDiscovered = "Discovered"
	// ReasonNoMatch: no device and no VIP of the tailnet is what autoDiscovery asks for.
	ReasonNoMatch = "NoMatch"
	// ReasonTooMany: more match than a set can have.
	ReasonTooMany = "TooMany"
	// ReasonHubUnreachable: the spoke has no link to the hub.
	ReasonHubUnreachable = "HubUnreachable"
	// ReasonJoinKeyRefused: the tailnet does not let the spoke in with the key that it has, or it has none.
	ReasonJoinKeyRefused = "JoinKeyRefused"
	// ReasonProxiesNotReady: a needed proxy is not on the tailnet yet, or not any more.
	ReasonProxiesNotReady = "ProxiesNotReady"
	// ReasonProxyRefusedConfig: a proxy could not apply part of its configuration; the message says which and why.
	ReasonProxyRefusedConfig = "ProxyRefusedConfig"
	// ReasonNoEndpoints: nothing is selected, so there is nothing to send traffic to.
	ReasonNoEndpoints = "NoEndpoints"

	// ReasonNotAccepted: a spoke asks to join and an administrator has not set spec.accepted.
	ReasonNotAccepted = "NotAccepted"
	// ReasonClusterIDTaken: another tailnet node holds this cluster id.
	ReasonClusterIDTaken = "ClusterIDTaken"
	// ReasonNeverJoined: no spoke has joined under this name.
	ReasonNeverJoined = "NeverJoined"
	// ReasonLinkLost: the spoke's link is closed or has been silent for too long.
	ReasonLinkLost = "LinkLost"
	// ReasonSyncing: the first lists from the member's API server are under way.
	ReasonSyncing = "Syncing"
)
