package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TailscaleGateway joins a Gateway of Envoy Gateway to one or more tailnets: its listeners and the Services that it
// selects get VIPs, and the Gateway gets routes to the services of other clusters.
//
// The Gateway's routes are /gateway/<gateway>-<listener>/ to the Gateway itself, /cross-cluster/<service>-<cluster>/ to
// one cluster's copy of a service, /cross-cluster/<service>/ to the service wherever it is, and those of
// routeGeneration below.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=tsgw,categories={tailscale,tailgate}
// +kubebuilder:printcolumn:name="Gateway",type="string",JSONPath=".spec.gatewayRef.name",description="Gateway that is joined to the tailnets."
// +kubebuilder:printcolumn:name="Services",type="integer",JSONPath=".status.serviceCount",description="Services that have a VIP through this object or are reachable through its Gateway."
// +kubebuilder:printcolumn:name="Ready",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].status",description="Whether the Gateway is joined and its routes are in place."
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason",description="Why it is or is not."
// +kubebuilder:printcolumn:name="Hub",type="string",JSONPath=".status.conditions[?(@.type=='HubConnected')].status",priority=1,description="Whether the state is fresh."
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the object was created."
type TailscaleGateway struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you want of the Gateway.
	//
	// +required
	Spec TailscaleGatewaySpec `json:"spec"`
	// Status is what the spoke and the hub made of it.
	//
	// +optional
	Status TailscaleGatewayStatus `json:"status,omitzero"`
}

// TailscaleGatewaySpec says which Gateway is joined to which tailnets, and how.
type TailscaleGatewaySpec struct {
	// GatewayRef is the Gateway, in the namespace of this object. Of several TailscaleGateways that name the same
	// Gateway the oldest is used and the others are not accepted.
	//
	// +required
	GatewayRef GatewayReference `json:"gatewayRef"`

	// Tailnets that the Gateway is joined to.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Tailnets []TailnetConfig `json:"tailnets"`

	// ExtensionServer says how Envoy Gateway calls the extension server in this cluster. All TailscaleGateways of a
	// cluster share it, so the oldest one's settings count.
	//
	// +optional
	ExtensionServer *ExtensionServerConfig `json:"extensionServer,omitempty"`
}

// TailnetConfig says how a Gateway uses one tailnet.
type TailnetConfig struct {
	// Name of the tailnet within this object. It stands for {tailnet} in patterns and is part of the VIPs' names.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// TailscaleTailnetRef is the TailscaleTailnet, in the hub's cluster.
	//
	// +required
	TailscaleTailnetRef TailnetReference `json:"tailscaleTailnetRef"`

	// ServiceDiscovery says which Services of this cluster get a VIP on the tailnet. Default: those of the namespace of
	// this object.
	//
	// +optional
	ServiceDiscovery *ServiceDiscoveryConfig `json:"serviceDiscovery,omitempty"`

	// RouteGeneration says which routes the Gateway gets besides those that every joined Gateway gets.
	//
	// +optional
	RouteGeneration *RouteGenerationConfig `json:"routeGeneration,omitempty"`

	// Proxy says what the cluster's proxies on the tailnet are like. They are shared by all TailscaleGateways that name the
	// same TailscaleTailnet: of those with a proxy, the oldest one's counts as a whole, and the others are told if they say
	// something else. It has no effect where the proxies are not Kubernetes' to run.
	//
	// +optional
	Proxy *ProxyConfig `json:"proxy,omitempty"`
}

// ServicePattern selects Services by name. It is a name, for the namespace of the object that holds the pattern, or
// namespace/name; in both parts * stands for any characters. Examples: webapp, api-*, prod/*, */webapp.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=127
// +kubebuilder:validation:Pattern=`^[-a-z0-9*]+(/[-a-z0-9*]+)?$`
type ServicePattern string

