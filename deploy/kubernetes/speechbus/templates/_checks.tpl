{{/* What the schema cannot say, as it lies in several values. */}}
{{- define "speechbus.check" -}}
{{- $values := .Values }}
{{- if and (not $values.nats.enabled) (not $values.bus.url) }}
{{- fail "\n\nThere is no NATS: set bus.url to yours, or nats.enabled=true." }}
{{- end }}
{{- if and $values.nats.enabled $values.bus.url }}
{{- fail "\n\nbus.url and nats.enabled=true are two NATS: unset bus.url, or set nats.enabled=false." }}
{{- end }}
{{- if contains "@" $values.bus.url }}
{{- fail "\n\nbus.url has a user or password, which would be readable in a ConfigMap: put the passwords into the Secret that global.busSecret names." }}
{{- end }}
{{- if and $values.nats.enabled (not $values.global.busSecret) }}
{{- fail "\n\nThe NATS of this chart has users with passwords: set global.busSecret to the Secret that has them." }}
{{- end }}
{{- if and $values.bus.tls.clientCertificate (not $values.bus.tls.existingSecret) }}
{{- fail "\n\nbus.tls.clientCertificate needs bus.tls.existingSecret: the Secret that has it." }}
{{- end }}
{{- $replicas := max (dig "REPLICAS" 1 $values.bootstrap.settings | int) (dig "AUDIO_REPLICAS" 1 $values.bootstrap.settings | int) }}
{{- $servers := ternary (int $values.nats.config.cluster.replicas) 1 $values.nats.config.cluster.enabled }}
{{- if and $values.nats.enabled (gt $replicas $servers) }}
{{- fail (printf "\n\nbootstrap.settings asks for %d replicas of NATS' %d server(s): set nats.config.cluster.enabled=true and its replicas, or lower REPLICAS and AUDIO_REPLICAS." $replicas $servers) }}
{{- end }}
{{- range $name := list "ingest" "transcriber" }}
{{- $scaling := (get $values $name).autoscaling }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "\n\n%s.autoscaling.minReplicas is more than maxReplicas." $name) }}
{{- end }}
{{- end }}
{{- $capacity := dig "SESSIONS_MAX" 0 $values.transcriber.settings | int }}
{{- $target := int $values.transcriber.autoscaling.targetStreams }}
{{- if and (ne $values.transcriber.autoscaling.kind "none") (gt $capacity 0) (ge $target $capacity) }}
{{- fail (printf "\n\ntranscriber.autoscaling.targetStreams (%d) must be less than transcriber.settings.SESSIONS_MAX (%d): pods would be full before one more starts." $target $capacity) }}
{{- end }}
{{- $capacity = dig "STREAMS_MAX" 1000 $values.ingest.settings | int }}
{{- $target = int $values.ingest.autoscaling.targetStreams }}
{{- if and (ne $values.ingest.autoscaling.kind "none") (ge $target $capacity) }}
{{- fail (printf "\n\ningest.autoscaling.targetStreams (%d) must be less than ingest.settings.STREAMS_MAX (%d): pods would be full before one more starts." $target $capacity) }}
{{- end }}
{{- $deadline := dig "DEADLINE_S" 5 $values.correlator.settings | float64 }}
{{- $stepIn := dig "STEP_IN_S" 2.5 $values.translator.settings | float64 }}
{{- if and $values.translator.enabled (ge $stepIn $deadline) }}
{{- fail (printf "\n\ntranslator.settings.STEP_IN_S (%g) must be less than correlator.settings.DEADLINE_S (%g): captions would not wait for translators that step in." $stepIn $deadline) }}
{{- end }}
{{- $keda := $values.transcriber.autoscaling.keda }}
{{- if and (eq $values.transcriber.autoscaling.kind "keda") (not $values.nats.enabled) (not $keda.natsMonitoring) }}
{{- fail "\n\nKEDA asks NATS' monitoring for the backlog: set transcriber.autoscaling.keda.natsMonitoring to its host:port." }}
{{- end }}
{{- $keys := $values.transcriber.secretKeys }}
{{- if ne (has "palabra-client-id" $keys) (has "palabra-client-secret" $keys) }}
{{- fail "\n\npalabra-client-id and palabra-client-secret come together in transcriber.secretKeys." }}
{{- end }}
{{- if and $keys (not $values.transcriber.existingSecret) }}
{{- fail "\n\ntranscriber.secretKeys needs transcriber.existingSecret: the Secret that has them." }}
{{- end }}
{{- if and $values.ingest.ingress.enabled (not $values.ingest.ingress.hosts) }}
{{- fail "\n\ningest.ingress needs at least one host in ingest.ingress.hosts." }}
{{- end }}
{{- end }}
