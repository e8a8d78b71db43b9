package httpproxy

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) {
	// net/http reads the environment once.
	if os.Getenv(asked) != "" {
		ask()
		return
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		os.Setenv(name, "http://proxy.example:3128")
	}
	os.Setenv("NO_PROXY", "internal.example")
	os.Exit(m.Run())
}

func TestFromEnvironment(t *testing.T) {
	for target, byProxy := range map[string]bool{
		"http://169.254.170.2/v2/credentials/x":     false,
		"http://169.254.170.23/v1/credentials":      false,
		"http://169.254.169.254/latest/meta-data/":  false,
		"https://169.254.1.1:8443/":                 false,
		"http://[fd00:ec2::23]/v1/credentials":      false,
		"http://[fd00:ec2::254]/latest/meta-data/":  false,
		"http://[fe80::1%25eth0]/":                  false,
		"http://[::ffff:169.254.170.2]/":            false,
		"http://127.0.0.1:9002/":                    false,
		"http://127.1.2.3/":                         false,
		"http://[::1]:9002/":                        false,
		"http://localhost:9002/":                    false,
		"http://0.0.0.0:9002/":                      false,
		"https://internal.example/":                 false,
		"https://ec2.eu-west-1.amazonaws.com/":      true,
		"https://api.tailscale.com/":                true,
		"http://10.0.3.4/":                          true,
		"http://[fd00:ec3::1]/":                     true,
		"http://[2600:1f18::1]/":                    true,
		"http://169.254.170.2.example/credentials":  true,
		"https://secretsmanager.eu-west-1.api.aws/": true,
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		for _, decide := range []func(*http.Request) (*url.URL, error){FromEnvironment, Transport().Proxy} {
			if got, err := decide(&http.Request{URL: u}); err != nil || (got != nil) != byProxy {
				t.Errorf("%s: proxy %v, %v", target, got, err)
			}
		}
	}
	if Direct().Proxy != nil {
		t.Error("Direct has a proxy")
	}
}

// asked is set in a process that only runs ask.
const asked = "HTTPPROXY_TEST_ASKED"

// ask prints the result of FromEnvironment for the URL in the variable asked.
func ask() {
	u, err := url.Parse(os.Getenv(asked))
	if err != nil {
		panic(err)
	}
	proxy, err := FromEnvironment(&http.Request{URL: u})
	fmt.Printf("%v %v", proxy, err)
}

// TestUnusableProxy: the error names the variable and contains nothing of its value.
func TestUnusableProxy(t *testing.T) {
	const fix = " is not the URL of a proxy: percent-encode the special characters of its user and password (%2F for /, %3F for ?, %23 for #)"
	for _, tc := range []struct{ target, variable, value, want string }{
		{"http://example.com", "HTTP_PROXY", "http://user:pa/ss@proxy:3128", "<nil> HTTP_PROXY" + fix},
		{"https://example.com", "HTTPS_PROXY", "http://user:pa#ss@proxy:3128", "<nil> HTTPS_PROXY" + fix},
		{"https://example.com", "https_proxy", "http://user:pa?ss@proxy:3128", "<nil> https_proxy" + fix},
		{"https://example.com", "HTTPS_PROXY", "user:pa/ss@proxy:3128", "<nil> HTTPS_PROXY" + fix},
		{"https://example.com", "HTTPS_PROXY", "http://user:12/ss@proxy:3128", "<nil> HTTPS_PROXY" + fix}, // a host and a port
		{"https://example.com", "HTTPS_PROXY", "http://user:12#ss@proxy:3128", "<nil> HTTPS_PROXY" + fix},
		{"https://example.com", "HTTPS_PROXY", "http://user:it's@proxy:3128", "http://user:it%27s@proxy:3128 <nil>"},
		{"https://example.com", "HTTPS_PROXY", "http://user:pa@ss@proxy:3128", "http://user:pa%40ss@proxy:3128 <nil>"},
		{"https://example.com", "HTTPS_PROXY", "http://user:pa%2Fss@proxy:3128", "http://user:pa%2Fss@proxy:3128 <nil>"},
		{"https://example.com", "HTTPS_PROXY", "http://proxy:3128/", "http://proxy:3128/ <nil>"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = []string{asked + "=" + tc.target, tc.variable + "=" + tc.value}
		if out, err := cmd.Output(); err != nil || string(out) != tc.want {
			t.Errorf("%s=%s: %s, %v; want %s", tc.variable, tc.value, out, err, tc.want)
		}
	}
}
