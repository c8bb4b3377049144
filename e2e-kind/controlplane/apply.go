package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const (
	fieldManager = "controlplane"
	// settleTimeout bounds the wait until a new CRD can be used; it takes a fraction of a second.
	settleTimeout  = 30 * time.Second
	settleInterval = 20 * time.Millisecond
	// tokenLife is that of a service account's token; nothing renews it.
	tokenLife = 24 * time.Hour
)

// ApplyFiles applies YAML files, see [ControlPlane.ApplyYAML].
func (c *ControlPlane) ApplyFiles(ctx context.Context, paths ...string) error {
	var docs [][]byte
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		docs = append(docs, b)
	}
	return c.ApplyYAML(ctx, docs...)
}

// ApplyYAML applies the objects of YAML streams in their order, by server-side apply: applying twice changes nothing. An
// object without a namespace goes to default if it needs one. An object may come right after the CRD that defines it, and
// when ApplyYAML returns all CRDs are served.
func (c *ControlPlane) ApplyYAML(ctx context.Context, streams ...[]byte) error {
	return Apply(ctx, c.config, streams...)
}

// Apply is [ControlPlane.ApplyYAML] for any API server that the configuration leads to.
func Apply(ctx context.Context, config *rest.Config, streams ...[]byte) error {
	a, err := newApplier(config)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for _, stream := range streams {
		objects, err := decode(stream)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		for _, o := range objects {
			if err := a.apply(ctx, o); err != nil {
				return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
			}
		}
	}
	return a.settle(ctx)
}

// decode reads a stream of YAML documents and takes lists apart.
func decode(stream []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	for n := 1; ; n++ {
		o := &unstructured.Unstructured{}
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("document %d: %w", n, err)
		case len(o.Object) == 0:
		case o.IsList():
			err := o.EachListItem(func(item runtime.Object) error {
				objects = append(objects, item.(*unstructured.Unstructured))
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("document %d: %w", n, err)
			}
		case o.GetKind() == "" || o.GetName() == "":
			return nil, fmt.Errorf("document %d: it has no kind or no name", n)
		default:
			objects = append(objects, o)
		}
	}
}

type applier struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
	// unsettled are the kinds of CRDs that were applied and may not be served yet.
	unsettled []schema.GroupVersionKind
	crds      []string
}

var crdKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}

func newApplier(config *rest.Config) (*applier, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &applier{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}, nil
}

func (a *applier) apply(ctx context.Context, o *unstructured.Unstructured) error {
	gvk := o.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if apimeta.IsNoMatchError(err) && len(a.crds) > 0 {
		if err := a.settle(ctx); err != nil {
			return err
		}
		mapping, err = a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = a.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == apimeta.RESTScopeNameNamespace {
		namespace := o.GetNamespace()
		if namespace == "" {
			namespace = corev1.NamespaceDefault
		}
		resource = a.client.Resource(mapping.Resource).Namespace(namespace)
	}
	if _, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return err
	}
	if gvk.GroupKind() == crdKind {
		a.crds = append(a.crds, o.GetName())
		a.unsettled = append(a.unsettled, served(o)...)
	}
	return nil
}

// served are the kinds that a CRD asks to be served.
func served(crd *unstructured.Unstructured) []schema.GroupVersionKind {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var all []schema.GroupVersionKind
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok && v["served"] == true {
			name, _, _ := unstructured.NestedString(v, "name")
			all = append(all, schema.GroupVersionKind{Group: group, Version: name, Kind: kind})
		}
	}
	return all
}

// settle waits until every CRD applied so far is established and its kinds are discovered.
func (a *applier) settle(ctx context.Context) error {
	crds := a.client.Resource(schema.GroupVersionResource{Group: crdKind.Group, Version: "v1", Resource: "customresourcedefinitions"})
	var waiting error
	err := wait.PollUntilContextTimeout(ctx, settleInterval, settleTimeout, true, func(ctx context.Context) (bool, error) {
		for len(a.crds) > 0 {
			crd, err := crds.Get(ctx, a.crds[0], metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if !established(crd) {
				waiting = fmt.Errorf("CRD %s is not established", a.crds[0])
				return false, nil
			}
			a.crds = a.crds[1:]
			a.mapper.Reset()
		}
		for len(a.unsettled) > 0 {
			gvk := a.unsettled[0]
			if _, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err != nil {
				waiting = err
				a.mapper.Reset()
				return false, nil
			}
			a.unsettled = a.unsettled[1:]
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait for CRDs: %w", errors.Join(err, waiting))
	}
	return nil
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Established" {
			return c["status"] == "True"
		}
	}
	return false
}

// ServiceAccountToken asks for a token of a service account, which must exist. It is valid for a day.
func (c *ControlPlane) ServiceAccountToken(ctx context.Context, namespace, name string) (string, error) {
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return "", fmt.Errorf("token of %s/%s: %w", namespace, name, err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenLife.Seconds()))}}
	got, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s/%s: %w", namespace, name, err)
	}
	return got.Status.Token, nil
}
