package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// pod is what fields of a pod would have been.
type pod struct {
	template  *corev1.PodTemplateSpec
	namespace string
	name      string
	ip        netip.Addr
	zone      string
}

// variable is one of a container's environment; their order counts.
type variable struct{ name, value string }

func assignments(env []variable) []string {
	var all []string
	for _, v := range env {
		all = append(all, v.name+"="+v.value)
	}
	return all
}

// environment is the container's, as its pod has it.
func (p pod) environment(c *corev1.Container) ([]variable, error) {
	if len(c.EnvFrom) > 0 {
		return nil, errors.New("envFrom is not supported by this stand-in")
	}
	var env []variable
	for _, e := range c.Env {
		value := expand(e.Value, env)
		if e.ValueFrom != nil {
			if e.ValueFrom.FieldRef == nil {
				return nil, fmt.Errorf("variable %s: only values and fieldRefs are supported by this stand-in", e.Name)
			}
			var err error
			if value, err = p.field(e.ValueFrom.FieldRef.FieldPath); err != nil {
				return nil, fmt.Errorf("variable %s: %w", e.Name, err)
			}
		}
		env = append(env, variable{e.Name, value})
	}
	return env, nil
}

// zoneAnnotation is where Envoy Gateway's topology injector, which does not run here, would have put the node's zone.
const zoneAnnotation = "topology.kubernetes.io/zone"

func (p pod) field(path string) (string, error) {
	if kind, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch {
		case kind == "metadata.annotations" && key == zoneAnnotation && p.template.Annotations[key] == "":
			return p.zone, nil
		case kind == "metadata.annotations":
			return p.template.Annotations[key], nil
		case kind == "metadata.labels":
			return p.template.Labels[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return p.name, nil
	case "metadata.namespace":
		return p.namespace, nil
	case "spec.serviceAccountName":
		return p.template.Spec.ServiceAccountName, nil
	case "status.podIP", "status.hostIP":
		return p.ip.String(), nil
	}
	return "", fmt.Errorf("field %s is not supported by this stand-in", path)
}

func expandAll(args []string, env []variable) []string {
	var all []string
	for _, arg := range args {
		all = append(all, expand(arg, env))
	}
	return all
}

// expand replaces $(NAME) as a kubelet does: an unknown name is left as it is, and $$ stands for $.
func expand(s string, env []variable) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after
		if rest, ok := strings.CutPrefix(s, "$"); ok {
			b.WriteByte('$')
			s = rest
			continue
		}
		name, rest, closed := strings.Cut(s, ")")
		name, opened := strings.CutPrefix(name, "(")
		if !opened || !closed {
			b.WriteByte('$')
			continue
		}
		value, known := lookup(name, env)
		if !known {
			value = "$(" + name + ")"
		}
		b.WriteString(value)
		s = rest
	}
}

// lookup finds the last setting of a variable.
func lookup(name string, env []variable) (value string, known bool) {
	for _, v := range env {
		if v.name == name {
			value, known = v.value, true
		}
	}
	return value, known
}

// fillVolumes writes the files of the volumes that the container mounts and returns where each is to appear.
func fillVolumes(dir string, spec *corev1.PodSpec, c *corev1.Container, l listers) (map[string]string, error) {
	binds := map[string]string{}
	for _, mount := range c.VolumeMounts {
		files, err := volumeFiles(spec, mount.Name, l)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", mount.Name, err)
		}
		path := filepath.Join(dir, "volumes", mount.Name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("volume %s: %w", mount.Name, err)
		}
		for name, content := range files {
			if err := replaceFile(filepath.Join(path, name), content); err != nil {
				return nil, fmt.Errorf("volume %s: %w", mount.Name, err)
			}
		}
		binds[mount.MountPath] = path
	}
	return binds, nil
}

func volumeFiles(spec *corev1.PodSpec, name string, l listers) (map[string][]byte, error) {
	for _, v := range spec.Volumes {
		switch {
		case v.Name != name:
		case v.Secret != nil:
			secret, err := l.secrets.Get(v.Secret.SecretName)
			if err != nil {
				return nil, err
			}
			return pick(secret.Data, v.Secret.Items)
		case v.ConfigMap != nil:
			configMap, err := l.configMaps.Get(v.ConfigMap.Name)
			if err != nil {
				return nil, err
			}
			data := map[string][]byte{}
			for key, value := range configMap.Data {
				data[key] = []byte(value)
			}
			return pick(data, v.ConfigMap.Items)
		default:
			return nil, errors.New("only Secrets and ConfigMaps are supported by this stand-in")
		}
	}
	return nil, errors.New("the pod has no such volume")
}

// pick takes the items asked for, or all if none are.
func pick(data map[string][]byte, items []corev1.KeyToPath) (map[string][]byte, error) {
	if len(items) == 0 {
		return data, nil
	}
	files := map[string][]byte{}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			return nil, fmt.Errorf("there is no key %s", item.Key)
		}
		if !filepath.IsLocal(item.Path) || strings.Contains(item.Path, "/") {
			return nil, fmt.Errorf("path %s: only plain names are supported by this stand-in", item.Path)
		}
		files[item.Path] = content
	}
	return files, nil
}

// replaceFile makes a file have the content, and does not touch one that has it. A reader never sees half of it.
func replaceFile(path string, content []byte) error {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path+".tmp", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
