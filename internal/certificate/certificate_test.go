package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

type store map[string][]byte

func (s store) Read(key string) []byte         { return s[key] }
func (s store) Write(key string, value []byte) { s[key] = value }

const name = "edge.tail.test"

// put writes a certificate of a name, of whose lifetime a part has passed.
func (s store) put(t *testing.T, of string, passed float64) {
	t.Helper()
	const lifetime = 90 * 24 * time.Hour
	from := time.Now().Add(-time.Duration(passed * float64(lifetime)))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{of}, NotBefore: from, NotAfter: from.Add(lifetime)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s[name+certSuffix] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s[name+keySuffix] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// TestGet decides by the certificate in the store, with an authority that is out of order. TestServeTLS in test/e2e has a real one.
func TestGet(t *testing.T) {
	asked := 0
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		http.Error(w, "out of order", http.StatusForbidden)
	}))
	defer authority.Close()
	for _, tt := range []struct {
		kept       string
		put        func(store)
		want, asks bool
		err        string // its start; "" for none
	}{
		{kept: "new", put: func(s store) { s.put(t, name, 0.01) }, want: true},
		{kept: "before the last third", put: func(s store) { s.put(t, name, 0.65) }, want: true},
		{kept: "in the last third", put: func(s store) { s.put(t, name, 0.68) }, want: true, asks: true, err: "renewing the certificate for edge.tail.test, which ends "},
		{kept: "ended", put: func(s store) { s.put(t, name, 1.01) }, asks: true, err: "requesting a certificate for edge.tail.test: "},
		{kept: "of another name", put: func(s store) { s.put(t, "other.tail.test", 0.01) }, asks: true, err: "requesting a certificate for edge.tail.test: "},
		{kept: "none", put: func(store) {}, asks: true, err: "requesting a certificate for edge.tail.test: "},
		{kept: "damaged", put: func(s store) { s.put(t, name, 0.01); s[name+keySuffix] = []byte("x") }, asks: true, err: "requesting a certificate for edge.tail.test: "},
		{kept: "a damaged account", put: func(s store) { s[accountKey] = []byte("-----BEGIN X-----\n") }, asks: true, err: "requesting a certificate for edge.tail.test: "},
	} {
		s := store{}
		tt.put(s)
		before := fmt.Sprint(s)
		asked = 0
		k := New(Config{Directory: authority.URL, Store: s, HTTP: authority.Client()})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := k.Get(ctx, name)
		cancel()
		if (c != nil) != tt.want || (asked > 0) != tt.asks || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%s: certificate %v, asked %d times, %v", tt.kept, c != nil, asked, err)
		}
		if fmt.Sprint(s) != before {
			t.Errorf("%s: a request that failed changed the store", tt.kept)
		}
	}
}
