package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TailscaleEndpointsStatus is what was found, and its health.
type TailscaleEndpointsStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Accepted, ProxiesReady, Discovered.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// TotalEndpoints is the number of endpoints in the set.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	TotalEndpoints int32 `json:"totalEndpoints,omitempty"`

	// DiscoveredEndpoints is how many of them autoDiscovery found.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	DiscoveredEndpoints int32 `json:"discoveredEndpoints,omitempty"`

	// HealthyEndpoints is how many of them pass their health check.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	HealthyEndpoints int32 `json:"healthyEndpoints,omitempty"`

	// Endpoints are the first 256, by name.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Endpoints []EndpointStatus `json:"endpoints,omitempty"`

	// LastSync is when the tailnet was last found to have something else of what autoDiscovery asks for. That it is asked
	// every syncInterval in between is not written down: it would be a write for each time.
	//
	// +optional
	LastSync *metav1.Time `json:"lastSync,omitempty"`
}

// EndpointHealth is the health of an endpoint.
//
// +kubebuilder:validation:Enum=Healthy;Unhealthy;Unknown;Disabled
type EndpointHealth string

// Health of endpoints.
const (
	// EndpointHealthy: the check passes.
	EndpointHealthy EndpointHealth = "Healthy"
	// EndpointUnhealthy: the check fails; no traffic goes there while another endpoint is healthy.
	EndpointUnhealthy EndpointHealth = "Unhealthy"
	// EndpointUnknown: not checked yet.
	EndpointUnknown EndpointHealth = "Unknown"
	// EndpointDisabled: the check is turned off.
	EndpointDisabled EndpointHealth = "Disabled"
)

// DiscoverySource says how an endpoint came into a set.
//
// +kubebuilder:validation:Enum=Manual;TagSelector;VIPService
type DiscoverySource string

// Sources of endpoints.
const (
	// SourceManual: it is listed in the spec.
	SourceManual DiscoverySource = "Manual"
	// SourceTagSelector: a tag selector matched its device.
	SourceTagSelector DiscoverySource = "TagSelector"
	// SourceVIPService: it is a selected VIP.
	SourceVIPService DiscoverySource = "VIPService"
)

// EndpointStatus is the state of one endpoint of a set.
type EndpointStatus struct {
	// Name of the endpoint: that of the spec, the device's host name, or the VIP's name.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Address of the endpoint on the tailnet.
	//
	// +optional
	Address Address `json:"address,omitempty"`

	// Health of the endpoint.
	//
	// +required
	Health EndpointHealth `json:"health"`

	// Source says how the endpoint came into the set.
	//
	// +required
	Source DiscoverySource `json:"source"`

	// Discovered is the device, by its name in the tailnet, or the Tailscale Service that the endpoint was made for.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Discovered string `json:"discovered,omitempty"`

	// Port of a discovered endpoint that routes refer to.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// Protocol of that port.
	//
	// +optional
	Protocol TransportProtocol `json:"protocol,omitempty"`

	// Message says why the endpoint is not healthy.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}
