package awstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// GetWebIdentityToken is the action that issues the task's identity token.
const GetWebIdentityToken = "sts:GetWebIdentityToken"

// Issuer is the issuer of the identity tokens of a [World]'s account.
const Issuer = "https://11111111-2222-3333-4444-555555555555.tokens.sts.global.api.aws"

// RoleARN returns the role of all callers of the [Server], which is the subject of their
// identity tokens.
func (w World) RoleARN() string { return "arn:aws:iam::" + w.account() + ":role/router" }

// FederationDisabled returns STS's answer in an account without outbound identity
// federation.
func FederationDisabled() Failure {
	return Failure{
		Status: http.StatusForbidden, Code: "OutboundWebIdentityFederationDisabledException",
		Message: "Outbound web identity federation is disabled for this account.",
	}
}

// Skewed returns AWS's answer to a request that was signed by a clock with another time.
func Skewed() Failure {
	return Failure{
		Status: http.StatusForbidden, Code: "SignatureDoesNotMatch",
		Message: "Signature expired: 20261125T044500Z is now earlier than 20261125T051000Z (20261125T051500Z - 5 min.)",
	}
}

type identityResponse struct {
	XMLName    xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetWebIdentityTokenResponse"`
	Token      string   `xml:"GetWebIdentityTokenResult>WebIdentityToken"`
	Expiration string   `xml:"GetWebIdentityTokenResult>Expiration"`
	RequestID  string   `xml:"ResponseMetadata>RequestId"`
}

func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, name string) {
	action := "sts:" + name
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	_, signed := signedFor(r)
	switch {
	case fail.Status != 0:
		stsError(w, fail.Status, fail.Code, fail.Message)
		return
	case !signed:
		stsError(w, http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token")
		return
	case name != "GetWebIdentityToken":
		stsError(w, http.StatusBadRequest, "InvalidAction", "Could not find operation "+name)
		return
	}
	life, audience, message := identityRequest(r.Form)
	if message != "" {
		stsError(w, http.StatusBadRequest, "ValidationError", message)
		return
	}
	now := time.Now()
	body, err := xml.Marshal(identityResponse{
		Token:      signIdentity(s.snapshot().RoleARN(), audience, now, life),
		Expiration: now.Add(life).UTC().Format(time.RFC3339), RequestID: requestID,
	})
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	fail.finish(r.Context())
	fail.send(w, "text/xml", body)
}

func identityRequest(form url.Values) (life time.Duration, audience, message string) {
	seconds := 300
	if s := form.Get("DurationSeconds"); s != "" {
		seconds, _ = strconv.Atoi(s)
	}
	switch audience = form.Get("Audience.member.1"); {
	case audience == "":
		message = "1 validation error detected: Value at 'audience' failed to satisfy constraint: Member must not be null"
	case form.Get("SigningAlgorithm") != "ES384":
		message = "1 validation error detected: Value at 'signingAlgorithm' failed to satisfy constraint: this server supports only ES384"
	case seconds < 60 || seconds > 3600:
		message = "1 validation error detected: Value at 'durationSeconds' failed to satisfy constraint"
	}
	return time.Duration(seconds) * time.Second, audience, message
}

// identityKey is the signing key of all servers of the process.
var identityKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

func signIdentity(subject, audience string, now time.Time, life time.Duration) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // cannot fail: it has only strings and numbers
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "ES384", "typ": "JWT", "kid": "EC384_0"}) + "." + part(map[string]any{
		"iss": Issuer, "sub": subject, "aud": audience,
		"iat": now.Unix(), "exp": now.Add(life).Unix(), "jti": strconv.FormatInt(now.UnixNano(), 36),
	})
	sum := sha512.Sum384([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, identityKey(), sum[:])
	if err != nil {
		panic(err)
	}
	var signature [96]byte
	r.FillBytes(signature[:48])
	s.FillBytes(signature[48:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

// Identity holds the claims of an identity token.
type Identity struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"` // seconds since 1970
}

// VerifyIdentity verifies and decodes an identity token; ok is false unless a [Server] of
// this process signed it.
func VerifyIdentity(jwt string) (id Identity, ok bool) {
	part := strings.Split(jwt, ".")
	if len(part) != 3 {
		return Identity{}, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil || len(signature) != 96 {
		return Identity{}, false
	}
	sum := sha512.Sum384([]byte(part[0] + "." + part[1]))
	r, s := new(big.Int).SetBytes(signature[:48]), new(big.Int).SetBytes(signature[48:])
	if !ecdsa.Verify(&identityKey().PublicKey, sum[:], r, s) {
		return Identity{}, false
	}
	claims, err := base64.RawURLEncoding.DecodeString(part[1])
	return id, err == nil && json.Unmarshal(claims, &id) == nil
}

func stsError(w http.ResponseWriter, status int, code, message string) {
	body, err := xml.Marshal(struct {
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}{Type: "Sender", Code: code, Message: message, RequestID: requestID})
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	w.Write(body)
}
