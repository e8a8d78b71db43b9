package awstest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

type getSecretValue struct{ SecretId, VersionStage, VersionId string }

// secretValue is the answer of GetSecretValue, with AWS's field names. The date is in
// seconds since 1970; AWS and encoding/json both encode []byte as base64.
type secretValue struct {
	ARN           string
	Name          string
	VersionId     string
	SecretString  string `json:",omitempty"`
	SecretBinary  []byte `json:",omitempty"`
	VersionStages []string
	CreatedDate   float64
}

func (s *Server) getSecretValue(region string, in getSecretValue) (secretValue, *awsError) {
	out, code, message := s.snapshot().in(region).getSecretValue(in)
	if code != "" {
		return secretValue{}, &awsError{Code: code, Message: message}
	}
	return out, nil
}

func (w World) getSecretValue(in getSecretValue) (out secretValue, code, message string) {
	name, secret, found := w.findSecret(in.SecretId)
	if !found {
		return out, "ResourceNotFoundException", "Secrets Manager can't find the specified secret."
	}
	if secret.Deleted {
		return out, "InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion."
	}
	var versions []secretValue
	switch current := []string{"AWSCURRENT"}; {
	case secret.Value != "":
		versions = append(versions, secretValue{SecretString: secret.Value, VersionStages: current})
	case secret.Binary != nil:
		versions = append(versions, secretValue{SecretBinary: secret.Binary, VersionStages: current})
	}
	if secret.Pending != "" {
		versions = append(versions, secretValue{SecretString: secret.Pending, VersionStages: []string{"AWSPENDING"}})
	}
	stage := or(in.VersionStage, "AWSCURRENT")
	for _, v := range versions {
		v.ARN, v.Name = w.SecretARN(name), name
		v.VersionId = versionID(name, v)
		v.CreatedDate = float64(secret.Created.UnixMilli()) / float64(time.Second/time.Millisecond)
		if secret.Created.IsZero() {
			v.CreatedDate = 1795424764.25
		}
		if in.VersionId == v.VersionId || in.VersionId == "" && stage == v.VersionStages[0] {
			return v, "", ""
		}
	}
	message = "Secrets Manager can't find the specified secret value for staging label: " + stage
	if in.VersionId != "" {
		message = "Secrets Manager can't find the specified secret value for VersionId: " + in.VersionId
	}
	return out, "ResourceNotFoundException", message
}

// SecretARN returns the ARN of the secret with this name in a [Server].
func (w World) SecretARN(name string) string {
	return fmt.Sprintf("arn:aws:secretsmanager:%s:%s:secret:%s-YFMRaz", w.region(), w.account(), name)
}

func (w World) findSecret(id string) (name string, s Secret, found bool) {
	if strings.HasPrefix(id, "arn:") {
		for name, s := range w.Secrets {
			// AWS also accepts an ARN without its random suffix.
			if arn := w.SecretARN(name); id == arn || id+"-YFMRaz" == arn {
				return name, s, true
			}
		}
		return "", Secret{}, false
	}
	s, found = w.Secrets[id]
	return id, s, found
}

// versionID derives a version ID from the value, so that a rotation changes it.
func versionID(name string, v secretValue) string {
	sum := sha256.Sum256(fmt.Append(nil, name, v.VersionStages, v.SecretString, v.SecretBinary))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
