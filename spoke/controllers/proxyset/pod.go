package proxyset

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tailgate-project/tailgate/spoke"
)

const (
	// containerName is the name of the pods' only container.
	containerName = "proxy"
	// tlsSecret is what a proxy shows the spoke. The spoke keeps it.
	tlsSecret = "tailgate-proxy-tls"
	tlsDir    = "/etc/tailgate/tls"
	tlsVolume = "tls"
	// stateDir has the last configuration. The identity is in a Secret.
	stateDir    = "/var/lib/tailgate"
	stateVolume = "state"
	// nonRoot is the user of images that have none of their own.
	nonRoot = 65532
	// outOfUse is how long an egress proxy goes on as before once its pod is to end: the time in which the spoke sees that
	// in the EndpointSlices and Envoy has endpoints without it. To end at once would refuse connections in between.
	outOfUse = 5 * time.Second
	// endMargin is what a proxy may take to end when it has drained.
	endMargin = 15 * time.Second
)

// defaultResources suit a proxy with a thousand VIPs. It needs far more memory under bulk transfers than when it is idle.
func defaultResources() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
	}
}

func podTemplate(s Set) corev1.PodTemplateSpec {
	spec := corev1.PodSpec{
		ServiceAccountName: s.String(), AutomountServiceAccountToken: new(true), EnableServiceLinks: new(false),
		TerminationGracePeriodSeconds: new(int64(s.grace().Seconds())),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(nonRoot)), RunAsGroup: new(int64(nonRoot)), FSGroup: new(int64(nonRoot)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		NodeSelector: s.Config.NodeSelector, Tolerations: s.Config.Tolerations, Affinity: s.Config.Affinity,
		TopologySpreadConstraints: s.spread(),
		Containers:                []corev1.Container{container(s)},
		Volumes: []corev1.Volume{
			{Name: tlsVolume, VolumeSource: corev1.VolumeSource{
				Secret: &corev1.SecretVolumeSource{SecretName: tlsSecret, DefaultMode: new(int32(0o440))},
			}},
			{Name: stateVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("256Mi"))}}},
		},
	}
	for _, name := range s.ImagePullSecrets {
		spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: s.labels(), Annotations: map[string]string{
			// What is on the volume comes again from the spoke, so it need not keep an autoscaler from taking the node away.
			"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": stateVolume,
		}},
		Spec: spec,
	}
}

func container(s Set) corev1.Container {
	resources := defaultResources()
	if s.Config.Resources != nil {
		resources = *s.Config.Resources.DeepCopy()
	}
	out := corev1.Container{
		Name: containerName, Image: s.image(), ImagePullPolicy: corev1.PullIfNotPresent, Args: s.args(),
		Env: []corev1.EnvVar{
			field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP"),
		},
		Ports:     []corev1.ContainerPort{{Name: statusPortName, ContainerPort: statusPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources,
		VolumeMounts: []corev1.VolumeMount{
			{Name: tlsVolume, MountPath: tlsDir, ReadOnly: true}, {Name: stateVolume, MountPath: stateDir},
		},
		StartupProbe:   probe("/healthz", 2*time.Second, 60), // the state's Secret may take a minute to be read
		LivenessProbe:  probe("/healthz", 10*time.Second, 6),
		ReadinessProbe: probe("/readyz", 2*time.Second, 2),
		// The end of its log says why a proxy ended, such as that the tailnet refused its key.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	if limit := memoryLimit(resources); limit != "" {
		out.Env = append(out.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: limit})
	}
	if s.Role == spoke.Egress {
		out.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(outOfUse.Seconds())}}}
	}
	return out
}

func (s Set) args() []string {
	level := s.LogLevel
	if level == "" {
		level = "info"
	}
	return []string{
		"proxy", "--role", string(s.Role), "--tailnet", s.Tailnet, "--spoke", s.Spoke, "--tls-dir", tlsDir,
		"--state-secret", "$(POD_NAME)", "--state-dir", stateDir, "--hostname", s.hostname(),
		"--status-addr", fmt.Sprintf(":%d", statusPort), "--drain-timeout", s.drainTimeout().String(), "--log-level", level,
	}
}

// grace is how long a pod has to end.
func (s Set) grace() time.Duration {
	out := s.drainTimeout() + endMargin
	if s.Role == spoke.Egress {
		out += outOfUse
	}
	return out
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func probe(path string, period time.Duration, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(statusPortName)}},
		PeriodSeconds: int32(period.Seconds()), TimeoutSeconds: 2, SuccessThreshold: 1, FailureThreshold: failures,
	}
}

// memoryLimit is the Go runtime's: four fifths of the container's, because the rest is not the runtime's to count. It is
// empty where the container has none, and the proxy's own default counts.
func memoryLimit(r corev1.ResourceRequirements) string {
	limit, ok := r.Limits[corev1.ResourceMemory]
	if !ok || limit.Value() <= 0 {
		return ""
	}
	const mebi = 1 << 20
	return fmt.Sprintf("%dMiB", max(1, limit.Value()/5*4/mebi))
}

// spread says how the replicas spread over the cluster. By default that is a wish and no condition: a cluster of one node
// has its two proxies all the same.
func (s Set) spread() []corev1.TopologySpreadConstraint {
	given := slices.Clone(s.Config.TopologySpreadConstraints)
	if len(given) == 0 && s.Config.Affinity == nil {
		for _, key := range []string{corev1.LabelHostname, corev1.LabelTopologyZone} {
			given = append(given, corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway})
		}
	}
	for i := range given {
		if given[i].LabelSelector == nil {
			given[i].LabelSelector = &metav1.LabelSelector{MatchLabels: s.selector()}
		}
	}
	return given
}
