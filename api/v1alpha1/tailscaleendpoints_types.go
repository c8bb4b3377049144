package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TailscaleEndpoints is a set of endpoints on a tailnet that a route can send traffic to: name it as a backendRef of an
// HTTPRoute with group gateway.tailscale.com and kind TailscaleEndpoints. The endpoints are those listed, those of
// devices with a tag, and those of VIPs, together.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=tailscaleendpoints,singular=tailscaleendpoints,shortName=tsep,categories={tailscale,tailgate}
// +kubebuilder:printcolumn:name="Tailnet",type="string",JSONPath=".spec.tailnet",description="Tailnet that the endpoints are on."
// +kubebuilder:printcolumn:name="Endpoints",type="integer",JSONPath=".status.totalEndpoints",description="Endpoints in the set."
// +kubebuilder:printcolumn:name="Healthy",type="integer",JSONPath=".status.healthyEndpoints",description="Endpoints that pass their health check."
// +kubebuilder:printcolumn:name="Ready",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].status",description="Whether there is an endpoint to send traffic to."
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason",description="Why there is or is not."
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type TailscaleEndpoints struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec says which endpoints are in the set.
	//
	// +required
	Spec TailscaleEndpointsSpec `json:"spec"`
	// Status is what was found, and its health.
	//
	// +optional
	Status TailscaleEndpointsStatus `json:"status,omitzero"`
}

// TailscaleEndpointsSpec says which endpoints are in the set and what carries their traffic.
//
// +kubebuilder:validation:XValidation:rule="(has(self.endpoints) && size(self.endpoints) > 0) || has(self.autoDiscovery)",message="a set needs endpoints, autoDiscovery or both"
type TailscaleEndpointsSpec struct {
	// Tailnet is the name of the TailscaleTailnet, in the hub's cluster.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Tailnet string `json:"tailnet"`

	// Tags that the proxies of this set get besides those of the TailscaleTailnet.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Tags []Tag `json:"tags,omitempty"`

	// Proxy says what the proxies that carry the set's traffic are like. Default: the cluster's shared proxies.
	//
	// +optional
	Proxy *ProxyConfig `json:"proxy,omitempty"`

	// Ports that a discovered endpoint is reached on. An endpoint in the list below has a port of its own.
	//
	// +optional
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=64
	Ports []PortMapping `json:"ports,omitempty"`

	// Endpoints that are always in the set.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Endpoints []TailscaleEndpoint `json:"endpoints,omitempty"`

	// AutoDiscovery adds devices and VIPs of the tailnet to the set for as long as they match.
	//
	// +optional
	AutoDiscovery *EndpointAutoDiscovery `json:"autoDiscovery,omitempty"`
}

// ConnectionType says which way a proxy carries traffic.
//
// +kubebuilder:validation:Enum=ingress;egress;bidirectional
type ConnectionType string

// Ways that a proxy carries traffic.
const (
	// ConnectionIngress carries traffic from the tailnet into the cluster.
	ConnectionIngress ConnectionType = "ingress"
	// ConnectionEgress carries traffic from the cluster to the tailnet.
	ConnectionEgress ConnectionType = "egress"
	// ConnectionBidirectional carries both, by separate proxies.
	ConnectionBidirectional ConnectionType = "bidirectional"
)

// ProxyConfig says what proxies are like. They are StatefulSets in the spoke's namespace, one for each tailnet and role.
type ProxyConfig struct {
	// Replicas of each proxy. With two or more, one may die or be replaced without harm. Where something else scales the
	// StatefulSet, such as a HorizontalPodAutoscaler, its number counts.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	Replicas *int32 `json:"replicas,omitempty"`

	// ConnectionType says which proxies there are.
	//
	// +optional
	// +kubebuilder:default=bidirectional
	ConnectionType ConnectionType `json:"connectionType,omitempty"`

	// Image of the proxy. Default: the one that the spoke itself runs.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`

	// Resources of each proxy pod. Default: a request of 100m CPU and 128Mi memory, and a limit of 1Gi memory. They are
	// taken as they are given, without a part of the default; where they have no memory limit, the proxy keeps to about
	// 512Mi by itself. A limit below 256Mi costs throughput.
	//
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// NodeSelector that nodes must match to run a proxy.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Tolerations of the proxy pods.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// Affinity of the proxy pods. Default: none, see topologySpreadConstraints.
	//
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// TopologySpreadConstraints of the proxy pods. One without a labelSelector counts the pods of the same tailnet and role.
	// Default: evenly over nodes and zones as far as that is possible, unless there is an affinity.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`
}

// TransportProtocol is the protocol of a port.
//
// +kubebuilder:validation:Enum=TCP;UDP
type TransportProtocol string

