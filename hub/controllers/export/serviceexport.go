package export

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	mcbuilder "sigs.k8s.io/multicluster-runtime/pkg/builder"
	mcreconcile "sigs.k8s.io/multicluster-runtime/pkg/reconcile"
)

// serviceExportKind is the kind ServiceExport in a version of its API.
type serviceExportKind struct {
	gvk    schema.GroupVersionKind
	object func() client.Object
}

// serviceExportKinds are the versions of which a member serves one, as far as the hub is concerned.
var serviceExportKinds = []serviceExportKind{
	{
		schema.GroupVersion(mcsv1beta1.GroupVersion).WithKind(mcsv1beta1.ServiceExportKindName),
		func() client.Object { return &mcsv1beta1.ServiceExport{} },
	},
	{
		schema.GroupVersion(mcsv1alpha1.GroupVersion).WithKind(mcsv1beta1.ServiceExportKindName),
		func() client.Object { return &mcsv1alpha1.ServiceExport{} },
	},
}

// hasServiceExport reports whether a ServiceExport asks for the export of the Service of its name. A member without the
// kind has none.
func (c *Controller) hasServiceExport(ctx context.Context, m member, name types.NamespacedName) (bool, error) {
	for _, k := range serviceExportKinds {
		if !c.clusters.Serves(m.name, k.gvk) {
			continue
		}
		o := k.object()
		switch err := m.GetClient().Get(ctx, name, o, client.UnsafeDisableDeepCopy); {
		case err == nil:
			return o.GetDeletionTimestamp().IsZero(), nil
		case !apierrors.IsNotFound(err):
			return false, fmt.Errorf("get ServiceExport %s: %w", name, err)
		}
	}
	return false, nil
}

// watchServiceExports has the Service looked at whose ServiceExport comes or goes.
func (c *Controller) watchServiceExports(b *mcbuilder.TypedBuilder[mcreconcile.Request]) {
	for _, k := range serviceExportKinds {
		b.Watches(k.object(), mapped(func(_ context.Context, _ member, o client.Object) []types.NamespacedName {
			return []types.NamespacedName{client.ObjectKeyFromObject(o)}
		}), c.servedOnly(k.gvk), onDeletion)
	}
}
