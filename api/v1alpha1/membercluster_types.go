package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MemberCluster is a cluster of the federation. Its name is the cluster id, the value of the member's
// cluster.clusterset.k8s.io ClusterProperty. The hub creates it when a spoke asks to join; create it yourself with
// accepted set to let a cluster in without asking. Deleting it removes the cluster and all its VIPs from the
// federation.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=member,categories={tailscale,tailgate}
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="metadata.name is the cluster id and must be an RFC 1123 label: at most 63 lower case letters, digits and '-', without dots"
// +kubebuilder:printcolumn:name="Accepted",type="boolean",JSONPath=".spec.accepted",description="Whether an administrator let the cluster in."
// +kubebuilder:printcolumn:name="Connected",type="string",JSONPath=".status.conditions[?(@.type=='Connected')].status",description="Whether the hub hears the cluster."
// +kubebuilder:printcolumn:name="Synced",type="string",JSONPath=".status.conditions[?(@.type=='Synced')].status",description="Whether the hub has read all of the cluster's objects."
// +kubebuilder:printcolumn:name="Exports",type="integer",JSONPath=".status.exports",description="Services and listeners that the cluster exports."
// +kubebuilder:printcolumn:name="Region",type="string",JSONPath=".spec.region",priority=1,description="Region of the cluster."
// +kubebuilder:printcolumn:name="Spoke",type="string",JSONPath=".status.versions.spoke",priority=1,description="Version of the spoke."
// +kubebuilder:printcolumn:name="Last seen",type="date",JSONPath=".status.lastSeen",description="Time since the hub last heard the cluster."
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type MemberCluster struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is the cluster id.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you want of the cluster.
	//
	// +optional
	Spec MemberClusterSpec `json:"spec,omitzero"`
	// Status is what the hub sees of the cluster.
	//
	// +optional
	Status MemberClusterStatus `json:"status,omitzero"`
}

// MemberClusterSpec says whether a cluster may take part, and where it is.
type MemberClusterSpec struct {
	// Accepted lets the cluster take part. Until it is true, the hub neither reads from the cluster nor tells it
	// anything. Setting it back to false takes the cluster out of the federation as if it had left.
	//
	// +optional
	// +kubebuilder:default=false
	Accepted bool `json:"accepted"`

	// Region of the cluster, as in the label topology.kubernetes.io/region. Traffic stays in a region while it can.
	// Default: what the spoke says.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Region string `json:"region,omitempty"`

	// Zone of the cluster, as in the label topology.kubernetes.io/zone. Traffic stays in a zone while it can. Default:
	// what the spoke says.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Zone string `json:"zone,omitempty"`
}

// MemberClusterStatus is what the hub sees of a cluster.
type MemberClusterStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Accepted, Connected, Synced.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// NodeID is the stable id of the tailnet node that holds this cluster id. Another node that asks to join under the
	// same id is refused. To let a rebuilt spoke in under the old id, delete the MemberCluster.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	NodeID string `json:"nodeID,omitempty"`

	// Devices are the tailnet nodes of the member's proxies, those that are away for now among them. They are deleted with the
	// one of NodeID when the member leaves for good.
	//
	// +optional
	// +listType=map
	// +listMapKey=nodeID
	// +kubebuilder:validation:MaxItems=256
	Devices []MemberDevice `json:"devices,omitempty"`

	// Addresses of that node on the tailnet.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	Addresses []Address `json:"addresses,omitempty"`

	// Versions of what runs in the cluster, as the spoke says.
	//
	// +optional
	Versions MemberVersions `json:"versions,omitzero"`

	// FirstJoined is when a spoke first joined under this id.
	//
	// +optional
	FirstJoined *metav1.Time `json:"firstJoined,omitempty"`

	// LastSeen is when the hub last heard the spoke, if that was some time ago. While the cluster is connected it hears it all
	// the time, and the time stands here at which it was last written what the cluster has reached; when the cluster is lost, it
	// is written at once.
	//
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`

	// Epoch is the hub's epoch that the spoke last applied a state of.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Epoch int64 `json:"epoch,omitempty"`

	// SnapshotVersion is the version of the state that the spoke last applied.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	SnapshotVersion int64 `json:"snapshotVersion,omitempty"`

	// Exports is the number of Services and listeners that the cluster exports.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Exports int32 `json:"exports,omitempty"`
}

// MemberDevice is a proxy's node of a tailnet.
type MemberDevice struct {
	// NodeID is its stable id.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	NodeID string `json:"nodeID"`

	// Tailnet is the TailscaleTailnet that it is in; empty for the one that hub and spokes are on.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Tailnet string `json:"tailnet,omitempty"`
}

// MemberVersions are the versions of what runs in a member cluster.
type MemberVersions struct {
	// Spoke is the version of the spoke.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Spoke string `json:"spoke,omitempty"`

	// Kubernetes is the version of the API server.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Kubernetes string `json:"kubernetes,omitempty"`

	// EnvoyGateway is the version of Envoy Gateway.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	EnvoyGateway string `json:"envoyGateway,omitempty"`
}

// MemberClusterList is a list of MemberClusters.
//
// +kubebuilder:object:root=true
type MemberClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []MemberCluster `json:"items"`
}
