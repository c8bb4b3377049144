package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TailscaleTailnet describes a tailnet and names the credentials by which the hub manages it: VIPs, auth keys of the
// proxies, approvals. It lives in the hub's cluster, and its credentials never leave it.
//
// One that is deleted stays until the tailnet has no VIP of this federation left, because without it nobody could
// delete them: its condition Ready names those that are left.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=tstailnet,categories={tailscale,tailgate}
// +kubebuilder:printcolumn:name="Tailnet",type="string",JSONPath=".status.tailnetInfo.name",description="Name of the tailnet."
// +kubebuilder:printcolumn:name="MagicDNS",type="string",JSONPath=".status.tailnetInfo.magicDNSSuffix",description="Domain that the names of devices and VIPs end in.",priority=1
// +kubebuilder:printcolumn:name="Devices",type="integer",JSONPath=".status.deviceCount",description="Devices of the tailnet."
// +kubebuilder:printcolumn:name="VIPs",type="integer",JSONPath=".status.vipCount",description="VIPs that Tailgate keeps on the tailnet."
// +kubebuilder:printcolumn:name="Client",type="string",JSONPath=".status.credentials.clientID",description="OAuth client or federated identity in use.",priority=1
// +kubebuilder:printcolumn:name="Expires",type="date",JSONPath=".status.credentials.expiresAt",description="When the credentials expire, where the Tailscale API says so.",priority=1
// +kubebuilder:printcolumn:name="Ready",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].status",description="Whether the hub can manage the tailnet."
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason",description="Why it can or cannot."
// +kubebuilder:printcolumn:name="Last Sync",type="date",JSONPath=".status.lastSyncTime",description="When the Tailscale API last told something new.",priority=1
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type TailscaleTailnet struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you want of the tailnet.
	//
	// +required
	Spec TailscaleTailnetSpec `json:"spec"`
	// Status is what the hub found.
	//
	// +optional
	Status TailscaleTailnetStatus `json:"status,omitzero"`
}

// TailscaleTailnetSpec says which tailnet, and by which credentials: an OAuth client, whose secret a Secret holds, or a
// federated identity, which needs no secret.
//
// +kubebuilder:validation:XValidation:rule="has(self.oauthSecretName) != has(self.workloadIdentity)",message="set exactly one of oauthSecretName, for an OAuth client, and workloadIdentity, for a federated identity"
// +kubebuilder:validation:XValidation:rule="!has(self.oauthSecretNamespace) || has(self.oauthSecretName)",message="oauthSecretNamespace goes with oauthSecretName: remove it, or name the Secret"
type TailscaleTailnetSpec struct {
	// OAuthSecretName is the name of the Secret with the OAuth client, in its keys client_id and client_secret. The
	// client needs the scopes auth_keys, devices:core and services, all with write access, and must own the tags below.
	// A changed Secret takes effect at once.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	OAuthSecretName string `json:"oauthSecretName,omitempty"`

	// OAuthSecretNamespace is the namespace of that Secret. Default: the namespace that the hub runs in. For another
	// one, let the hub's ServiceAccount get the Secret; without the right to watch it as well, a changed Secret takes
	// effect after half a minute.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	OAuthSecretNamespace string `json:"oauthSecretNamespace,omitempty"`

	// WorkloadIdentity names a federated identity of the tailnet, which trusts the ServiceAccount of the hub. It needs the
	// same scopes and tags as an OAuth client.
	//
	// +optional
	WorkloadIdentity *WorkloadIdentity `json:"workloadIdentity,omitempty"`

	// Tailnet is the name of the tailnet in API calls. The default "-" is the tailnet that the credentials belong to.
	//
	// +optional
	// +kubebuilder:default="-"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Tailnet string `json:"tailnet,omitempty"`

	// Tags that every VIP and every proxy on this tailnet gets. The policy file must define them, and the credentials must
	// own them. A VIP can be reached by whom the policy file grants access to its tags. When the tags change, VIPs that
	// are there get the new ones; proxies get them when they next join.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Tags []Tag `json:"tags,omitempty"`

	// APIURL is the address of the Tailscale API. Default: https://api.tailscale.com.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https']",message="apiURL must be an http or https URL, such as https://api.tailscale.com"
	APIURL string `json:"apiURL,omitempty"`

	// ControlURL is the address of the control server that the proxies log in to. Default: the hub's own for the tailnet that
	// the hub is on, otherwise https://controlplane.tailscale.com.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https']",message="controlURL must be an http or https URL, such as https://controlplane.tailscale.com"
	ControlURL string `json:"controlURL,omitempty"`
}

