package awstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
)

// Key is a symmetric KMS key.
type Key struct {
	ID       string
	Alias    string // "alias/router"; "" if it has none
	Disabled bool
}

// KeyARN returns the ARN of the key with this ID in a [Server].
func (w World) KeyARN(id string) string {
	return fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", w.region(), w.account(), id)
}

// key finds a KMS key by its ID, ARN, alias or the ARN of its alias.
func (w World) key(id string) (Key, *awsError) {
	for _, k := range w.Keys {
		alias := k.Alias != "" && (id == k.Alias || id == strings.Replace(w.KeyARN(k.Alias), ":key/alias/", ":alias/", 1))
		if id != k.ID && id != w.KeyARN(k.ID) && !alias {
			continue
		}
		if k.Disabled {
			return Key{}, &awsError{Code: "DisabledException", Message: w.KeyARN(k.ID) + " is disabled."}
		}
		return k, nil
	}
	if strings.Contains(id, "alias/") {
		return Key{}, &awsError{Code: "NotFoundException", Message: fmt.Sprintf("Alias %s is not found.", id)}
	}
	return Key{}, &awsError{Code: "NotFoundException", Message: fmt.Sprintf("Key '%s' does not exist", w.KeyARN(strings.TrimPrefix(id, w.KeyARN(""))))}
}

// masterKey encrypts for all KMS keys of this process; the ID of the KMS key is
// authenticated data.
var masterKey = func() cipher.AEAD {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // cannot fail: the size is right
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}()

type generateDataKey struct {
	KeyId, KeySpec    string
	EncryptionContext map[string]string
}

type dataKey struct {
	CiphertextBlob []byte `json:",omitempty"`
	Plaintext      []byte
	KeyId          string
}

func (s *Server) generateDataKey(region string, in generateDataKey) (out dataKey, no *awsError) {
	w := s.snapshot().in(region)
	k, no := w.key(in.KeyId)
	if no != nil {
		return out, no
	}
	if in.KeySpec != "AES_256" {
		return out, &awsError{Code: "ValidationException", Message: "this server generates only AES_256 keys"}
	}
	out = dataKey{Plaintext: make([]byte, 32), KeyId: w.KeyARN(k.ID)}
	rand.Read(out.Plaintext)
	// The ID's length is in the first byte.
	out.CiphertextBlob = masterKey.Seal(append([]byte{byte(len(k.ID))}, k.ID...), nil, out.Plaintext, authenticated(k, in.EncryptionContext))
	return out, nil
}

type decrypt struct {
	KeyId             string
	CiphertextBlob    []byte
	EncryptionContext map[string]string
}

func (s *Server) decryptDataKey(region string, in decrypt) (out dataKey, no *awsError) {
	w := s.snapshot().in(region)
	k, no := w.key(in.KeyId)
	if no != nil {
		return out, no
	}
	blob := in.CiphertextBlob
	if len(blob) == 0 || len(blob) <= int(blob[0]) {
		return out, &awsError{Code: "InvalidCiphertextException"}
	}
	id, sealed := string(blob[1:1+blob[0]]), blob[1+blob[0]:]
	if id != k.ID {
		return out, &awsError{Code: "IncorrectKeyException", Message: "The key ID in the request does not identify a CMK that can perform this operation."}
	}
	plain, err := masterKey.Open(nil, nil, sealed, authenticated(k, in.EncryptionContext))
	if err != nil {
		return out, &awsError{Code: "InvalidCiphertextException"}
	}
	return dataKey{Plaintext: plain, KeyId: w.KeyARN(k.ID)}, nil
}

func authenticated(k Key, encryptionContext map[string]string) []byte {
	text, err := json.Marshal(encryptionContext) // in the order of the names
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	return append([]byte(k.ID), text...)
}
