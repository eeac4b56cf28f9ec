{{/*
Up at once; down one pod a minute, after a while: a transcriber that ends hands its streams over, which costs each a new
session at its provider; the clients of an ingest that ends connect again.
*/}}
{{- define "speechbus.scalingBehavior" -}}
behavior:
  scaleUp:
    stabilizationWindowSeconds: 0
  scaleDown:
    stabilizationWindowSeconds: {{ .scaleDownStabilizationSeconds }}
    policies:
      - type: Pods
        value: 1
        periodSeconds: 60
{{- end }}
