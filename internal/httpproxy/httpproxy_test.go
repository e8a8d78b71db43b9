package httpproxy

import (
	"net/http"
	"net/url"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// net/http reads the environment once.
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
