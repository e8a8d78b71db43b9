package terraform

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
)

// account is an AWS account, a moto_server behind a proxy that is as strict as AWS. It has
// the resources that the published call expects.
type account struct {
	*awstest.Strict
	workspace
	world map[string]string // IDs, by output of testdata/world
}

// The image tag of the published call, and a newer one.
const (
	publishedTag = "sha-a0063fef6ccfa4dc689642d60637a124c60b1be3"
	nextTag      = "sha-1111111111111111111111111111111111111111"
)

const ecsTarget = "AmazonEC2ContainerServiceV20141113."

func newAccount(t *testing.T) account {
	t.Helper()
	moto := awstest.RunMoto(t,
		"MOTO_IAM_LOAD_MANAGED_POLICIES=true", // Hardfin's module attaches one of them
	)
	strict := awstest.RunStrict(t, moto)
	a := account{Strict: strict, workspace: newWorkspace(t, strict.Env(awstest.World{}))}
	a.simulateSleep(strict)
	a.copy("world", "testdata/world")
	a.write("world/provider.tf", provider)
	a.init("world")
	a.apply("world")
	a.world = a.outputs("world")
	a.pushImage(publishedTag, 1)
	return a
}

// simulateSleep puts a command "sleep" first on PATH, which advances the clock of the AWS
// double instead of waiting.
func (w *workspace) simulateSleep(strict *awstest.Strict) {
	w.t.Helper()
	address, request, _ := strings.Cut(strings.TrimPrefix(strict.SleepURL(), "http://"), "/")
	host, port, _ := strings.Cut(address, ":")
	w.write("bin/sleep", fmt.Sprintf("#!/bin/bash\nset -e\nexec 3<>/dev/tcp/%s/%s\nprintf 'GET /%s%%ss HTTP/1.0\\r\\n\\r\\n' \"$1\" >&3\ngrep -q '200 OK' <&3\n", host, port, request))
	bin := filepath.Join(w.dir, "bin")
	if err := os.Chmod(filepath.Join(bin, "sleep"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.env = append(w.env, "PATH="+bin+":"+os.Getenv("PATH"))
}

// pushImage pushes an image to the repository.
func (a account) pushImage(tag string, number int) {
	a.t.Helper()
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",`+
		`"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%d,"digest":"sha256:%064d"},"layers":[]}`, number, number)
	a.json("ecr", "AmazonEC2ContainerRegistry_V20150921.PutImage", map[string]any{"repositoryName": "tailscale", "imageTag": tag, "imageManifest": manifest, "imageDigest": fmt.Sprintf("sha256:%064d", number)}, nil)
}

// json calls an AWS API with the JSON protocol.
func (a account) json(service, target string, in, out any) {
	a.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		a.t.Fatal(err)
	}
	b := a.call(service, http.MethodPost, "/", string(body), map[string]string{"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"})
	if out == nil {
		return
	}
	if err := json.Unmarshal(b, out); err != nil {
		a.t.Fatalf("%s: %v in %s", target, err, b)
	}
}

// query calls an AWS API with the query protocol and returns the XML.
func (a account) query(service, version, action string, parameters ...string) string {
	a.t.Helper()
	form := url.Values{"Action": {action}, "Version": {version}}
	for i := 0; i+1 < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	return string(a.call(service, http.MethodPost, "/", form.Encode(), map[string]string{"Content-Type": "application/x-www-form-urlencoded"}))
}

// call sends a request with a fake signature. moto reads only the service from it.
func (a account) call(service, method, path, body string, header map[string]string) []byte {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.URL()+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/eu-west-1/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		a.t.Fatalf("%s %s %s: HTTP %d %v %s", service, method, path, resp.StatusCode, err, b)
	}
	return b
}
