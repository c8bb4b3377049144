package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TailscaleTailnet describes a tailnet and names the OAuth client by which the hub manages it: VIPs, auth keys of the
// proxies, approvals. It lives in the hub's cluster, and its credentials never leave it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=tstailnet,categories={tailscale,tailgate}
// +kubebuilder:printcolumn:name="Tailnet",type="string",JSONPath=".status.tailnetInfo.name",description="Name of the tailnet."
// +kubebuilder:printcolumn:name="Devices",type="integer",JSONPath=".status.deviceCount",description="Devices of the tailnet."
// +kubebuilder:printcolumn:name="Ready",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].status",description="Whether the hub can manage the tailnet."
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason",description="Why it can or cannot."
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

// TailscaleTailnetSpec says which tailnet, and by which credentials.
type TailscaleTailnetSpec struct {
	// OAuthSecretName is the name of the Secret with the OAuth client, in its keys client_id and client_secret. The
	// client needs the scopes auth_keys, devices:core and services, all with write access, and must own the tags below.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	OAuthSecretName string `json:"oauthSecretName"`

	// OAuthSecretNamespace is the namespace of that Secret. Default: the namespace that the hub runs in.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	OAuthSecretNamespace string `json:"oauthSecretNamespace,omitempty"`

	// Tailnet is the name of the tailnet in API calls. The default "-" is the tailnet that the OAuth client belongs to.
	//
	// +optional
	// +kubebuilder:default="-"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Tailnet string `json:"tailnet,omitempty"`

	// Tags that every VIP and every proxy on this tailnet gets. The policy file must define them. A VIP can be reached
	// by whom the policy file grants access to its tags.
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

	// ControlURL is the address of the control server that the proxies log in to. Default:
	// https://controlplane.tailscale.com.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https']",message="controlURL must be an http or https URL, such as https://controlplane.tailscale.com"
	ControlURL string `json:"controlURL,omitempty"`
}

// TailscaleTailnetStatus is what the hub found.
type TailscaleTailnetStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Accepted, Authenticated.
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

	// DeviceCount is the number of the tailnet's devices that the OAuth client may see.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	DeviceCount *int32 `json:"deviceCount,omitempty"`

	// VIPCount is the number of VIPs that Tailgate keeps on the tailnet.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	VIPCount *int32 `json:"vipCount,omitempty"`

	// LastSyncTime is when the Tailscale API last answered.
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