// Protocols of ports.
const (
	// TransportTCP is TCP.
	TransportTCP TransportProtocol = "TCP"
	// TransportUDP is UDP.
	TransportUDP TransportProtocol = "UDP"
)

// PortMapping is a port of the set.
type PortMapping struct {
	// Name of the port.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// Port that routes refer to.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// Protocol of the port.
	//
	// +optional
	// +kubebuilder:default=TCP
	Protocol TransportProtocol `json:"protocol,omitempty"`

	// TargetPort is the endpoint's port. Default: the same as port.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	TargetPort *int32 `json:"targetPort,omitempty"`
}

// EndpointProtocol is the protocol that an endpoint speaks.
//
// +kubebuilder:validation:Enum=HTTP;HTTPS;GRPC;GRPCS;TLS;TCP;UDP
type EndpointProtocol string

// Protocols of endpoints.
const (
	// EndpointHTTP is HTTP without TLS, WebSocket with it.
	EndpointHTTP EndpointProtocol = "HTTP"
	// EndpointHTTPS is HTTP over TLS. The endpoint's certificate is not verified: WireGuard has proved whose device it is.
	EndpointHTTPS EndpointProtocol = "HTTPS"
	// EndpointGRPC is gRPC, or any HTTP/2, without TLS.
	EndpointGRPC EndpointProtocol = "GRPC"
	// EndpointGRPCS is the same over TLS.
	EndpointGRPCS EndpointProtocol = "GRPCS"
	// EndpointTLS is anything else over TLS.
	EndpointTLS EndpointProtocol = "TLS"
	// EndpointTCP is anything over TCP.
	EndpointTCP EndpointProtocol = "TCP"
	// EndpointUDP is anything over UDP.
	EndpointUDP EndpointProtocol = "UDP"
)

// TailscaleEndpoint is one endpoint of a set.
//
// +kubebuilder:validation:XValidation:rule="has(self.tailscaleIP) || has(self.tailscaleFQDN) || has(self.externalTarget)",message="an endpoint needs tailscaleIP, tailscaleFQDN or externalTarget"
// +kubebuilder:validation:XValidation:rule="!has(self.healthCheck) || !has(self.healthCheck.path) || self.protocol in ['HTTP', 'HTTPS']",message="healthCheck.path needs protocol HTTP or HTTPS"
// +kubebuilder:validation:XValidation:rule="!has(self.healthCheck) || !has(self.healthCheck.expectedStatuses) || has(self.healthCheck.path)",message="healthCheck.expectedStatuses needs healthCheck.path"
// +kubebuilder:validation:XValidation:rule="!has(self.healthCheck) || !has(self.healthCheck.service) || self.protocol in ['GRPC', 'GRPCS']",message="healthCheck.service needs protocol GRPC or GRPCS"
// +kubebuilder:validation:XValidation:rule="!has(self.externalTarget) || !(has(self.tailscaleIP) || has(self.tailscaleFQDN))",message="an endpoint is on the tailnet (tailscaleIP, tailscaleFQDN) or outside of it (externalTarget), not both"
type TailscaleEndpoint struct {
	// Name of the endpoint within the set.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// TailscaleIP is the endpoint's address on the tailnet.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="tailscaleIP must be an IPv4 or IPv6 address, such as 100.64.1.10"
	TailscaleIP Address `json:"tailscaleIP,omitempty"`

	// TailscaleFQDN is the endpoint's name on the tailnet. It is looked up again for every connection; where an address
	// is given as well, the address is used.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?$`
	TailscaleFQDN string `json:"tailscaleFQDN,omitempty"`

	// Port of the endpoint.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// Protocol that the endpoint speaks.
	//
	// +optional
	// +kubebuilder:default=HTTP
	Protocol EndpointProtocol `json:"protocol,omitempty"`

	// Tags that the endpoint's device has, for your own information.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Tags []Tag `json:"tags,omitempty"`

	// HealthCheck of the endpoint. Default: a connect, and what Envoy sees of the traffic.
	//
	// +optional
	HealthCheck *EndpointHealthCheck `json:"healthCheck,omitempty"`

	// Weight is the endpoint's share of the traffic, against the other endpoints' weights. An endpoint of weight 0 gets
	// none.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Weight *int32 `json:"weight,omitempty"`

	// ExternalTarget is the host:port outside the tailnet that an ingress proxy sends this endpoint's connections to. It
	// gives a service that is not on the tailnet a place there.
	//
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=261
	// +kubebuilder:validation:Pattern=`^([-a-zA-Z0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`
	ExternalTarget string `json:"externalTarget,omitempty"`
}

