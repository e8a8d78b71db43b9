package awstest

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Failure is an answer that AWS gives instead of the right one. With neither
// Status nor Cut, the right answer comes after Delay.
type Failure struct {
	Status  int
	Code    string
	Message string
	Delay   time.Duration
	Cut     bool // send half of the right answer, then cut the connection
	Times   int  // how many calls fail; 0 is all of them
}

// Denied is AWS's answer if the role's policy does not allow the action
// ("ec2:DescribeVpcs") on the resource; EC2 appends a message that only AWS can
// decode.
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

// KMSDenied is Secrets Manager's answer if the role may read the secret but
// not use the key that encrypts it.
func KMSDenied() Failure {
	return Failure{Status: http.StatusBadRequest, Code: "AccessDeniedException", Message: "Access to KMS is not allowed"}
}

// Throttled is EC2's answer to a caller beyond its rate.
func Throttled() Failure {
	return Failure{Status: http.StatusServiceUnavailable, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}
}

// Down is the answer of a service that cannot serve.
func Down() Failure {
	return Failure{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "The service is unavailable. Please try again shortly."}
}

// failures holds what is to fail, by action or path.
type failures struct {
	mu sync.Mutex
	by map[string]Failure
}

// Fail makes calls of the action fail; the zero Failure ends that.
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

// next returns how this call fails, and counts it.
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

// wait sleeps for the failure's delay, or until the client has gone.
func (f Failure) wait(ctx context.Context) {
	if f.Delay == 0 {
		return
	}
	select {
	case <-time.After(f.Delay):
	case <-ctx.Done():
	}
}

// send writes the right answer, or its first half where the failure says so.
func (f Failure) send(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	if f.Cut {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:len(body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // net/http's way to cut a connection
	}
	w.Write(body)
}
