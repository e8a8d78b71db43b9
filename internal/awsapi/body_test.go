package awsapi_test

import (
	"io"
	"net/http"
	"testing"

	"subnetrouter/internal/awsapi"
)

// lateWriter is a transport that still reads the request's body after its answer arrived.
type lateWriter struct {
	bodies []io.Reader
	again  []func() (io.ReadCloser, error)
}

func (w *lateWriter) RoundTrip(req *http.Request) (*http.Response, error) {
	w.bodies = append(w.bodies, req.Body)
	w.again = append(w.again, req.GetBody)
	sent := req.Clone(req.Context())
	sent.Body = nil
	return &http.Response{StatusCode: http.StatusBadRequest, Proto: "HTTP/1.1", Body: http.NoBody, Request: sent, Header: http.Header{}}, nil
}

// TestBodyOutlivesAnswer: an early answer must not truncate the request.
func TestBodyOutlivesAnswer(t *testing.T) {
	late := &lateWriter{}
	_, c := connect(t, "1", awsapi.Options{Transport: late, Tries: 1})
	if _, err := c.Secret(t.Context(), awsapi.SecretRef{ID: "x"}); err == nil {
		t.Fatal("an empty answer was accepted as a secret")
	}
	if len(late.bodies) == 0 {
		t.Fatal("no request was sent")
	}
	for i, body := range late.bodies {
		first, err := io.ReadAll(body)
		if err != nil || len(first) == 0 {
			t.Errorf("after the answer the body has %d bytes, %v", len(first), err)
		}
		// A transport sends the body again if its connection ended.
		if late.again[i] == nil {
			t.Fatal("the body cannot be sent again")
		}
		second, err := late.again[i]()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(second); err != nil || string(b) != string(first) {
			t.Errorf("the second time the body is %q, %v; the first time %q", b, err, first)
		}
	}
}
