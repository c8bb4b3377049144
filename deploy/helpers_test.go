package deploy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

var charts = []string{deploy.Hub, deploy.Spoke}

func load(t *testing.T, name string) *chart.Chart {
	t.Helper()
	c, err := deploy.Load(".", name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// variants are the values that a chart is tried with, by the names of their files.
func variants(t *testing.T, name string) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("charts", name, "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("values of %s: %v, %v", name, files, err)
	}
	out := map[string]map[string]any{}
	for _, file := range files {
		out[strings.TrimSuffix(filepath.Base(file), "-values.yaml")] = values(t, read(t, file))
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func values(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// rendered are the objects of a chart with values.
func rendered(t *testing.T, name string, o deploy.Options) []*unstructured.Unstructured {
	t.Helper()
	all, err := deploy.Render(load(t, name), o)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for _, m := range all {
		out = append(out, decode(t, m.Text)...)
	}
	return out
}

// decode reads a stream of YAML documents, in which no key may come twice.
func decode(t *testing.T, stream string) []*unstructured.Unstructured {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(stream)))
	var out []*unstructured.Unstructured
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		o := &unstructured.Unstructured{}
		if err == nil {
			err = yaml.UnmarshalStrict(doc, &o.Object)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

// as is the object as a type, in which an unknown field is an error.
func as[T any](t *testing.T, o *unstructured.Unstructured) T {
	t.Helper()
	var out T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &out, true); err != nil {
		t.Fatalf("%s: %v", title(o), err)
	}
	return out
}

// all are the objects of a kind, as a type.
func all[T any](t *testing.T, objects []*unstructured.Unstructured, kind string) []T {
	t.Helper()
	var out []T
	for _, o := range objects {
		if o.GetKind() == kind {
			out = append(out, as[T](t, o))
		}
	}
	return out
}

// only is the one object of a kind and name.
func only(t *testing.T, objects []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	var out *unstructured.Unstructured
	for _, o := range objects {
		if o.GetKind() == kind && o.GetName() == name {
			if out != nil {
				t.Fatalf("two of %s %s", kind, name)
			}
			out = o
		}
	}
	if out == nil {
		t.Fatalf("no %s %s", kind, name)
	}
	return out
}

func title(o *unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
}

// proxies are the objects that the spoke of the chart makes for the proxies of a role.
func proxies(t *testing.T, role spoke.Role) []*unstructured.Unstructured {
	t.Helper()
	objects := proxyset.Objects(proxyset.Set{
		Key: proxyset.Key{Tailnet: "production-tailnet", Role: role},
		Options: proxyset.Options{
			Namespace: deploy.Namespace, Image: "ghcr.io/tailgate-project/tailgate-spoke:0.1.0", Spoke: "tailgate-spoke.tailgate-system.svc:5007",
			Cluster: "cluster1",
		},
		Ordinals: 2,
	})
	var out []*unstructured.Unstructured
	for _, o := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &unstructured.Unstructured{Object: content})
	}
	return out
}

// containers are those of a pod, with the ones that only begin it.
func containers(spec corev1.PodSpec) []corev1.Container {
	return append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...)
}