// WorkloadIdentity is a federated identity (in the admin console: Settings, Trust credentials, OpenID Connect). Its issuer
// is that of the hub's API server (kubectl get --raw /.well-known/openid-configuration), whose keys Tailscale must be able
// to fetch; its subject is system:serviceaccount:, the hub's namespace, a colon and the name of the hub's ServiceAccount.
type WorkloadIdentity struct {
	// ClientID of the federated identity.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClientID string `json:"clientID"`

	// Audience that the federated identity asks for. The hub requests tokens of its own ServiceAccount with it, and sends
	// them to the Tailscale API; so it must not be an audience that the API server of the hub's cluster takes itself.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Audience string `json:"audience"`
}

// CredentialsType is a kind of credentials.
//
// +kubebuilder:validation:Enum=OAuthClient;WorkloadIdentity
type CredentialsType string

const (
	// CredentialsOAuthClient are the id and the secret of an OAuth client.
	CredentialsOAuthClient CredentialsType = "OAuthClient"
	// CredentialsWorkloadIdentity are identity tokens of the hub's ServiceAccount.
	CredentialsWorkloadIdentity CredentialsType = "WorkloadIdentity"
)

// TailnetCredentials says which credentials the hub uses.
type TailnetCredentials struct {
	// Type of the credentials.
	//
	// +required
	Type CredentialsType `json:"type"`

	// ClientID of the OAuth client or federated identity. It is no secret.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ClientID string `json:"clientID,omitempty"`

	// ExpiresAt is when the OAuth client or federated identity itself expires. It is absent where the Tailscale API does
	// not say, and for credentials that do not expire. The access tokens that the hub gets by them do not count.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// TailscaleTailnetStatus is what the hub found.
type TailscaleTailnetStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Accepted, Authenticated, Validated.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// TailnetInfo is what the tailnet says about itself.
	//
	// +optional
	TailnetInfo *TailnetInfo `json:"tailnetInfo,omitempty"`

	// Credentials are those in use.
	//
	// +optional
	Credentials *TailnetCredentials `json:"credentials,omitempty"`

	// DeviceCount is the number of the tailnet's devices that the credentials may see. It is read every few minutes.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	DeviceCount *int32 `json:"deviceCount,omitempty"`

	// VIPCount is the number of VIPs that this federation keeps on the tailnet. It is read every few minutes.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	VIPCount *int32 `json:"vipCount,omitempty"`

	// LastSyncTime is when the Tailscale API last told something that this status did not say yet. Answers that confirm
	// what is here do not move it: that the last one was good, the condition Authenticated says.
	//
	// +optional
	LastSyncTime *metav1.Time `json:"lastSyncTime,omitempty"`
}

// TailnetInfo is what a tailnet says about itself.
type TailnetInfo struct {
	// Name of the tailnet.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// MagicDNSSuffix is the domain that the names of devices and VIPs end in.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	MagicDNSSuffix string `json:"magicDNSSuffix,omitempty"`
}

// TailscaleTailnetList is a list of TailscaleTailnets.
//
// +kubebuilder:object:root=true
type TailscaleTailnetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []TailscaleTailnet `json:"items"`
}