// StatusRange is a status of HTTP, such as 204, or a range of them with both ends in it, such as 200-299.
//
// +kubebuilder:validation:MaxLength=7
// +kubebuilder:validation:Pattern=`^[1-5][0-9]{2}(-[1-5][0-9]{2})?$`
// +kubebuilder:validation:XValidation:rule="!self.contains('-') || int(self.split('-')[0]) <= int(self.split('-')[1])",message="a range of statuses goes from the lower to the higher, such as 200-299"
type StatusRange string

// EndpointHealthCheck says when an endpoint counts as healthy. One that speaks gRPC is asked by grpc.health.v1, one that
// speaks HTTP by a request where a path is given, and all others are connected to, with TLS where they speak it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || !has(self.interval) || duration(self.timeout) <= duration(self.interval)",message="timeout must not be longer than interval"
type EndpointHealthCheck struct {
	// Enabled turns the check on.
	//
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// Path that is requested of an HTTP or HTTPS endpoint. Default: no request, a connection is enough.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path,omitempty"`

	// Host that the request names, and the name that TLS asks for. Default: the endpoint's tailscaleFQDN or tailscaleIP.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-a-zA-Z0-9.]*$`
	Host string `json:"host,omitempty"`

	// ExpectedStatuses are the statuses that are healthy. Default: 200-399. Redirects are not followed.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	ExpectedStatuses []StatusRange `json:"expectedStatuses,omitempty"`

	// Service that a gRPC endpoint is asked about. Default: the server as a whole.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Service string `json:"service,omitempty"`

	// Interval between two checks.
	//
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Interval *metav1.Duration `json:"interval,omitempty"`

	// Timeout of one check.
	//
	// +optional
	// +kubebuilder:default="3s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// HealthyThreshold is the number of good checks in a row that make an endpoint healthy.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	HealthyThreshold *int32 `json:"healthyThreshold,omitempty"`

	// UnhealthyThreshold is the number of failed checks in a row that make an endpoint unhealthy.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	UnhealthyThreshold *int32 `json:"unhealthyThreshold,omitempty"`
}

// EndpointAutoDiscovery finds endpoints on the tailnet.
type EndpointAutoDiscovery struct {
	// Enabled turns the discovery on.
	//
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// SyncInterval is how often the tailnet is asked. Between 10s and 1h.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('1h')",message="syncInterval must be between 10s and 1h"
	SyncInterval *metav1.Duration `json:"syncInterval,omitempty"`

	// TagSelectors select devices by their tags. A device is in the set if all selectors match it.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	TagSelectors []TagSelector `json:"tagSelectors,omitempty"`

	// ServiceDiscovery selects VIPs.
	//
	// +optional
	ServiceDiscovery *VIPServiceDiscoveryConfig `json:"serviceDiscovery,omitempty"`
}

// TagOperator says how a selector compares tags.
//
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
type TagOperator string

// Operators of tag selectors.
const (
	// TagIn matches a device that has the tag, or one of values.
	TagIn TagOperator = "In"
	// TagNotIn matches a device that has neither the tag nor one of values.
	TagNotIn TagOperator = "NotIn"
	// TagExists matches a device that has the tag.
	TagExists TagOperator = "Exists"
	// TagDoesNotExist matches a device that has not the tag.
	TagDoesNotExist TagOperator = "DoesNotExist"
)

// TagSelector selects devices by a tag.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",message="values go with the operators In and NotIn only"
type TagSelector struct {
	// Tag to look for.
	//
	// +required
	Tag Tag `json:"tag"`

	// Operator: Exists and DoesNotExist look for the tag alone, In and NotIn for the tag and all of values.
	//
	// +optional
	// +kubebuilder:default=Exists
	Operator TagOperator `json:"operator,omitempty"`

	// Values are more tags, of which any one is enough for In, and none may be there for NotIn.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Values []Tag `json:"values,omitempty"`
}

// VIPServiceDiscoveryConfig selects VIPs of the tailnet.
type VIPServiceDiscoveryConfig struct {
	// Enabled adds the selected VIPs to the set.
	//
	// +optional
	// +kubebuilder:default=false
	Enabled *bool `json:"enabled,omitempty"`

	// ServiceNames select VIPs by name, with or without svc: before it.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	ServiceNames []VIPServiceName `json:"serviceNames,omitempty"`

	// ServiceTags select VIPs that have one of these tags.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	ServiceTags []Tag `json:"serviceTags,omitempty"`
}

// VIPServiceName is the name of a Tailscale Service, with or without svc: before it.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=67
// +kubebuilder:validation:Pattern=`^(svc:)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type VIPServiceName string

// TailscaleEndpointsList is a list of TailscaleEndpoints.
//
// +kubebuilder:object:root=true
type TailscaleEndpointsList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []TailscaleEndpoints `json:"items"`
}
