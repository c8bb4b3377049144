package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of all objects in this package.
const GroupName = "gateway.tailscale.com"

// GroupVersion is the group and version of all objects in this package.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

// AddToScheme adds the objects of this package to a scheme.
func AddToScheme(scheme *runtime.Scheme) error { return schemeBuilder.AddToScheme(scheme) }

// Resource qualifies a resource's plural name with the group, as API errors want it.
func Resource(resource string) schema.GroupResource {
	return GroupVersion.WithResource(resource).GroupResource()
}

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&FailoverPolicy{}, &FailoverPolicyList{},
		&MemberCluster{}, &MemberClusterList{},
		&TailscaleEndpoints{}, &TailscaleEndpointsList{},
		&TailscaleGateway{}, &TailscaleGatewayList{},
		&TailscaleRoutePolicy{}, &TailscaleRoutePolicyList{},
		&TailscaleTailnet{}, &TailscaleTailnetList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
