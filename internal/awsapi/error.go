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

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Code is AWS's error code, the cause of a [*problem.Problem] that AWS answered with.
type Code string

func (c Code) Error() string { return string(c) }

// request is what an error needs to know about a call.
type request struct {
	op       string
	resource string
	region   string
	allow    string          // the fix for a denial
	find     string          // the fix for a resource that is not there
	missing  map[string]bool // the codes by which AWS says so
}

// fail returns the failure of the call: the action, the resource, AWS's code ("" if it
// gave none) and the cause. It never carries what AWS answered to a successful call,
// hence no secret.
func (r request) fail(code problem.Code, answered, cause, fix string) *problem.Problem {
	p := &problem.Problem{Code: r.code(code), Message: fmt.Sprintf("calling %s for %s: ", r.op, r.resource), Fix: fix}
	if answered != "" {
		p.Message, p.Err = p.Message+answered+": ", Code(answered)
	}
	p.Message += cause
	return p
}

// code returns the code of a failure that concerns a credential, or, as the calls of EC2
// are part of looking routes up, theirs.
func (r request) code(c problem.Code) problem.Code {
	if strings.HasPrefix(r.op, "ec2:") && c != problem.ClockSkew {
		return problem.RoutesUnknown
	}
	return c
}

// error classifies what the SDK returned. The order matters: what AWS said
// counts more than how the exchange ended.
func (r request) error(ctx context.Context, err error) error {
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return r.apiError(err, api)
	}
	if ctx.Err() != nil {
		p := r.fail(problem.CredentialUnreachable, "", ctx.Err().Error(), "")
		p.Err = ctx.Err()
		return p
	}
	// A deserialization error quotes the answer; keep it out.
	if d := (*smithy.DeserializationError)(nil); errors.As(err, &d) {
		return r.fail(problem.CredentialUnreachable, "", "the answer is truncated or not what AWS sends", r.reach())
	}
	return r.fail(problem.CredentialUnreachable, "", networkCause(err), r.reach())
}

func (r request) apiError(err error, api smithy.APIError) error {
	code, cause := secret.Clean(api.ErrorCode(), mostCode), message(api)
	switch _, throttled := retry.DefaultThrottleErrorCodes[code]; {
	case federationDisabled(code):
		return r.fail(problem.FederationDisabled, code, cause, "switch it on, once per account: aws iam enable-outbound-web-identity-federation")
	case skewCodes[code], aboutTime(cause):
		return r.fail(problem.ClockSkew, code, cause, "set the clock of this machine, which says "+time.Now().UTC().Format(time.RFC3339)+": on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task")
	case deniedCodes[code] && strings.Contains(cause, "KMS"), code == "DecryptionFailure":
		return r.fail(problem.CredentialDenied, code, cause, "allow kms:Decrypt on the secret's KMS key in the task role's policy and in the key's own policy")
	case deniedCodes[code]:
		return r.fail(problem.CredentialDenied, code, cause, r.allow)
	case r.missing[code]:
		return r.fail(problem.CredentialMissing, code, cause, r.find)
	case throttled:
		return r.fail(problem.CredentialThrottled, code, cause, "other callers may be using up this account's API rate in "+r.region)
	case credentialCodes[code]:
		return r.fail(problem.CredentialDenied, code, cause, credentialFix)
	case httpStatus(err) >= 500:
		return r.fail(problem.CredentialUnreachable, code, cause, "AWS is failing in "+r.region+", see its health dashboard")
	}
	return r.fail(problem.JoinFailed, code, cause, "")
}

func (r request) credentialError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return r.error(ctx, err)
	}
	return r.fail(problem.CredentialDenied, "", "no AWS credentials: "+credentialCause(err), credentialFix)
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
