package awsapi_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
)

func TestDataKeys(t *testing.T) {
	world := awstest.World{Keys: []awstest.Key{{ID: "1234abcd-12ab-34cd-56ef-1234567890ab", Alias: "alias/router"}, {ID: "other"}, {ID: "off", Disabled: true}}}
	server, c := serve(t, world, "1", awsapi.Options{})
	id := world.Keys[0].ID
	purpose := map[string]string{"table": "router", "slot": "1"}
	key, err := c.GenerateDataKey(t.Context(), "alias/router", purpose)
	if err != nil || len(key.Plain) != 32 || len(key.Wrapped) == 0 {
		t.Fatalf("got %v, %v", key, err)
	}
	if bytes.Contains(key.Wrapped, key.Plain.Reveal()) {
		t.Error("the wrapped key contains the plain one")
	}
	if text := fmt.Sprintf("%v %+v %#v %x", key, key, key, key.Plain); strings.Contains(text, fmt.Sprintf("%x", key.Plain.Reveal())) || strings.Contains(text, fmt.Sprint(key.Plain.Reveal()[:4])) {
		t.Errorf("the plain key was printed: %s", text)
	}
	for _, ref := range []string{id, world.KeyARN(id), "alias/router"} {
		plain, err := c.DecryptDataKey(t.Context(), ref, key.Wrapped, maps.Clone(purpose))
		if err != nil || !bytes.Equal(plain, key.Plain) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if again, err := c.GenerateDataKey(t.Context(), id, purpose); err != nil || bytes.Equal(again.Plain, key.Plain) {
		t.Errorf("a second key is the first: %v", err)
	}

	decrypt := func(key string, wrapped []byte, purpose map[string]string) func() error {
		return func() error { _, err := c.DecryptDataKey(t.Context(), key, wrapped, purpose); return err }
	}
	generate := func(key string) func() error {
		return func() error { _, err := c.GenerateDataKey(t.Context(), key, nil); return err }
	}
	for _, test := range []struct {
		name    string
		failure awstest.Failure
		call    func() error
		want    string
	}{
		{"other context", awstest.Failure{}, decrypt(id, key.Wrapped, map[string]string{"table": "router", "slot": "2"}), "InvalidCiphertextException"},
		{"damaged", awstest.Failure{}, decrypt(id, []byte("x"), purpose), "the data is damaged"},
		{"other key", awstest.Failure{}, decrypt("other", key.Wrapped, purpose), "use the KMS key with which the data was encrypted"},
		{"missing", awstest.Failure{}, generate("none"), "create the KMS key in eu-west-1"},
		{"disabled", awstest.Failure{}, generate("off"), "enable the KMS key"},
		{"denied", awstest.Denied("kms:Decrypt", world.KeyARN(id)), decrypt(id, key.Wrapped, purpose), "allow kms:Decrypt on " + id + " in the task role's policy and in the key's own policy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server.Fail("kms:Decrypt", test.failure)
			defer server.Fail("kms:Decrypt", awstest.Failure{})
			if err := test.call(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
