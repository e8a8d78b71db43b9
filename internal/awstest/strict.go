package awstest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Rule is one way in which AWS is stricter than moto_server, and the answers of a [Strict]
// that follow from it.
type Rule struct {
	Name     string
	Sentence string // a summary of the documentation, or of a report from AWS
	Source   string // its address

	// before refuses a call, or edits its form; after edits the answer to a successful
	// call. Both are optional, and get every call.
	before func(*Strict, *call) *refusal
	after  func(*Strict, *call)
}

// StrictRules returns every rule, in the order in which they apply.
func StrictRules() []Rule {
	return slices.Concat(iamRules, ecsRules, ec2Rules, otherRules)
}

// gaps complete answers that moto gives without some of their fields.
var gaps = []func(*Strict, *call){storeService, describeRules, describeKey}

// Strict is a proxy in front of a moto_server that answers as AWS documents where moto is
// less strict.
type Strict struct {
	*listener
	moto *Moto

	// mu covers the fields below, which hold state that moto does not store.
	mu           sync.Mutex
	services     map[string]*service // by cluster and name
	inactive     map[string]bool     // deregistered task definitions, by ARN
	descriptions map[string]string   // of security group rules, by ID
	shared       bool                // VPCs belong to another account
	iam          propagation
}

// RunStrict starts a proxy that ends with the test.
func RunStrict(t testing.TB, moto *Moto) *Strict {
	t.Helper()
	s := &Strict{moto: moto, services: map[string]*service{}, inactive: map[string]bool{}, descriptions: map[string]string{}}
	var err error
	if s.listener, err = listen("", s); err != nil {
		t.Fatal(fmt.Errorf("starting the strict AWS endpoint: %w", err))
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// URL returns the proxy's address, without a trailing slash.
func (s *Strict) URL() string { return s.url }

// Env returns the environment that points the AWS SDK to this proxy.
func (s *Strict) Env(w World) map[string]string { return env(s.url, w.region()) }

// call is a request and, once moto has answered, its response.
type call struct {
	service string // from the signature: "ecs"
	action  string // "CreateService"; for REST, method and path
	in      fields // parameters of a JSON call
	form    url.Values
	header  http.Header
	out     fields // the JSON response
	text    string // any other response
}

func (c *call) is(service string, actions ...string) bool {
	return c.service == service && slices.Contains(actions, c.action)
}

// refusal is an error answer of AWS.
type refusal struct{ code, message string }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// fields is a JSON object.
type fields map[string]any

func (o fields) text(key string) string { s, _ := o[key].(string); return s }

func (o fields) object(key string) fields { m, _ := o[key].(map[string]any); return m }

// objects returns the objects of a list.
func (o fields) objects(key string) (all []fields) {
	list, _ := o[key].([]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			all = append(all, m)
		}
	}
	return all
}

// texts returns the strings of a list.
func (o fields) texts(key string) (all []string) {
	list, _ := o[key].([]any)
	for _, item := range list {
		if s, ok := item.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// fill sets missing fields.
func (o fields) fill(defaults fields) {
	for k, v := range defaults {
		if o[k] == nil {
			o[k] = v
		}
	}
}

// ServeHTTP forwards a request to moto and applies the rules to request and answer.
func (s *Strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == sleepPath {
		s.sleep(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := parse(r, body)
	for _, rule := range StrictRules() {
		if rule.before == nil {
			continue
		}
		if no := rule.before(s, c); no != nil {
			c.refuse(w, no)
			return
		}
	}
	if c.form != nil {
		body = []byte(c.form.Encode())
	}
	if c.service == "elasticfilesystem" && r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/policy") {
		return // moto cannot delete the policy; it disappears with the file system
	}
	res, err := s.forward(r, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if res.StatusCode/100 == 2 {
		answer = s.edit(c, answer)
	}
	maps.Copy(w.Header(), res.Header)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(res.StatusCode)
	w.Write(answer)
}

// edit applies the rules to an answer.
func (s *Strict) edit(c *call, answer []byte) []byte {
	c.text = string(answer)
	if decode(answer, &c.out) != nil {
		c.out = nil
	}
	for _, fill := range gaps {
		fill(s, c)
	}
	for _, rule := range StrictRules() {
		if rule.after != nil {
			rule.after(s, c)
		}
	}
	if c.out == nil {
		return []byte(c.text)
	}
	edited, err := json.Marshal(c.out)
	if err != nil {
		return answer
	}
	return edited
}

// forward sends an unchanged request to moto.
func (s *Strict) forward(r *http.Request, body []byte) (*http.Response, error) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, s.moto.URL()+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	return http.DefaultClient.Do(out)
}

// ask calls moto with the credentials of c, without the rules.
func (s *Strict) ask(c *call, service, target string, form url.Values, in, out any) error {
	body, kind := []byte(form.Encode()), "application/x-www-form-urlencoded"
	if target != "" {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		kind = "application/x-amz-json-1.1"
	}
	req, err := http.NewRequest(http.MethodPost, s.moto.URL()+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("X-Amz-Target", target)
	scope := strings.SplitN(c.header.Get("Authorization"), "/", 5)
	if len(scope) < 5 {
		return fmt.Errorf("calling moto: the original call is not signed")
	}
	req.Header.Set("Authorization", strings.Join(append(scope[:3:3], service, scope[4]), "/"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if text, ok := out.(*string); ok {
		*text = string(answer)
		return nil
	}
	return decode(answer, out)
}

// parse parses a request in any of AWS's protocols.
func parse(r *http.Request, body []byte) *call {
	c := &call{header: r.Header, action: r.Method + " " + r.URL.Path}
	if scope := strings.SplitN(r.Header.Get("Authorization"), "/", 5); len(scope) == 5 {
		c.service = scope[3]
	}
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		_, c.action, _ = strings.Cut(target, ".")
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		if form, err := url.ParseQuery(string(body)); err == nil {
			c.form, c.action = form, form.Get("Action")
		}
	} else if decode(body, &c.in) != nil {
		c.in = nil
	}
	return c
}

// decode decodes JSON and preserves the notation of numbers.
func decode(b []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(out)
}

// refuse answers in the protocol of the call.
func (c *call) refuse(w http.ResponseWriter, no *refusal) {
	if c.form != nil {
		type errors struct {
			XMLName xml.Name `xml:"Response"`
			Code    string   `xml:"Errors>Error>Code"`
			Message string   `xml:"Errors>Error>Message"`
			ID      string   `xml:"RequestID"`
		}
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusBadRequest)
		xml.NewEncoder(w).Encode(errors{Code: no.code, Message: no.message, ID: requestID})
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Errortype", no.code)
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(fields{"__type": no.code, "message": no.message})
}
