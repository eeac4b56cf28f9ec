{{/* Names and labels. */}}

{{- define "speechbus.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that names of pods have less than 63. */}}
{{- define "speechbus.fullname" -}}
{{- $name := include "speechbus.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "speechbus.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "speechbus.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Labels that never change, since selectors of Deployments cannot. */}}
{{- define "speechbus.selectorLabels" -}}
app.kubernetes.io/name: {{ include "speechbus.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "speechbus.labels" -}}
{{ include "speechbus.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "speechbus.componentLabels" -}}
{{ include "speechbus.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "speechbus.componentSelectorLabels" -}}
{{ include "speechbus.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Arguments: root, component (whose image). */}}
{{- define "speechbus.image" -}}
{{- printf "%sspeechbus-%s:%s" .root.Values.image.registry .component (default .root.Chart.AppVersion .root.Values.image.tag) }}
{{- end }}

{{- define "speechbus.components" -}}
{{- $names := list }}
{{- range $name := list "ingest" "transcriber" "correlator" "translator" }}
{{- if (get $.Values $name).enabled }}
{{- $names = append $names $name }}
{{- end }}
{{- end }}
{{- toJson $names }}
{{- end }}
