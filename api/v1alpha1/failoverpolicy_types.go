package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FailoverPolicy says how services fail over: in which order a cluster uses the clusters that serve one, how much of the
// traffic each takes, and how long failover waits. It lives in the hub's cluster. Without any, traffic stays in its own
// cluster, then in the zone, then in the region, for as long as half of what serves there is ready.
//
// One policy counts for a service and the cluster that uses it, whole: policies are not merged. The more a policy says of
// what it selects, the earlier it is asked: those that select by name before those that do not; then more labels before
// fewer; then those that select by namespace before those that do not; then those for named consumers before those for
// all; then by their own names. The one named default selects nothing and counts for the rest.
//
// The times of the one named default also count for clusters as a whole: for their links, their API servers and the
// probes of their ingress. The times of the others count for what is judged service by service: readiness, and the probes
// of a service's VIP. A service is as good as the worse of the two, so that its policy can lengthen what default says and
// never shorten it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fop,categories={tailscale,tailgate}
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'default' || !has(self.spec.services) && !has(self.spec.consumers)",message="the FailoverPolicy named default counts for whatever no other one selects: leave services and consumers out of it, or give it another name"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || has(self.spec.services) || has(self.spec.consumers)",message="services or consumers must say what the policy is for; only the one named default counts for all the rest"
// +kubebuilder:printcolumn:name="Accepted",type="string",JSONPath=".status.conditions[?(@.type=='Accepted')].status",description="Whether the policy counts."
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Accepted')].reason",description="Why it does or does not."
// +kubebuilder:printcolumn:name="Min healthy",type="integer",JSONPath=".spec.minHealthyPercent",description="Percentage that must be ready for the first choice to take all of the traffic."
// +kubebuilder:printcolumn:name="Grace",type="string",JSONPath=".spec.grace",priority=1,description="How long a lost control view is borne."
// +kubebuilder:printcolumn:name="Failback",type="string",JSONPath=".spec.failbackDelay",priority=1,description="How long a service must have been good to serve again."
// +kubebuilder:printcolumn:name="Hold",type="string",JSONPath=".spec.hold",priority=1,description="Least time between two returns."
// +kubebuilder:printcolumn:name="Ramp",type="string",JSONPath=".spec.ramp",priority=1,description="How long the weight takes to rise or fall."
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type FailoverPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is how the services that it selects fail over.
	//
	// +required
	Spec FailoverPolicySpec `json:"spec"`
	// Status is what the hub made of it.
	//
	// +optional
	Status FailoverPolicyStatus `json:"status,omitzero"`
}

// FailoverPolicySpec says what a policy is for, and how that fails over.
type FailoverPolicySpec struct {
	// Services that the policy is for. Default: all.
	//
	// +optional
	Services *FailoverServices `json:"services,omitempty"`

	// Consumers are the clusters whose traffic the policy is for. Default: all.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Consumers []ClusterName `json:"consumers,omitempty"`

	// Order ranks the clusters that serve: those in the first place come first, those in no place come last. Clusters in
	// the same place rank by how near they are to the consumer, or share the traffic where weights say so. Put a zone
	// before its region. Default: the consumer's own cluster, its zone, its region, the rest.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(x, self.exists_one(y, x == y))",message="order must name no place twice"
	Order []FailoverPlace `json:"order,omitempty"`

	// Weights are the shares of clusters that stand in the same rank. A cluster that none names has 1; of several that
	// name it the narrowest counts: its name, then its zone, then its region. Weight 0 takes a cluster out of the first
	// rank: it serves when no other does.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(x, self.exists_one(y, (has(x.cluster) ? has(y.cluster) && x.cluster == y.cluster : has(y.region) && x.region == y.region && has(x.zone) == has(y.zone) && (!has(x.zone) || x.zone == y.zone))))",message="weights must name no place twice"
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || self.exists(x, x.weight > 0)",message="weights must not all be 0: give at least one place more, or leave weights out"
	Weights []FailoverWeight `json:"weights,omitempty"`

	// MinHealthyPercent is how many of a rank's endpoints must be ready, in percent, for the rank to take all of the
	// traffic. Where fewer are, what they lack spills over to the next rank: with 50 and a quarter of them ready, half of
	// the traffic. With 100, every endpoint that is not ready moves its part; with 1, traffic stays to the last.
	//
	// +optional
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinHealthyPercent int32 `json:"minHealthyPercent,omitempty"`

	// Grace is how long a lost control view, the spoke's link or the API server, is borne before it counts against a
	// cluster that probes do not reach either, or a lost link against one that nobody probes. Between 1s and 24h.
	//
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="grace must be between 1s and 24h"
	Grace *metav1.Duration `json:"grace,omitempty"`

	// FailbackDelay is how long a service must have been good in a cluster, without a break, before it serves from there
	// again. At most 24h.
	//
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('24h')",message="failbackDelay must be at most 24h"
	FailbackDelay *metav1.Duration `json:"failbackDelay,omitempty"`

	// Hold is the least time between two returns of a service to the same cluster: one that flaps stays out. At most 24h.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('24h')",message="hold must be at most 24h"
	Hold *metav1.Duration `json:"hold,omitempty"`

	// Ramp is how long the traffic takes to rise after a return, and to fall in a drain; 0s is at once. At most 24h.
	//
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('24h')",message="ramp must be at most 24h"
	Ramp *metav1.Duration `json:"ramp,omitempty"`
}

// FailoverServices selects services. What is set must all match.
//
// +kubebuilder:validation:MinProperties=1
type FailoverServices struct {
	// Namespaces of the services. Default: all.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespaces []string `json:"namespaces,omitempty"`

	// Names of the services: of a Service its name, of a listener gateway/listener. Default: all.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=507
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?((\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$`
	Names []string `json:"names,omitempty"`

	// MatchLabels are labels that the Service or the Gateway must all have. Clusters whose copy of a service lacks them
	// are judged by another policy.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	MatchLabels map[string]FailoverLabelValue `json:"matchLabels,omitempty"`
}

// FailoverLabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
type FailoverLabelValue string

// FailoverPlace names clusters: one by its name, or all of a region or of a zone.
//
// +kubebuilder:validation:XValidation:rule="has(self.cluster) != (has(self.region) || has(self.zone))",message="a place is one cluster, or a region and if need be a zone of it: set cluster or region, and not both"
// +kubebuilder:validation:XValidation:rule="!has(self.zone) || has(self.region)",message="a zone lies in a region: set region too"
type FailoverPlace struct {
	// Cluster is the name of a member cluster.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Cluster ClusterName `json:"cluster,omitempty"`

	// Region of the clusters, as their MemberClusters say.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Region string `json:"region,omitempty"`

	// Zone of the clusters, within the region.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Zone string `json:"zone,omitempty"`
}

// FailoverWeight is the share of the clusters in a place.
type FailoverWeight struct {
	FailoverPlace `json:",inline"`

	// Weight is the share of each of the clusters, relative to the others in the same rank: 0 to 1000.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Weight int32 `json:"weight"`
}

// FailoverPolicyStatus is what the hub made of a FailoverPolicy.
type FailoverPolicyStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Accepted. Where it is False, the message says what counts instead.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FailoverPolicyList is a list of FailoverPolicies.
//
// +kubebuilder:object:root=true
type FailoverPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []FailoverPolicy `json:"items"`
}
