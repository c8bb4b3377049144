// Package v1alpha1 holds the objects of the API group gateway.tailscale.com: what a user says to Tailgate, and what
// Tailgate says back.
//
// TailscaleTailnet, MemberCluster and FailoverPolicy live in the hub's cluster. TailscaleGateway, TailscaleEndpoints
// and TailscaleRoutePolicy live in a member cluster. The comments on types and fields are the reference that users read
// with kubectl explain.
//
// +kubebuilder:object:generate=true
// +groupName=gateway.tailscale.com
package v1alpha1
