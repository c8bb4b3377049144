package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TailscaleRoutePolicy attaches Tailgate's routes to a Gateway. The spoke creates one for each Gateway that a
// TailscaleGateway names and owns it; there is no need to write one yourself. Envoy Gateway hands it to the extension
// server with every translation of its Gateway, and a change of its revision makes Envoy Gateway translate again.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=tailscaleroutepolicies,shortName=tsroute,categories={tailscale,tailgate}
// +kubebuilder:metadata:labels=gateway.networking.k8s.io/policy=Direct
// +kubebuilder:printcolumn:name="Gateway",type="string",JSONPath=".spec.targetRefs[0].name",description="Gateway that the routes are attached to."
// +kubebuilder:printcolumn:name="Revision",type="integer",JSONPath=".spec.revision",description="Revision of the injected structure."
// +kubebuilder:printcolumn:name="Accepted",type="string",JSONPath=".status.ancestors[0].conditions[?(@.type=='Accepted')].status",description="Whether Envoy Gateway took the policy."
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type TailscaleRoutePolicy struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec says which Gateway gets the routes of which TailscaleGateway.
	//
	// +required
	Spec TailscaleRoutePolicySpec `json:"spec"`
	// Status is written by Envoy Gateway, one ancestor for each Gateway.
	//
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitzero"`
}

// TailscaleRoutePolicySpec says which Gateway gets the routes of which TailscaleGateway.
type TailscaleRoutePolicySpec struct {
	// TargetRefs is the one Gateway that the routes are attached to, in the policy's namespace.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1
	// +kubebuilder:validation:XValidation:rule="self.all(r, r.group == 'gateway.networking.k8s.io' && r.kind == 'Gateway')",message="targetRefs must name a Gateway: group gateway.networking.k8s.io, kind Gateway"
	TargetRefs []gatewayv1.LocalPolicyTargetReference `json:"targetRefs"`

	// TailscaleGatewayRef names the TailscaleGateway that the routes come from, in the policy's namespace.
	//
	// +required
	TailscaleGatewayRef LocalReference `json:"tailscaleGatewayRef"`

	// Revision grows by one whenever the structure of the routes changed, and never for a change of endpoints.
	//
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	Revision int64 `json:"revision"`
}

// TailscaleRoutePolicyList is a list of TailscaleRoutePolicies.
//
// +kubebuilder:object:root=true
type TailscaleRoutePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []TailscaleRoutePolicy `json:"items"`
}
