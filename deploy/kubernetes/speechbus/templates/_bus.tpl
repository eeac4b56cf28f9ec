{{/* Where NATS is. */}}

{{/* As NATS' own chart names itself ("nats.fullname"). */}}
{{- define "speechbus.nats.fullname" -}}
{{- $name := default "nats" .Values.nats.nameOverride }}
{{- if .Values.nats.fullnameOverride }}
{{- .Values.nats.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Servers of the chart's NATS: all pods by name, since a service that loses one goes on at the next. */}}
{{- define "speechbus.bus.url" -}}
{{- if .Values.bus.url }}
{{- .Values.bus.url }}
{{- else }}
{{- $name := include "speechbus.nats.fullname" . }}
{{- $tls := dig "config" "nats" "tls" "enabled" false .Values.nats }}
{{- $scheme := ternary "tls" "nats" $tls }}
{{- if .Values.nats.config.cluster.enabled }}
{{- $urls := list }}
{{- range $i := until (int .Values.nats.config.cluster.replicas) }}
{{- $urls = append $urls (printf "%s://%s-%d.%s-headless:4222" $scheme $name $i $name) }}
{{- end }}
{{- join "," $urls }}
{{- else }}
{{- printf "%s://%s:4222" $scheme $name }}
{{- end }}
{{- end }}
{{- end }}

{{/* Ports of the servers, as a JSON list of numbers. */}}
{{- define "speechbus.bus.ports" -}}
{{- $ports := list }}
{{- range $url := splitList "," (include "speechbus.bus.url" .) }}
{{- $ports = append $ports (include "speechbus.urlPort" (dict "url" (trim $url) "default" 4222) | int) }}
{{- end }}
{{- uniq $ports | toJson }}
{{- end }}

{{/* Port of a URL. Arguments: url, default. */}}
{{- define "speechbus.urlPort" -}}
{{- $host := (urlParse .url).host }}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (toString .default) }}
{{- end }}

{{/* Where KEDA asks for the backlog: the headless service, whose pods it finds by name. */}}
{{- define "speechbus.bus.monitoring" -}}
{{- $given := .Values.transcriber.autoscaling.keda.natsMonitoring }}
{{- $name := include "speechbus.nats.fullname" . }}
{{- default (printf "%s-headless.%s:8222" $name .Release.Namespace) $given }}
{{- end }}
