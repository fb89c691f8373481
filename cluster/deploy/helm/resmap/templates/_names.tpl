{{/* Names, labels and images. */}}
{{- define "resmap.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "resmap.labels" -}}
app.kubernetes.io/part-of: {{ include "resmap.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "resmap.dashboardName" -}}
{{ include "resmap.name" . }}-dashboard
{{- end }}

{{- define "resmap.nodes" -}}
app.kubernetes.io/part-of: {{ include "resmap.name" . }}
ray.io/is-ray-node: "yes"
{{- end }}

{{/* Labels of every pod of Ray. */}}
{{- define "resmap.podLabels" -}}
app.kubernetes.io/part-of: {{ include "resmap.name" . }}
{{- with .Values.accounts.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "resmap.image" -}}
{{- with .Values.image -}}
{{ if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "resmap.gpuImage" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.gpuImage -}}
{{ if .digest }}{{ printf "%s@%s" $repository .digest }}{{ else }}{{ printf "%s:%s" $repository .tag }}{{ end }}
{{- end }}
{{- end }}
