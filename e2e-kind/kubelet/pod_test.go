package kubelet

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	env := []variable{{"A", "1"}, {"B", "two"}, {"A", "3"}}
	for name, test := range map[string]struct{ in, want string }{
		"plain":          {"x", "x"},
		"known":          {"-$(B)-", "-two-"},
		"last-wins":      {"$(A)", "3"},
		"unknown":        {"$(C)$(A)", "$(C)3"},
		"escaped":        {"$$(A)", "$(A)"},
		"escaped-twice":  {"$$$(A)", "$3"},
		"no-parenthesis": {"$A $", "$A $"},
		"unclosed":       {"$(A", "$(A"},
		"nested":         {"$($(A))", "$($(A))"},
		"regex":          {`^(.+?)\.$`, `^(.+?)\.$`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, expand(test.in, env)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func fieldVar(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func TestEnvironment(t *testing.T) {
	p := pod{
		template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": "b"}}},
		name:     "p", namespace: "n", zone: "z",
	}
	got, err := p.environment(&corev1.Container{Env: []corev1.EnvVar{
		fieldVar("NAME", "metadata.name"), fieldVar("ZONE", "metadata.annotations['topology.kubernetes.io/zone']"),
		fieldVar("A", "metadata.annotations['a']"), {Name: "BOTH", Value: "$(NAME)/$(A)"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"NAME=p", "ZONE=z", "A=b", "BOTH=p/b"}, assignments(got)); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]corev1.EnvVar{
		"field":  fieldVar("X", "status.phase"),
		"secret": {Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.environment(&corev1.Container{Env: []corev1.EnvVar{bad}})
			if err == nil || !strings.Contains(err.Error(), "variable X") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPick(t *testing.T) {
	data := map[string][]byte{"a": []byte("1"), "b": []byte("2")}
	for name, test := range map[string]struct {
		items []corev1.KeyToPath
		want  map[string][]byte
		err   string
	}{
		"all":     {want: data},
		"some":    {items: []corev1.KeyToPath{{Key: "a", Path: "x"}}, want: map[string][]byte{"x": []byte("1")}},
		"missing": {items: []corev1.KeyToPath{{Key: "c", Path: "x"}}, err: "no key c"},
		"outside": {items: []corev1.KeyToPath{{Key: "a", Path: "../x"}}, err: "only plain names"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pick(data, test.items)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %q in it", err, test.err)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}
