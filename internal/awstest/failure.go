package awstest

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Failure replaces the regular answer to a call. With neither Status nor Cut, the regular
// answer follows after Delay.
type Failure struct {
	Status  int
	Code    string
	Message string
	Delay   time.Duration
	Cut     bool // send half of the regular answer, then close the connection
	Times   int  // number of calls that fail; 0: all
}

// Denied returns AWS's answer if the role's policy does not allow the action
// ("ec2:DescribeVpcs") on the resource. EC2 appends an encoded message, which
// sts:DecodeAuthorizationMessage decodes.
func Denied(action, resource string) Failure {
	who := "User: arn:aws:sts::123456789012:assumed-role/router/6f1d0c5b is not authorized to perform: " + action
	why := " because no identity-based policy allows the " + action + " action"
	if action == "secretsmanager:GetSecretValue" {
		return Failure{Status: http.StatusBadRequest, Code: "AccessDeniedException", Message: who + " on resource: " + resource + why}
	}
	if strings.HasPrefix(action, "sts:") {
		return Failure{Status: http.StatusForbidden, Code: "AccessDenied", Message: who + " on resource: " + resource + why}
	}
	return Failure{
		Status: http.StatusForbidden, Code: "UnauthorizedOperation",
		Message: "You are not authorized to perform this operation. " + who + why + ". Encoded authorization failure message: aBcD3fGh_encoded-blob",
	}
}

// KMSDenied returns Secrets Manager's answer if the role may read the secret but not use
// the key that encrypts it.
func KMSDenied() Failure {
	return Failure{Status: http.StatusBadRequest, Code: "AccessDeniedException", Message: "Access to KMS is not allowed"}
}

// Throttled returns EC2's answer to a caller above its request rate.
func Throttled() Failure {
	return Failure{Status: http.StatusServiceUnavailable, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}
}

// Down returns the answer of an unavailable service.
func Down() Failure {
	return Failure{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "The service is unavailable. Please try again shortly."}
}

// failures holds the injected failures by action or path.
type failures struct {
	mu sync.Mutex
	by map[string]Failure
}

// Fail makes calls of the action fail, until it is called with the zero Failure.
func (f *failures) Fail(action string, failure Failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[string]Failure{}
	}
	f.by[action] = failure
	if failure == (Failure{}) {
		delete(f.by, action)
	}
}

// next returns the failure of this call, zero for none, and counts down its Times.
func (f *failures) next(action string) Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	failure, found := f.by[action]
	if found && failure.Times > 0 {
		if failure.Times--; failure.Times == 0 {
			delete(f.by, action)
		} else {
			f.by[action] = failure
		}
	}
	return failure
}

// wait waits for the failure's delay, or until the client has closed the connection.
func (f Failure) wait(ctx context.Context) {
	if f.Delay == 0 {
		return
	}
	select {
	case <-time.After(f.Delay):
	case <-ctx.Done():
	}
}

// send writes the regular answer, or its first half if Cut is set.
func (f Failure) send(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	if f.Cut {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:len(body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	w.Write(body)
}
