{{/* What all pods have in common. */}}
{{- define "resmap.nobody" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "resmap.closed" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "resmap.pull" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "resmap.env" -}}
- {name: HOME, value: /scratch}
- {name: RESMAP_CACHE, value: /scratch/cache}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "resmap.mounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- end }}

{{- define "resmap.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.space.scratch }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.space.tmp }}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.space.shm }}}
{{- end }}

{{/* Bytes of Ray's objects: three quarters of /dev/shm, else Ray puts them on disk. */}}
{{- define "resmap.objects" -}}
{{ mul (trimSuffix "Gi" .Values.space.shm | int) 805306368 }}
{{- end }}

{{/* Where machines of a kind are, as each cloud says it: dict "root" $ "group" group. */}}
{{- define "resmap.where" -}}
{{- $cloud := .root.Values.cloud -}}
{{- $spot := default false .group.spot -}}
{{- $machine := .group.machine | default "" -}}
{{- if and (ne $cloud "eks") (contains "." $machine) -}}
{{- fail (printf "group %s: the machine %s is none of %s. Set machine to one, or to \"\"" .group.name $machine $cloud) -}}
{{- end -}}
{{- if eq $cloud "eks" }}
eks.amazonaws.com/capacityType: {{ ternary "SPOT" "ON_DEMAND" $spot }}
{{- else if and (eq $cloud "gke") $spot }}
cloud.google.com/gke-spot: "true"
{{- else if and (eq $cloud "aks") $spot }}
kubernetes.azure.com/scalesetpriority: spot
{{- end }}
{{- if and (eq $cloud "gke") .group.gpuType }}
{{- with get (dict "T4" "nvidia-tesla-t4" "L4" "nvidia-l4" "V100" "nvidia-tesla-v100" "A100" "nvidia-tesla-a100" "H100" "nvidia-h100-80gb" "H200" "nvidia-h200-141gb") .group.gpuType }}
cloud.google.com/gke-accelerator: {{ . }}
{{- end }}
{{- end }}
{{- with $machine }}
node.kubernetes.io/instance-type: {{ . }}
{{- end }}
{{- with .group.nodeSelector }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "resmap.tolerated" -}}
{{- if .group.gpus }}
- {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
{{- end }}
{{- if and .group.spot (eq .root.Values.cloud "gke") }}
- {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
{{- else if and .group.spot (eq .root.Values.cloud "aks") }}
- {key: kubernetes.azure.com/scalesetpriority, operator: Equal, value: spot, effect: NoSchedule}
{{- end }}
{{- with .group.tolerations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Seconds that a worker may take to hand over what it has: what the cloud leaves it, less a margin. */}}
{{- define "resmap.drain" -}}
{{- if .group.drainSeconds -}}
{{ .group.drainSeconds | int }}
{{- else if and .group.spot (eq .root.Values.cloud "gke") -}}
10
{{- else if and .group.spot (eq .root.Values.cloud "aks") -}}
20
{{- else -}}
110
{{- end -}}
{{- end }}
