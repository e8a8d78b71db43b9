package awsapi

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"subnetrouter/internal/secret"
)

// DataKey is a key of 256 bits for local encryption, also encrypted with a KMS key.
type DataKey struct {
	Plain   secret.Bytes
	Wrapped []byte // a few hundred bytes; [Client.DecryptDataKey] returns Plain for it
}

// GenerateDataKey and Decrypt are the actions that [Client.GenerateDataKey] and
// [Client.DecryptDataKey] need.
var (
	GenerateDataKey = Action{Name: "kms:GenerateDataKey"}
	Decrypt         = Action{Name: "kms:Decrypt"}
)

// dataKeySize is the size of an AES-256 key in bytes.
const dataKeySize = 32

// GenerateDataKey returns a new data key. key is the ID, ARN or alias of a KMS key; an
// ARN's region wins over the client's. KMS records the pairs of the encryption context in
// CloudTrail, and requires the same ones to decrypt the key.
func (c *Client) GenerateDataKey(ctx context.Context, key string, encryptionContext map[string]string) (DataKey, error) {
	req, options := c.kmsKey(GenerateDataKey, key)
	var out *kms.GenerateDataKeyOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.kms.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
			KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: encryptionContext,
		}, options)
		return err
	})
	if err != nil {
		return DataKey{}, err
	}
	if len(out.Plaintext) != dataKeySize || len(out.CiphertextBlob) == 0 {
		return DataKey{}, req.fail("", "", "the answer contains no AES-256 key", "")
	}
	return DataKey{out.Plaintext, out.CiphertextBlob}, nil
}

// DecryptDataKey returns the plain form of a data key. It fails unless key and context are
// those with which the data key was made.
func (c *Client) DecryptDataKey(ctx context.Context, key string, wrapped []byte, encryptionContext map[string]string) (secret.Bytes, error) {
	req, options := c.kmsKey(Decrypt, key)
	var out *kms.DecryptOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.kms.Decrypt(ctx, &kms.DecryptInput{
			KeyId: &key, CiphertextBlob: wrapped, EncryptionContext: encryptionContext,
		}, options)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out.Plaintext) != dataKeySize {
		return nil, req.fail("", "", "the answer contains no AES-256 key", "")
	}
	return out.Plaintext, nil
}

// kmsKey returns a request for a KMS key, and the option that selects its region.
func (c *Client) kmsKey(a Action, key string) (request, func(*kms.Options)) {
	region := c.regionOf(key)
	const enable = "enable the KMS key, or cancel its deletion"
	return request{
		op:         a.Name,
		resource:   fmt.Sprintf("KMS key %q", key),
		region:     region,
		callerCode: true,
		allow:      fmt.Sprintf("allow %s on %s in the task role's policy and in the key's own policy", a.Name, key),
		find:       fmt.Sprintf("create the KMS key in %s, or correct its ID, ARN or alias", region),
		missing:    map[string]bool{"NotFoundException": true},
		fixes: map[string]string{
			"DisabledException":          enable,
			"KMSInvalidStateException":   enable,
			"InvalidKeyUsageException":   "use a symmetric KMS key for encryption and decryption",
			"IncorrectKeyException":      "use the KMS key with which the data was encrypted",
			"InvalidCiphertextException": "the data is damaged, or was encrypted for another router or table: delete it",
		},
	}, func(o *kms.Options) { o.Region = region }
}
