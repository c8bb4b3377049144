package clusters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// The kinds that only members with the right CRDs have. A member that lacks one is engaged without it: an informer of
// a kind that is not served never syncs.
var (
	Gateways          = schema.GroupVersion(gatewayv1.GroupVersion).WithKind("Gateway")
	TailscaleGateways = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway)

	TailscaleEndpoints = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleEndpoints)

	// ServiceExports are those of the MCS API. OldServiceExports are the same objects where the member knows them only by
	// the version before: of the two, at most one is watched.
	ServiceExports    = schema.GroupVersion(mcsv1beta1.GroupVersion).WithKind(mcsv1beta1.ServiceExportKindName)
	OldServiceExports = schema.GroupVersion(mcsv1alpha1.GroupVersion).WithKind(mcsv1beta1.ServiceExportKindName)
)

// watchedKind is a kind that the hub reads of a member.
type watchedKind struct {
	gvk              schema.GroupVersionKind
	resource, single string
	object           func() client.Object
	// optional kinds come with a CRD, which a member may lack.
	optional bool
	// newer is the same kind in another version. Where that is served, this one is not watched.
	newer schema.GroupVersionKind
}

// watched are in an order in which a newer version stands before the older one.
var watched = []watchedKind{
	{
		gvk: corev1.SchemeGroupVersion.WithKind("Service"), resource: "services", single: "service",
		object: func() client.Object { return &corev1.Service{} },
	},
	{
		gvk: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), resource: "endpointslices", single: "endpointslice",
		object: func() client.Object { return &discoveryv1.EndpointSlice{} },
	},
	{
		gvk: Gateways, resource: "gateways", single: "gateway", optional: true,
		object: func() client.Object { return &gatewayv1.Gateway{} },
	},
	{
		gvk: TailscaleGateways, resource: "tailscalegateways", single: "tailscalegateway", optional: true,
		object: func() client.Object { return &v1alpha1.TailscaleGateway{} },
	},
	{
		gvk: TailscaleEndpoints, resource: "tailscaleendpoints", single: "tailscaleendpoints", optional: true,
		object: func() client.Object { return &v1alpha1.TailscaleEndpoints{} },
	},
	{
		gvk: ServiceExports, resource: mcsv1beta1.ServiceExportPluralName, single: "serviceexport", optional: true,
		object: func() client.Object { return &mcsv1beta1.ServiceExport{} },
	},
	{
		gvk: OldServiceExports, resource: mcsv1beta1.ServiceExportPluralName, single: "serviceexport", optional: true, newer: ServiceExports,
		object: func() client.Object { return &mcsv1alpha1.ServiceExport{} },
	},
}

// kinds are the optional kinds that a member serves.
type kinds map[schema.GroupVersionKind]bool

func (k kinds) equal(o kinds) bool { return maps.Equal(k, o) }

// restMapper knows the watched kinds without asking the member, whom asking could block.
func restMapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, k := range watched { // Add would guess the plural "gatewaies"
		gv := k.gvk.GroupVersion()
		m.AddSpecific(k.gvk, gv.WithResource(k.resource), gv.WithResource(k.single), meta.RESTScopeNamespace)
	}
	return m
}

const (
	discoveryTimeout = 10 * time.Second
	discoveryLimit   = 4 << 20 // bytes
)

// discover asks a member which of the optional kinds it serves. One that the spoke's account may not list, as after an update
// of the hub alone, is not served to the hub: to wait for its informer would cost all that the member exports.
func discover(ctx context.Context, m Member, c *http.Client) (kinds, error) {
	ctx, cancel := context.WithTimeout(ctx, discoveryTimeout)
	defer cancel()
	served := kinds{}
	for _, k := range watched {
		if !k.optional || served[k.newer] {
			continue
		}
		ok, err := serves(ctx, m, c, k)
		if err == nil && ok {
			ok, err = listable(ctx, m, c, k)
		}
		if err != nil {
			return nil, fmt.Errorf("ask whether %s are served: %w", k.resource, err)
		}
		if ok {
			served[k.gvk] = true
		}
	}
	return served, nil
}

// serves reports whether the member's API server has the kind.
func serves(ctx context.Context, m Member, c *http.Client, k watchedKind) (bool, error) {
	status, body, err := get(ctx, c, m.url()+"/apis/"+k.gvk.GroupVersion().String())
	switch {
	case err != nil:
		return false, err
	case status == http.StatusNotFound:
		return false, nil
	case status != http.StatusOK:
		return false, fmt.Errorf("the API server answered %d", status)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return false, fmt.Errorf("read the list of resources: %w", err)
	}
	for _, r := range list.APIResources {
		if r.Name == k.resource {
			return true, nil
		}
	}
	return false, nil
}

// listable reports whether the objects of a kind that is served may be read.
func listable(ctx context.Context, m Member, c *http.Client, k watchedKind) (bool, error) {
	status, _, err := get(ctx, c, m.url()+"/apis/"+k.gvk.GroupVersion().String()+"/"+k.resource+"?limit=1")
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case status == http.StatusForbidden || status == http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("the API server answered %d to a list", status)
}

// get returns the status and the beginning of the body of an answer.
func get(ctx context.Context, c *http.Client, url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	body, err = io.ReadAll(io.LimitReader(res.Body, discoveryLimit))
	return res.StatusCode, body, err
}

// strip drops what the hub never reads, a fifth of the memory. It gets what the informer stores, which may be a
// tombstone, and must change nothing when it is called again.
func strip(o any) (any, error) {
	a, err := meta.Accessor(o)
	if err != nil {
		return o, nil // a tombstone
	}
	a.SetManagedFields(nil)
	a.SetOwnerReferences(nil)
	a.SetFinalizers(nil)
	delete(a.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	switch x := o.(type) {
	case *discoveryv1.EndpointSlice:
		for i := range x.Endpoints {
			e := &x.Endpoints[i]
			e.TargetRef, e.NodeName, e.DeprecatedTopology, e.Hints = nil, nil, nil, nil
		}
	case *corev1.Service:
		x.Spec.Selector = nil
	}
	return o, nil
}
