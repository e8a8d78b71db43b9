package identity

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/problem"
)

// A sealed state is a byte for the format, and then
//
//   - plain: the compressed text;
//   - encrypted: the size of the wrapped data key in two bytes, big endian, the wrapped key,
//     a nonce of 12 bytes, and the compressed text, sealed with AES-256-GCM.
//
// The service and the number of the slot are authenticated, and KMS requires them to unwrap
// the key: the state of one slot is worthless in another. The table is not part of them, so
// that a restored table, which has a new name, can be used.
const (
	plain     = 1
	encrypted = 2
)

// maxState bounds the size of a state, stored and expanded, in bytes. DynamoDB's limit for
// an item is 400 KB; a router's state has some 4 KB.
const maxState = 256 << 10

var errSealed = errors.New("the stored state is damaged, or not a router's")

// sealer seals the states of one slot. It is not safe for concurrent use.
type sealer struct {
	client  *awsapi.Client
	kmsKey  string // "" means that states are not encrypted
	service string
	slot    int

	wrapped []byte // the wrapped data key; nil before there is one
	aead    cipher.AEAD
}

// bound is the KMS encryption context.
func (s *sealer) bound() map[string]string {
	return map[string]string{"subnetrouter": s.name()}
}

func (s *sealer) name() string { return fmt.Sprintf("%s/%d", s.service, s.slot) }

func (s *sealer) use(key, wrapped []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	s.wrapped = wrapped
	return nil
}

// seal compresses and encrypts a state. The first call for a slot without a data key gets one
// from KMS; each later state is sealed with the same key and a random nonce.
func (s *sealer) seal(ctx context.Context, text []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	w.Write(text) //nolint:errcheck // to memory
	w.Close()     //nolint:errcheck
	if s.kmsKey == "" {
		return append([]byte{plain}, out.Bytes()...), nil
	}
	if s.aead == nil {
		key, err := s.client.GenerateDataKey(ctx, s.kmsKey, s.bound())
		if err != nil {
			return nil, err
		}
		if err := s.use(key.Plain, key.Wrapped); err != nil {
			return nil, err
		}
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce) //nolint:errcheck // never fails
	sealed := binary.BigEndian.AppendUint16([]byte{encrypted}, uint16(len(s.wrapped)))
	sealed = append(append(sealed, s.wrapped...), nonce...)
	return s.aead.Seal(sealed, nonce, out.Bytes(), []byte(s.name())), nil
}

// open returns the text of a sealed state. The data key in it serves later calls of seal, if
// states are to be encrypted.
func (s *sealer) open(ctx context.Context, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed) > maxState {
		return nil, errSealed
	}
	switch format, rest := sealed[0], sealed[1:]; format {
	case plain:
		return expand(rest)
	case encrypted:
		if len(rest) < 2 {
			return nil, errSealed
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; n == 0 || len(rest) < n {
			return nil, errSealed
		}
		if s.kmsKey == "" {
			return nil, problem.New("add kms=KEY-ARN to ROUTER_STATE", "opening the stored state: it is encrypted, and ROUTER_STATE names no KMS key")
		}
		wrapped, rest := bytes.Clone(rest[:n]), rest[n:]
		key, err := s.client.DecryptDataKey(ctx, s.kmsKey, wrapped, s.bound())
		if err != nil {
			return nil, err
		}
		if err := s.use(key, wrapped); err != nil {
			return nil, err
		}
		if len(rest) < s.aead.NonceSize() {
			return nil, errSealed
		}
		compressed, err := s.aead.Open(nil, rest[:s.aead.NonceSize()], rest[s.aead.NonceSize():], []byte(s.name()))
		if err != nil {
			return nil, errSealed
		}
		return expand(compressed)
	}
	return nil, errSealed
}

// expand returns the text of compressed data, which may be hostile.
func expand(compressed []byte) ([]byte, error) {
	r := flate.NewReader(bytes.NewReader(compressed))
	text, err := io.ReadAll(io.LimitReader(r, maxState+1))
	if err != nil || len(text) > maxState {
		return nil, errSealed
	}
	return text, nil
}
