package tailnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// CertificateName returns the node's name, if the tailnet allows a certificate for it; otherwise "".
func (n *Node) CertificateName() string {
	if !n.Started() {
		return ""
	}
	names := n.lb.StatusWithoutPeers().CertDomains
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// CertificateDirectory returns the URL of the certificate authority, in the variable of the engine; "" for Let's Encrypt.
func CertificateDirectory() string { return envknob.String("TS_DEBUG_ACME_DIRECTORY_URL") }

// SetTXT has control write a record of the type TXT for one of the node's certificates. The engine's own function is a part of its feature
// "acme", which needs "serve": 1.4 MB together.
func (n *Node) SetTXT(ctx context.Context, name, value string) error {
	control, err := url.Parse(n.controlURL())
	if err != nil {
		return err
	}
	key := n.lb.NodeKey()
	body, err := json.Marshal(&tailcfg.SetDNSRequest{
		Version: tailcfg.CurrentCapabilityVersion, NodeKey: key, Name: name, Type: "TXT", Value: value,
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+control.Host+"/machine/set-dns", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(tailcfg.LBHeader, key.String())
	res, err := n.lb.DoNoiseRequest(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return fmt.Errorf("control answered %s: %.500q", res.Status, bytes.TrimSpace(text))
	}
	return nil
}

// Kept are the values of other parts of the router that the node's state keeps. It is empty without a state.
func (n *Node) Kept() Kept { return Kept{n.keptIn} }

// Kept is a part of a node's state.
type Kept struct{ state ipn.StateStore }

// Read returns a value; nil if there is none.
func (k Kept) Read(key string) []byte {
	if k.state == nil {
		return nil
	}
	value, err := k.state.ReadState(ipn.StateKey(key))
	if err != nil && !errors.Is(err, ipn.ErrStateNotExist) {
		return nil
	}
	return value
}

// Write replaces a value, or removes it if it is nil. It may wait for the place of the state.
func (k Kept) Write(key string, value []byte) {
	if k.state != nil {
		k.state.WriteState(ipn.StateKey(key), value)
	}
}
