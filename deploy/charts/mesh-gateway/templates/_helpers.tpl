{{- define "mesh-gateway.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "mesh-gateway.account" -}}
{{ .Values.serviceAccount.name | default (include "mesh-gateway.name" .) }}
{{- end }}

{{- /* What the Service and the Deployment find its pods by. */ -}}
{{- define "mesh-gateway.selector" -}}
app: {{ include "mesh-gateway.name" . }}
{{ toYaml .Values.labels }}
{{- end }}

{{- define "mesh-gateway.labels" -}}
{{ include "mesh-gateway.selector" . }}
app.kubernetes.io/name: {{ include "mesh-gateway.name" . }}
{{- end }}

{{- define "mesh-gateway.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}
