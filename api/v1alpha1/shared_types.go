package v1alpha1

// Tag is a tag of a tailnet's policy file, such as tag:k8s.
//
// +kubebuilder:validation:MinLength=5
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:Pattern=`^tag:[a-zA-Z][a-zA-Z0-9-]*$`
type Tag string

// Address is an IPv4 or IPv6 address.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=45
type Address string

// ClusterName is the name of a member cluster, an RFC 1123 label.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
type ClusterName string

// GatewayReference names a Gateway in the namespace of the object that refers to it.
type GatewayReference struct {
	// Group of the Gateway. There is only one, and it may be left out.
	//
	// +optional
	// +kubebuilder:validation:Enum=gateway.networking.k8s.io
	// +kubebuilder:default=gateway.networking.k8s.io
	Group string `json:"group,omitempty"`

	// Kind of the Gateway. There is only one, and it may be left out.
	//
	// +optional
	// +kubebuilder:validation:Enum=Gateway
	// +kubebuilder:default=Gateway
	Kind string `json:"kind,omitempty"`

	// Name of the Gateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// TailnetReference names a TailscaleTailnet in the hub's cluster.
type TailnetReference struct {
	// Group of the TailscaleTailnet. There is only one, and it may be left out.
	//
	// +optional
	// +kubebuilder:validation:Enum=gateway.tailscale.com
	// +kubebuilder:default=gateway.tailscale.com
	Group string `json:"group,omitempty"`

	// Kind of the TailscaleTailnet. There is only one, and it may be left out.
	//
	// +optional
	// +kubebuilder:validation:Enum=TailscaleTailnet
	// +kubebuilder:default=TailscaleTailnet
	Kind string `json:"kind,omitempty"`

	// Name of the TailscaleTailnet.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// LocalReference names an object in the namespace of the object that refers to it.
type LocalReference struct {
	// Name of the object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}
