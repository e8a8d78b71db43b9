package awstest

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Failure replaces the regular answer to a call. Without Status the server makes the call,
// after Delay, and sends the regular answer, unless Cut or Lost is set.
type Failure struct {
	Status  int
	Code    string
	Message string
	Delay   time.Duration // before the call is made
	Deaf    bool          // make the call only after the whole Delay, even if the client has gone
	Late    time.Duration // between the call, which has its effect, and the answer
	Cut     bool          // send half of the regular answer, then close the connection
	Lost    bool          // close the connection without an answer
	Times   int           // number of calls that fail; 0: all
}

// Denied returns AWS's answer if the role's policy does not allow the action
// ("ec2:DescribeVpcs") on the resource. EC2 appends an encoded message, which
// sts:DecodeAuthorizationMessage decodes.
func Denied(action, resource string) Failure {
	who := "User: arn:aws:sts::123456789012:assumed-role/router/6f1d0c5b is not authorized to perform: " + action
	why := " because no identity-based policy allows the " + action + " action"
	if service, _, _ := strings.Cut(action, ":"); jsonServiceNames[service] {
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

// ParameterKMSDenied returns Systems Manager's answer if the role may read the parameter
// but not use the key that encrypts it.
func ParameterKMSDenied() Failure {
	return Failure{
		Status: http.StatusBadRequest, Code: "AccessDeniedException",
		Message: "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.",
	}
}

// TableThrottled returns DynamoDB's answer if a table's capacity is used up.
func TableThrottled() Failure {
	return Failure{
		Status: http.StatusBadRequest, Code: "ProvisionedThroughputExceededException",
		Message: "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level with the UpdateTable API.",
	}
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
	if f.Deaf {
		ctx = context.WithoutCancel(ctx)
	}
	pause(ctx, f.Delay)
}

func pause(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// finish waits for the time between a call and its answer, and ends the request without an
// answer if Lost is set.
func (f Failure) finish(ctx context.Context) {
	pause(ctx, f.Late)
	if f.Lost {
		panic(http.ErrAbortHandler) // net/http closes the connection
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
