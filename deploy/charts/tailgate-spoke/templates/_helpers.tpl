{{/* Labels of all objects. No two releases of this chart fit into one cluster, so the names are fixed. */}}
{{- define "tailgate.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tailgate
{{- end }}

{{/* What selects the pods. It can never be changed. */}}
{{- define "tailgate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- end }}

{{- define "tailgate.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The Go runtime's limit of memory: four fifths of the container's, because the rest is not the runtime's to count. */}}
{{- define "tailgate.memoryLimit" -}}
{{- $limit := toString (dig "limits" "memory" "" .Values.resources) -}}
{{- if regexMatch "^[0-9]+Mi$" $limit }}{{ div (mul (trimSuffix "Mi" $limit | int) 4) 5 }}MiB
{{- else if regexMatch "^[0-9]+Gi$" $limit }}{{ div (mul (trimSuffix "Gi" $limit | int) 4096) 5 }}MiB
{{- end -}}
{{- end }}

{{/* The ports of URLs, as a list of numbers in JSON. */}}
{{- define "tailgate.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- $ports = append $ports (int $port) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end }}

{{/* The objects of a file that make charts copied, with the release's labels, in the release's namespaces. */}}
{{- define "tailgate.rbac" -}}
{{- $namespaces := dict "tailgate-system" .Release.Namespace -}}
{{- with .Values.envoyGateway }}{{ $_ := set $namespaces "envoy-gateway-system" .namespace }}{{ end -}}
{{- range splitList "\n---\n" (printf "\n%s" (.Files.Get "files/role.yaml")) }}
{{- if trim . }}
{{- $object := fromYaml . }}
{{- $labels := include "tailgate.labels" $ | fromYaml }}
{{- $_ := set $object.metadata "labels" $labels }}
{{- $binding := dict "apiVersion" $object.apiVersion "kind" (printf "%sBinding" $object.kind) }}
{{- $meta := dict "name" $object.metadata.name "labels" $labels }}
{{- with $object.metadata.namespace }}
{{- $namespace := get $namespaces . | required (printf "files/role.yaml: no value for the namespace %s" .) }}
{{- $_ := set $object.metadata "namespace" $namespace }}
{{- $_ := set $meta "namespace" $namespace }}
{{- end }}
{{- $_ := set $binding "metadata" $meta }}
{{- $_ := set $binding "roleRef" (dict "apiGroup" "rbac.authorization.k8s.io" "kind" $object.kind "name" $object.metadata.name) }}
{{- $_ := set $binding "subjects" (list (dict "kind" "ServiceAccount" "name" $.Chart.Name "namespace" $.Release.Namespace)) }}
---
{{ toYaml $object }}
---
{{ toYaml $binding }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name by which Envoy Gateway, Envoys and proxies reach the spoke. */}}
{{- define "tailgate.host" -}}
{{ .Chart.Name }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/* What Envoy Gateway's own chart has to be given: as `spoke bootstrap --print settings`. */}}
{{- define "tailgate.extensionManager" -}}
extensionManager:
  backendResources:
  - group: gateway.tailscale.com
    kind: TailscaleEndpoints
    version: v1alpha1
  failOpen: false
  hooks:
    xdsTranslator:
      post:
      - Cluster
      - Translation
      translation:
        cluster:
          includeAll: true
        listener:
          includeAll: true
        route:
          includeAll: true
        secret:
          includeAll: false
  maxMessageSize: 64Mi
  policyResources:
  - group: gateway.tailscale.com
    kind: TailscaleRoutePolicy
    version: v1alpha1
  service:
    fqdn:
      hostname: {{ include "tailgate.host" . }}
      port: 5005
    tls:
      certificateRef:
        name: tailgate-extension-ca
        namespace: {{ .Release.Namespace }}
      clientCertificateRef:
        name: tailgate-extension-client
        namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What Envoys begin with: as `spoke bootstrap --print envoyproxy`, to the byte, for another text restarts them. */}}
{{- define "tailgate.bootstrap" -}}
static_resources:
  clusters:
  - connect_timeout: 1s
    load_assignment:
      cluster_name: tsgw_xds
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: {{ .host }}
                port_value: 5006
    name: tsgw_xds
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates:
          - certificate_chain:
              filename: /certs/tls.crt
            private_key:
              filename: /certs/tls.key
          tls_params:
            tls_maximum_protocol_version: TLSv1_3
            tls_minimum_protocol_version: TLSv1_3
          validation_context:
            match_typed_subject_alt_names:
            - matcher:
                exact: tailgate-eds
              san_type: DNS
            trusted_ca:
              inline_string: |
                {{- trim .certificate | nindent 16 }}
        sni: tailgate-eds
    type: STRICT_DNS
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            connection_keepalive:
              interval: 10s
              timeout: 3s
    upstream_connection_options:
      tcp_keepalive:
        keepalive_interval: 3
        keepalive_probes: 3
        keepalive_time: 10
{{- end }}
