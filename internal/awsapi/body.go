package awsapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ownBodies sends a copy of each request's body. The SDK closes the original as soon as an
// answer begins. If the transport has not read all of it by then, as may happen on a busy
// processor, it treats that as a write error and closes the connection before the answer is
// complete.
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
