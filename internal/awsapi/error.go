package awsapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"subnetrouter/internal/secret"
)

// Kind says what sort of failure an [*Error] is: whether to wait or to change something.
type Kind int

const (
	Other       Kind = iota
	Denied           // a policy does not allow the call
	NotFound         // what was asked for is not there
	Throttled        // too many calls in the account and region
	Unavailable      // AWS did not answer, or answered that it cannot
	Credentials      // there are none, or AWS does not accept them
	Disabled         // the account has not switched the feature on
	ClockSkew        // this machine and AWS disagree about the time
)

var kindNames = [...]string{"other", "denied", "not-found", "throttled", "unavailable", "credentials", "disabled", "clock-skew"}

// String returns a fixed word, fit for a metric label.
func (k Kind) String() string { return kindNames[k] }

// Error is a failed AWS call. It never carries what AWS answered to a
// successful one, hence no secret.
type Error struct {
	Op       string // as IAM spells it: "ec2:DescribeVpcs"
	Resource string // what was asked for: "VPC vpc-0abc"
	Kind     Kind
	Code     string // AWS's error code; "" if AWS gave none
	Cause    string
	Fix      string // what the operator can do

	err error // the caller's context's end, if that was it
}

// Error names the call, the resource, the cause and the fix.
func (e *Error) Error() string {
	s := fmt.Sprintf("calling %s for %s: ", e.Op, e.Resource)
	if e.Code != "" {
		s += e.Code + ": "
	}
	s += e.Cause
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

// Unwrap returns the context's error if the caller gave up, else nil.
func (e *Error) Unwrap() error { return e.err }

// request is what an error needs to know about a call.
type request struct {
	op       string
	resource string
	region   string
	allow    string          // the fix for a denial
	find     string          // the fix for a resource that is not there
	missing  map[string]bool // the codes by which AWS says so
}

func (r request) fail(k Kind, code, cause, fix string) *Error {
	return &Error{Op: r.op, Resource: r.resource, Kind: k, Code: code, Cause: cause, Fix: fix}
}

// error classifies what the SDK returned. The order matters: what AWS said
// counts more than how the exchange ended.
func (r request) error(ctx context.Context, err error) error {
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return r.apiError(err, api)
	}
	if ctx.Err() != nil {
		e := r.fail(Unavailable, "", ctx.Err().Error(), "")
		e.err = ctx.Err()
		return e
	}
	// A deserialization error quotes the answer; keep it out.
	if d := (*smithy.DeserializationError)(nil); errors.As(err, &d) {
		return r.fail(Unavailable, "", "the answer is truncated or not what AWS sends", r.reach())
	}
	return r.fail(Unavailable, "", networkCause(err), r.reach())
}

func (r request) apiError(err error, api smithy.APIError) error {
	code, cause := secret.Clean(api.ErrorCode(), mostCode), message(api)
	switch _, throttled := retry.DefaultThrottleErrorCodes[code]; {
	case federationDisabled(code):
		return r.fail(Disabled, code, cause, "switch it on, once per account: aws iam enable-outbound-web-identity-federation")
	case skewCodes[code], aboutTime(cause):
		return r.fail(ClockSkew, code, cause, "set the clock of this machine, which says "+time.Now().UTC().Format(time.RFC3339)+": on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task")
	case deniedCodes[code] && strings.Contains(cause, "KMS"), code == "DecryptionFailure":
		return r.fail(Denied, code, cause, "allow kms:Decrypt on the secret's KMS key in the task role's policy and in the key's own policy")
	case deniedCodes[code]:
		return r.fail(Denied, code, cause, r.allow)
	case r.missing[code]:
		return r.fail(NotFound, code, cause, r.find)
	case throttled:
		return r.fail(Throttled, code, cause, "other callers may be using up this account's API rate in "+r.region)
	case credentialCodes[code]:
		return r.fail(Credentials, code, cause, credentialFix)
	case httpStatus(err) >= 500:
		return r.fail(Unavailable, code, cause, "AWS is failing in "+r.region+", see its health dashboard")
	}
	return r.fail(Other, code, cause, "")
}

