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

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// The kinds that only members with the right CRDs have. A member that lacks one is engaged without it: an informer of
// a kind that is not served never syncs.
var (
	Gateways          = schema.GroupVersion(gatewayv1.GroupVersion).WithKind("Gateway")
	TailscaleGateways = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway)

	TailscaleEndpoints = v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleEndpoints)
)

// watchedKind is a kind that the hub reads of a member.
type watchedKind struct {
	gvk              schema.GroupVersionKind
	resource, single string
	object           func() client.Object
}

// optional reports whether a member may lack the kind: it comes with a CRD.
func (k watchedKind) optional() bool {
	return k.gvk == Gateways || k.gvk == TailscaleGateways || k.gvk == TailscaleEndpoints
}

var watched = []watchedKind{
	{corev1.SchemeGroupVersion.WithKind("Service"), "services", "service", func() client.Object { return &corev1.Service{} }},
	{discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), "endpointslices", "endpointslice", func() client.Object { return &discoveryv1.EndpointSlice{} }},
	{Gateways, "gateways", "gateway", func() client.Object { return &gatewayv1.Gateway{} }},
	{TailscaleGateways, "tailscalegateways", "tailscalegateway", func() client.Object { return &v1alpha1.TailscaleGateway{} }},
	{TailscaleEndpoints, "tailscaleendpoints", "tailscaleendpoints", func() client.Object { return &v1alpha1.TailscaleEndpoints{} }},
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

// discover asks a member which of the optional kinds it serves.
func discover(ctx context.Context, m Member, c *http.Client) (kinds, error) {
	ctx, cancel := context.WithTimeout(ctx, discoveryTimeout)
	defer cancel()
	served := kinds{}
	for _, k := range watched {
		if !k.optional() {
			continue
		}
		ok, err := serves(ctx, m, c, k)
		if err != nil {
			return nil, fmt.Errorf("ask whether %s are served: %w", k.resource, err)
		}
		if ok {
			served[k.gvk] = true
		}
	}
	return served, nil
}

func serves(ctx context.Context, m Member, c *http.Client, k watchedKind) (_ bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url()+"/apis/"+k.gvk.GroupVersion().String(), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(res.Body, discoveryLimit))
	switch {
	case err != nil:
		return false, err
	case res.StatusCode == http.StatusNotFound:
		return false, nil
	case res.StatusCode != http.StatusOK:
		return false, fmt.Errorf("the API server answered %s", res.Status)
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
