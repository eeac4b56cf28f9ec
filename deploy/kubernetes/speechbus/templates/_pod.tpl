{{/* What all pods have in common. */}}

{{- define "speechbus.podSecurity" -}}
serviceAccountName: {{ include "speechbus.serviceAccountName" . }}
automountServiceAccountToken: false
# Variables of other Services would begin with our prefix where one of ours has a like name.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  # Files of Secrets belong to root; the group may read them.
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "speechbus.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "speechbus.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- $secrets := include "speechbus.secrets" . | fromJsonArray }}
{{- if $secrets }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $secrets }}
      - secret:
          name: {{ .secret | quote }}
          items:
            - key: {{ .key }}
              path: {{ .file }}
      {{- end }}
{{- end }}
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "speechbus.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "speechbus.secrets" . | fromJsonArray }}
- name: secrets
  mountPath: {{ include "speechbus.secretsFolder" .root }}
  readOnly: true
{{- end }}
{{- end }}
