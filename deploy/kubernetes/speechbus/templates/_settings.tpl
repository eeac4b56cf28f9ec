{{/* Settings of the services: their environment variables. */}}

{{/*
A number as the services read it: Helm holds numbers as floats, and would write 536870912 as 5.36870912e+08.
*/}}
{{- define "speechbus.value" -}}
{{- if kindIs "slice" . }}
{{- join "," . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) }}
{{- printf "%.0f" . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{- define "speechbus.healthPort" -}}
{{- get (dict "ingest" "8084" "transcriber" "8081" "correlator" "8082" "translator" "8083") . }}
{{- end }}

{{/* What is a Secret's key there is a file here. */}}
{{- define "speechbus.secretsFolder" -}}/run/secrets/speechbus{{- end }}

{{/*
Secrets of a component: where each comes from, and the variable that names its file. Arguments: root, component.
*/}}
{{- define "speechbus.secrets" -}}
{{- $values := .root.Values }}
{{- $prefix := printf "SPEECHBUS_%s_" (upper .component) }}
{{- $secrets := list }}
{{- with $values.global.busSecret }}
{{- $secrets = append $secrets (dict "secret" . "key" (printf "nats_%s_password" $.component) "file" "nats-password" "variable" (print $prefix "NATS_PASSWORD_FILE")) }}
{{- end }}
{{- with $values.bus.tls.existingSecret }}
{{- $secrets = append $secrets (dict "secret" . "key" "ca.crt" "file" "nats-ca.crt" "variable" (print $prefix "NATS_CA")) }}
{{- if $values.bus.tls.clientCertificate }}
{{- $secrets = append $secrets (dict "secret" . "key" "tls.crt" "file" "nats-tls.crt" "variable" (print $prefix "NATS_CERT")) }}
{{- $secrets = append $secrets (dict "secret" . "key" "tls.key" "file" "nats-tls.key" "variable" (print $prefix "NATS_KEY")) }}
{{- end }}
{{- end }}
{{- if eq .component "ingest" }}
{{- $keys := list "api-keys" "token-secret" }}
{{- if $values.ingest.formerTokenSecret }}
{{- $keys = append $keys "token-secret-former" }}
{{- end }}
{{- range $key := $keys }}
{{- $secrets = append $secrets (dict "secret" $values.ingest.existingSecret "key" $key "file" $key "variable" (print $prefix (upper $key | replace "-" "_") "_FILE")) }}
{{- end }}
{{- else if eq .component "transcriber" }}
{{- range $key := $values.transcriber.secretKeys }}
{{- $secrets = append $secrets (dict "secret" $values.transcriber.existingSecret "key" $key "file" $key "variable" (print (upper $key | replace "-" "_") "_FILE")) }}
{{- end }}
{{- else if eq .component "translator" }}
{{- with $values.translator.existingSecret }}
{{- $secrets = append $secrets (dict "secret" . "key" "libretranslate-api-key" "file" "libretranslate-api-key" "variable" (print $prefix "LIBRETRANSLATE_API_KEY_FILE")) }}
{{- end }}
{{- end }}
{{- toJson $secrets }}
{{- end }}

{{/* All variables of a component, as a JSON object. Arguments: root, component. */}}
{{- define "speechbus.variables" -}}
{{- $root := .root }}
{{- $component := .component }}
{{- $prefix := printf "SPEECHBUS_%s_" (upper $component) }}
{{- $variables := dict }}
{{- range $name, $value := (get $root.Values $component).settings }}
{{- $variable := regexMatch "^(PALABRA|KOTOBA)_" $name | ternary $name (print $prefix $name) }}
{{- $_ := set $variables $variable (include "speechbus.value" $value) }}
{{- end }}
{{- $_ := set $variables (print $prefix "NATS_URL") (include "speechbus.bus.url" $root) }}
{{- if $root.Values.global.busSecret }}
{{- $_ := set $variables (print $prefix "NATS_USER") $component }}
{{- end }}
{{- if has $component (list "ingest" "transcriber" "bootstrap") }}
{{- $_ := set $variables (print $prefix "SHARDS") (include "speechbus.value" $root.Values.bus.shards) }}
{{- end }}
{{- if ne $component "bootstrap" }}
{{- $_ := set $variables (print $prefix "HEALTH_HOST") $root.Values.listenHost }}
{{- $_ := set $variables (print $prefix "HEALTH_PORT") (include "speechbus.healthPort" $component) }}
{{- end }}
{{- if eq $component "ingest" }}
{{- $_ := set $variables (print $prefix "LISTEN_HOST") $root.Values.listenHost }}
{{- $_ := set $variables (print $prefix "LISTEN_PORT") "8080" }}
{{- end }}
{{- if and (eq $component "translator") $root.Values.translator.modelsClaim }}
{{- $_ := set $variables (print $prefix "CTRANSLATE2_DIR") "/models" }}
{{- end }}
{{- range $secret := include "speechbus.secrets" . | fromJsonArray }}
{{- $_ := set $variables $secret.variable (printf "%s/%s" (include "speechbus.secretsFolder" $root) $secret.file) }}
{{- end }}
{{- if ne $component "bootstrap" }}
{{- range $name, $value := $root.Values.telemetry.variables }}
{{- $_ := set $variables $name (include "speechbus.value" $value) }}
{{- end }}
{{- with $root.Values.telemetry.otlp.endpoint }}
{{- $_ := set $variables "OTEL_EXPORTER_OTLP_ENDPOINT" . }}
{{- end }}
{{- end }}
{{- toJson $variables }}
{{- end }}

{{/*
Seconds from SIGTERM to SIGKILL: what the service takes for its drain and its farewells, 4 s until it ends itself
where it stands, and 6 s for a busy node. Arguments: root, component.
*/}}
{{- define "speechbus.gracePeriodSeconds" -}}
{{- $own := get .root.Values .component }}
{{- $stop := 0.0 }}
{{- if eq .component "ingest" }}
{{- $stop = addf (dig "settings" "DRAIN_S" 10 $own) 5 $own.preStopSleepSeconds }}
{{- else if eq .component "transcriber" }}
{{- $stop = addf (dig "settings" "DRAIN_S" 20 $own) 5 }}
{{- else }}
{{- $stop = get (dict "correlator" 8 "translator" 11) .component }}
{{- end }}
{{- addf $stop 10 | ceil | int }}
{{- end }}