// ServiceDiscoveryConfig says which Services of this cluster get a VIP.
type ServiceDiscoveryConfig struct {
	// Enabled gives the selected Services a VIP. When it is false, only the Gateway's listeners get one, and the
	// Services that ask for one by the annotation gateway.tailscale.com/expose: "true".
	//
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// Patterns select Services. Default: all of the namespace of this object. ExternalName Services, headless Services
	// and those without ports never get a VIP.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Patterns []ServicePattern `json:"patterns,omitempty"`

	// ExcludePatterns leave out Services that patterns select. The annotation gateway.tailscale.com/expose: "false" on a
	// Service does the same.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	ExcludePatterns []ServicePattern `json:"excludePatterns,omitempty"`

	// SyncInterval is how often the tailnet's own list of VIPs is compared with the one that Tailgate keeps. Changes in
	// clusters are seen at once, whatever this says. Between 10s and 1h.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('1h')",message="syncInterval must be between 10s and 1h"
	SyncInterval *metav1.Duration `json:"syncInterval,omitempty"`
}

// RouteProtocol is the protocol that a route's clients speak.
//
// +kubebuilder:validation:Enum=HTTP;HTTPS
type RouteProtocol string

// Protocols of generated routes.
const (
	// RouteProtocolHTTP attaches routes to the Gateway's HTTP listeners.
	RouteProtocolHTTP RouteProtocol = "HTTP"
	// RouteProtocolHTTPS attaches routes to the Gateway's HTTPS listeners.
	RouteProtocolHTTPS RouteProtocol = "HTTPS"
)

// HostPattern is a host name in which {service}, {namespace}, {tailnet} and {cluster} stand for those of the service.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[-a-z0-9.{}]+$`
// +kubebuilder:validation:XValidation:rule="self.contains('{service}')",message="hostPattern must contain {service}, such as {service}.example.com"
type HostPattern string

// PathPattern is a path prefix in which {service}, {namespace}, {tailnet} and {cluster} stand for those of the service.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^/[-a-zA-Z0-9._~{}/]*$`
type PathPattern string

// RouteGenerationConfig says which routes are generated. A direction that is left out gets none.
type RouteGenerationConfig struct {
	// Ingress are routes from the tailnet to the services of this cluster: a virtual host for each.
	//
	// +optional
	Ingress *IngressRouteConfig `json:"ingress,omitempty"`

	// Egress are routes from this cluster to the federation's services: a path prefix or a virtual host for each.
	//
	// +optional
	Egress *EgressRouteConfig `json:"egress,omitempty"`
}

// IngressRouteConfig says how services of this cluster are reached through the Gateway from the tailnet.
type IngressRouteConfig struct {
	// HostPattern makes the virtual host of a service.
	//
	// +optional
	// +kubebuilder:default="{service}.{tailnet}.gateway.local"
	HostPattern HostPattern `json:"hostPattern,omitempty"`

	// PathPrefix is where the service begins below its host. It is taken away before the service sees the request.
	//
	// +optional
	// +kubebuilder:default="/"
	PathPrefix PathPattern `json:"pathPrefix,omitempty"`

	// Protocol of the listeners that the routes are attached to.
	//
	// +optional
	// +kubebuilder:default=HTTPS
	Protocol RouteProtocol `json:"protocol,omitempty"`
}

// EgressRouteConfig says how the federation's services are reached through the Gateway from inside this cluster.
//
// +kubebuilder:validation:XValidation:rule="!has(self.pathPrefix) || has(self.hostPattern) || self.pathPrefix.contains('{service}')",message="pathPrefix must contain {service} where no hostPattern tells services apart, such as /api/{service}/"
type EgressRouteConfig struct {
	// HostPattern makes the virtual host of a service. Without it, the path prefix applies to all hosts.
	//
	// +optional
	HostPattern HostPattern `json:"hostPattern,omitempty"`

	// PathPrefix makes the path prefix of a service. It is taken away before the service sees the request.
	//
	// +optional
	// +kubebuilder:default="/tailscale/{service}/"
	PathPrefix PathPattern `json:"pathPrefix,omitempty"`

	// Protocol of the listeners that the routes are attached to.
	//
	// +optional
	// +kubebuilder:default=HTTP
	Protocol RouteProtocol `json:"protocol,omitempty"`
}

