package awsapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ownBodies sends a copy of each request's body. The SDK closes its own as soon as an answer
// begins. The transport may not have read it to the end by then, as on a busy processor:
// it takes that for a failure to write, and closes the connection under the answer.
type ownBodies struct{ next aws.HTTPClient }

// Do implements [aws.HTTPClient].
func (c ownBodies) Do(req *http.Request) (*http.Response, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return c.next.Do(req)
	}
	body, err := io.ReadAll(req.Body) // a few hundred bytes
	if err != nil {
		return nil, fmt.Errorf("copying the body of a request: %w", err)
	}
	own := req.WithContext(req.Context())
	own.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	own.Body, _ = own.GetBody()
	own.ContentLength = int64(len(body))
	return c.next.Do(own)
}
