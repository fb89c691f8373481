{{/* A Ray cluster: of its own, or of a job. */}}
{{- define "resmap.raySpec" -}}
{{- if and .Values.kueue.queue .Values.autoscaling.enabled (not .Values.kueue.elastic) -}}
{{- fail "Kueue lets no cluster grow: set autoscaling.enabled=false, or kueue.elastic=true where Kueue has the gate ElasticJobsViaWorkloadSlices" -}}
{{- end -}}
rayVersion: {{ .Values.rayVersion }}
authOptions:
  mode: token
enableInTreeAutoscaling: {{ .Values.autoscaling.enabled }}
{{- if .Values.autoscaling.enabled }}
autoscalerOptions:
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ .Values.autoscaling.idleSeconds | int }}
  resources:
    requests: {cpu: 500m, memory: 1Gi}
    limits: {cpu: 500m, memory: 1Gi}
  env:
    - {name: HOME, value: /scratch}
  volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: tmp, mountPath: /tmp}
  securityContext:
    {{- include "resmap.closed" . | nindent 4 }}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"
    object-store-memory: {{ include "resmap.objects" . | quote }}
  template:
    metadata:
      labels:
        {{- include "resmap.podLabels" . | nindent 8 }}
      annotations:
        cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
        karpenter.sh/do-not-disrupt: "true"
    spec:
      serviceAccountName: {{ include "resmap.name" . }}-head
      enableServiceLinks: false
      terminationGracePeriodSeconds: 120
      {{- include "resmap.pull" . | nindent 6 }}
      securityContext:
        {{- include "resmap.nobody" . | nindent 8 }}
      {{- with .Values.head.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.head.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-head
          image: {{ include "resmap.image" . }}
          ports:
            - {name: gcs-server, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
          envFrom:
            - secretRef: {name: {{ .Values.registrySecret }}}
            {{- include "resmap.secrets" . | nindent 12 }}
          env:
            {{- include "resmap.env" . | nindent 12 }}
          resources:
            requests: {cpu: {{ .Values.head.cpu | quote }}, memory: {{ .Values.head.memory }}}
            limits: {cpu: {{ .Values.head.cpu | quote }}, memory: {{ .Values.head.memory }}}
          securityContext:
            {{- include "resmap.closed" . | nindent 12 }}
          readinessProbe:
            httpGet: {path: /api/gcs_healthz, port: 8265}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 12
          livenessProbe:
            httpGet: {path: /api/gcs_healthz, port: 8265}
            initialDelaySeconds: 30
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 30
          volumeMounts:
            {{- include "resmap.mounts" . | nindent 12 }}
            - {name: job, mountPath: /job, readOnly: true}
      volumes:
        {{- include "resmap.volumes" . | nindent 8 }}
        - name: job
          configMap: {name: {{ include "resmap.name" . }}-job, optional: true}
workerGroupSpecs:
  {{- range .Values.gpuGroups }}
  {{- include "resmap.group" (dict "root" $ "group" . "image" (include "resmap.gpuImage" $)) | nindent 2 }}
  {{- end }}
  {{- if .Values.readers.enabled }}
  {{- include "resmap.group" (dict "root" $ "group" (merge (dict "name" "readers" "gpus" 0) .Values.readers) "image" (include "resmap.image" $)) | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "resmap.secrets" -}}
{{- range .Values.secrets }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* Workers of a kind: dict "root" $ "group" group "image" image. */}}
{{- define "resmap.group" -}}
{{- $drain := include "resmap.drain" . -}}
- groupName: {{ .group.name }}
  {{- if not .root.Values.autoscaling.enabled }}
  replicas: {{ .group.max | int }}
  {{- end }}
  minReplicas: {{ .group.min | int }}
  maxReplicas: {{ .group.max | int }}
  labels:
    {{- with .group.gpuType }}
    ray.io/accelerator-type: {{ . }}
    {{- end }}
    ray.io/market-type: {{ ternary "spot" "on-demand" (default false .group.spot) }}
    {{- with .group.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  rayStartParams:
    object-store-memory: {{ include "resmap.objects" .root | quote }}
    {{- if .group.gpuType }}
    resources: {{ printf "'\"{\\\"accelerator_type:%s\\\": 1}\"'" .group.gpuType }}
    {{- end }}
  template:
    metadata:
      labels:
        {{- include "resmap.podLabels" .root | nindent 8 }}
    spec:
      serviceAccountName: {{ include "resmap.name" .root }}-worker
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add (int $drain) 10 }}
      {{- include "resmap.pull" .root | nindent 6 }}
      securityContext:
        {{- include "resmap.nobody" . | nindent 8 }}
      {{- if .group.gpus }}
      {{- with include "resmap.where" . | trim }}
      nodeSelector:
        {{- . | nindent 8 }}
      {{- end }}
      {{- else if or .group.spot .group.machine .group.nodeSelector }}
      nodeSelector:
        {{- include "resmap.where" . | trim | nindent 8 }}
      {{- end }}
      {{- with include "resmap.tolerated" . | trim }}
      tolerations:
        {{- . | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-worker
          image: {{ .image }}
          ports:
            - {name: metrics, containerPort: 8080}
          {{- with include "resmap.secrets" .root | trim }}
          envFrom:
            {{- . | nindent 12 }}
          {{- end }}
          env:
            {{- include "resmap.env" .root | nindent 12 }}
          resources:
            {{- range list "requests" "limits" }}
            {{ . }}:
              cpu: {{ $.group.cpu | quote }}
              memory: {{ $.group.memory }}
              {{- if $.group.gpus }}
              nvidia.com/gpu: {{ $.group.gpus | int }}
              {{- end }}
            {{- end }}
          securityContext:
            {{- include "resmap.closed" . | nindent 12 }}
          lifecycle:
            preStop:
              exec:
                command: [resmap, drain, --within, {{ $drain | quote }}, --wait]
          readinessProbe:
            httpGet: {path: /api/local_raylet_healthz, port: 52365}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 12
          livenessProbe:
            httpGet: {path: /api/local_raylet_healthz, port: 52365}
            initialDelaySeconds: 30
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 30
          volumeMounts:
            {{- include "resmap.mounts" . | nindent 12 }}
      volumes:
        {{- include "resmap.volumes" .root | nindent 8 }}
{{- end }}
