{{- define "mesh-agent.labels" -}}
app.kubernetes.io/name: mesh-agent
{{- end }}

{{- define "mesh-agent.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}
