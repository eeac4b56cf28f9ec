{{/*
Up at once; down one pod a minute, after a while: each pod that ends hands its streams over, which costs their
providers a new session.
*/}}
{{- define "speechbus.scalingBehavior" -}}
behavior:
  scaleUp:
    stabilizationWindowSeconds: 0
  scaleDown:
    stabilizationWindowSeconds: {{ default 300 .scaleDownStabilizationSeconds }}
    policies:
      - type: Pods
        value: 1
        periodSeconds: 60
{{- end }}
