// Package certificate gets a TLS certificate for a name by ACME (RFC 8555), from Let's Encrypt unless configured otherwise, and
// renews it. The name is proved by a record in DNS (dns-01), which a function writes.
package certificate

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/acme"
)

// Store keeps the account's key, the certificate and its key, in PEM.
type Store interface {
	// Read returns a value; nil if there is none.
	Read(key string) []byte
	// Write replaces a value, or removes it if it is nil.
	Write(key string, value []byte)
}

// The keys of values in the store. Those of a certificate begin with its name. They are those of tailscaled, where it keeps
// certificates in its state.
const (
	accountKey = "acme-account.key.pem"
	certSuffix = ".crt"
	keySuffix  = ".key"
	lastKey    = "certificate-name" // the name of the last certificate; only this package's
)

// Config configures a [Keeper].
type Config struct {
	// Directory is the URL of the certificate authority. Default: Let's Encrypt's.
	Directory string
	Store     Store
	// SetTXT writes a record of the type TXT. The authority reads it some seconds later.
	SetTXT func(ctx context.Context, name, value string) error
	// HTTP connects to the authority.
	HTTP *http.Client
	// Agent names the program to the authority.
	Agent string
}

// Keeper gets and renews certificates. Its methods must not be called concurrently.
type Keeper struct{ cfg Config }

// New returns a keeper.
func New(cfg Config) *Keeper {
	cfg.Directory = cmp.Or(cfg.Directory, acme.LetsEncryptURL)
	return &Keeper{cfg}
}

// Get returns a certificate for a name: the one in the store, or a new one if there is none or less than a third of its lifetime is
// left. If a renewal fails, it returns both the certificate in the store, while that is valid, and the error.
func (k *Keeper) Get(ctx context.Context, name string) (*tls.Certificate, error) {
	kept := k.kept(name)
	now := time.Now()
	if kept != nil && now.Before(renewAt(kept.Leaf)) {
		return kept, nil
	}
	c, err := k.request(ctx, name)
	switch {
	case err == nil:
		return c, nil
	case kept != nil && now.Before(kept.Leaf.NotAfter):
		return kept, fmt.Errorf("renewing the certificate for %s, which ends %s: %w", name, kept.Leaf.NotAfter.UTC().Format(time.RFC3339), err)
	}
	return nil, fmt.Errorf("requesting a certificate for %s: %w", name, err)
}

func renewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// kept returns the certificate in the store; nil if there is none for the name.
func (k *Keeper) kept(name string) *tls.Certificate {
	c, err := tls.X509KeyPair(k.cfg.Store.Read(name+certSuffix), k.cfg.Store.Read(name+keySuffix))
	if err != nil || c.Leaf.VerifyHostname(name) != nil {
		return nil
	}
	return &c
}

// request gets a certificate from the authority, and keeps it instead of that of a former name.
func (k *Keeper) request(ctx context.Context, name string) (*tls.Certificate, error) {
	client, err := k.client(ctx)
	if err != nil {
		return nil, err
	}
	order, err := client.AuthorizeOrder(ctx, acme.DomainIDs(name))
	if err != nil {
		return nil, err
	}
	for _, url := range order.AuthzURLs {
		if err := k.prove(ctx, client, name, url); err != nil {
			return nil, err
		}
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		return nil, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := client.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		return nil, err
	}
	var certPEM []byte
	for _, der := range chain {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate is unusable: %w", err)
	}
	if last := string(k.cfg.Store.Read(lastKey)); last != "" && last != name {
		k.cfg.Store.Write(last+certSuffix, nil)
		k.cfg.Store.Write(last+keySuffix, nil)
	}
	k.cfg.Store.Write(lastKey, []byte(name))
	k.cfg.Store.Write(name+keySuffix, keyPEM)
	k.cfg.Store.Write(name+certSuffix, certPEM)
	return &c, nil
}

// client returns a client with an account: that in the store, or a new one.
func (k *Keeper) client(ctx context.Context) (*acme.Client, error) {
	text := k.cfg.Store.Read(accountKey)
	key := parseKey(text)
	if key == nil {
		var err error
		if key, text, err = newKey(); err != nil {
			return nil, err
		}
	}
	client := &acme.Client{Key: key, DirectoryURL: k.cfg.Directory, HTTPClient: k.cfg.HTTP, UserAgent: k.cfg.Agent}
	_, err := client.Register(ctx, &acme.Account{}, acme.AcceptTOS)
	if err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, err
	}
	k.cfg.Store.Write(accountKey, text)
	return client, nil
}

// prove proves that the name is this node's, unless the authority knows it from before.
func (k *Keeper) prove(ctx context.Context, client *acme.Client, name, url string) error {
	authorization, err := client.GetAuthorization(ctx, url)
	if err != nil || authorization.Status == acme.StatusValid {
		return err
	}
	for _, c := range authorization.Challenges {
		if c.Type != "dns-01" {
			continue
		}
		value, err := client.DNS01ChallengeRecord(c.Token)
		if err != nil {
			return err
		}
		if err := k.cfg.SetTXT(ctx, "_acme-challenge."+name, value); err != nil {
			return fmt.Errorf("writing the record in DNS: %w", err)
		}
		if _, err := client.Accept(ctx, c); err != nil {
			return err
		}
		_, err = client.WaitAuthorization(ctx, url)
		return err
	}
	return errors.New("the authority offers no proof by DNS")
}

func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// parseKey returns nil if the text has no key.
func parseKey(text []byte) crypto.Signer {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	return key
}