// ExtensionServerConfig says how Envoy Gateway calls the extension server.
type ExtensionServerConfig struct {
	// Port that the extension server listens on. The spoke's own settings decide it; one that differs from them is told in
	// the condition Accepted.
	//
	// +optional
	// +kubebuilder:default=5005
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// TLS is the extension server's certificate. The spoke makes and keeps it; one that is given here does not count, which
	// the condition Accepted tells.
	//
	// +optional
	TLS *ExtensionServerTLS `json:"tls,omitempty"`
}

// ExtensionServerTLS is the extension server's certificate.
type ExtensionServerTLS struct {
	// CertificateRef is a Secret of type kubernetes.io/tls in the namespace of this object. Its ca.crt, where there is
	// one, is what Envoy Gateway's own certificate is verified with.
	//
	// +required
	CertificateRef LocalReference `json:"certificateRef"`
}

// TailscaleGatewayStatus is what the spoke and the hub made of a TailscaleGateway.
type TailscaleGatewayStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Accepted, Programmed, HubConnected, ProxiesReady.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Tailnets that the Gateway is joined to.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Tailnets []TailnetStatus `json:"tailnets,omitempty"`

	// ServiceCount is the number of services that have a VIP through this object or are reachable through its Gateway.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	ServiceCount int32 `json:"serviceCount,omitempty"`

	// Services are the VIPs of those services: this cluster's own, and those of other clusters. These are the first 256, own
	// ones before others and then by name.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Services []ServiceStatus `json:"services,omitempty"`

	// GeneratedRoutes counts the routes that the Gateway got.
	//
	// +optional
	GeneratedRoutes *GeneratedRoutesStatus `json:"generatedRoutes,omitempty"`
}

// TailnetStatus is the state of one tailnet of a TailscaleGateway.
type TailnetStatus struct {
	// Name of the tailnet within this object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// DiscoveredServices is the number of Services and listeners of this cluster that have a VIP on the tailnet.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	DiscoveredServices int32 `json:"discoveredServices"`

	// RemoteServices is the number of services of other clusters that are reachable over the tailnet.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	RemoteServices int32 `json:"remoteServices"`

	// Conditions: Accepted.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ServiceStatus is a service of the federation as a Gateway sees it.
type ServiceStatus struct {
	// Name of the VIP in the registry, such as local-production-webapp or gateway-main-gateway-http-80. The VIP of another
	// cluster is called like its Service here, such as webapp-cluster2.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// TailscaleService is the name of the Tailscale Service that holds the VIP, such as svc:local-production-webapp-cluster2.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	TailscaleService string `json:"tailscaleService,omitempty"`

	// VIPAddresses are the addresses of the VIP. They stay for as long as the service is exported.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	VIPAddresses []Address `json:"vipAddresses,omitempty"`

	// OwnerCluster is the cluster that exports the service under this VIP.
	//
	// +optional
	OwnerCluster ClusterName `json:"ownerCluster,omitempty"`

	// ConsumerClusters are the clusters that refer to the service, the first 32 by name.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=1024
	ConsumerClusters []ClusterName `json:"consumerClusters,omitempty"`
}

// GeneratedRoutesStatus counts the routes that a Gateway got.
type GeneratedRoutesStatus struct {
	// Ingress is the number of routes to services of this cluster.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Ingress int32 `json:"ingress"`

	// Egress is the number of routes made by routeGeneration.egress.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Egress int32 `json:"egress"`

	// CrossCluster is the number of routes below /cross-cluster/.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	CrossCluster int32 `json:"crossCluster"`

	// Revision of the TailscaleRoutePolicy that Envoy Gateway last asked the extension server for.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Revision int64 `json:"revision"`

	// LastHookCall is when it asked for that revision.
	//
	// +optional
	LastHookCall *metav1.Time `json:"lastHookCall,omitempty"`
}

// TailscaleGatewayList is a list of TailscaleGateways.
//
// +kubebuilder:object:root=true
type TailscaleGatewayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	// Items of the list.
	Items []TailscaleGateway `json:"items"`
}