func (r request) credentialError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return r.error(ctx, err)
	}
	return r.fail(Credentials, "", "no AWS credentials: "+credentialCause(err), credentialFix)
}

// credentialCause is [networkCause] for the endpoint of the role's credentials,
// whose answer need not have a text: a proxy's has none.
func credentialCause(err error) string {
	var answer interface {
		HTTPStatusCode() int
		ErrorMessage() string
	}
	if !errors.As(err, &answer) {
		return networkCause(err)
	}
	status := answer.HTTPStatusCode()
	cause := strings.TrimSpace(fmt.Sprintf("the credentials endpoint answered HTTP %d %s", status, http.StatusText(status)))
	const most = 200
	if text := secret.Clean(answer.ErrorMessage(), most); text != "" {
		cause += ": " + text
	}
	return cause
}

const credentialFix = "give the task a task role (taskRoleArn); outside ECS set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

// EC2 and Secrets Manager each have their own word for it.
var deniedCodes = map[string]bool{
	"UnauthorizedOperation": true,
	"AccessDeniedException": true,
	"AccessDenied":          true,
}

// skewCodes are about the time of a request.
var skewCodes = map[string]bool{
	"RequestExpired":       true,
	"RequestInTheFuture":   true,
	"RequestTimeTooSkewed": true,
}

// aboutTime reports whether a signature is refused for its age only: "Signature
// expired: … is now earlier than …", "Signature not yet current: …".
func aboutTime(cause string) bool {
	return strings.HasPrefix(cause, "Signature expired") || strings.HasPrefix(cause, "Signature not yet current")
}

var credentialCodes = map[string]bool{
	"AuthFailure":                 true,
	"ExpiredToken":                true,
	"ExpiredTokenException":       true,
	"IncompleteSignature":         true,
	"InvalidClientTokenId":        true,
	"InvalidSignatureException":   true,
	"MissingAuthenticationToken":  true,
	"SignatureDoesNotMatch":       true,
	"UnrecognizedClientException": true,
}

// reach is the fix for an endpoint that cannot be reached.
func (r request) reach() string {
	service, _, _ := strings.Cut(r.op, ":")
	return fmt.Sprintf("the task's subnet needs a NAT gateway or the interface endpoint com.amazonaws.%s.%s, and its security groups must allow port 443", r.region, service)
}

// mostSaid bounds AWS's words in an error, in bytes, and mostCode its code.
const (
	mostSaid = 500
	mostCode = 100
)

// message is AWS's text without what only AWS can read: EC2 appends a blob of
// about a kilobyte that takes another call to decode.
func message(api smithy.APIError) string {
	s, _, _ := strings.Cut(api.ErrorMessage(), " Encoded authorization failure message:")
	s = strings.TrimPrefix(s, "You are not authorized to perform this operation. ")
	s = strings.TrimRight(secret.Clean(s, mostSaid), ".")
	if s == "" {
		return "AWS gave no reason"
	}
	return s
}

func httpStatus(err error) int {
	if r := (*smithyhttp.ResponseError)(nil); errors.As(err, &r) && r.Response != nil {
		return r.HTTPStatusCode()
	}
	return http.StatusOK
}

// networkCause strips the SDK's layers down to what the network said.
func networkCause(err error) string {
	if t := net.Error(nil); errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout() {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			return "no answer in time from " + hostOf(u.URL)
		}
		return "no answer in time"
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return "no answer from " + hostOf(u.URL) + ": " + secret.Clean(u.Err.Error(), mostSaid)
	}
	return secret.Clean(innermost(err), mostSaid)
}

// hostOf leaves the path out of a URL: that of the credentials endpoint is as good as
// the credentials.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that is no URL"
	}
	return u.Scheme + "://" + u.Host + "/"
}

// innermost follows a chain to its end, where SDK errors have their one telling line.
func innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
