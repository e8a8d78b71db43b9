package awsapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
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

// request describes a call for its error.
type request struct {
	op       string
	resource string
	region   string
	allow    string            // the fix for a denial
	find     string            // the fix for a missing resource
	missing  map[string]bool   // AWS's codes for a missing resource
	kms      string            // the fix if the resource's KMS key cannot be used
	fixes    map[string]string // the fixes for further codes of AWS
	// callerCode reports that the failure has no code of its own, because the call is
	// neither for a credential nor for routes.
	callerCode bool
}

// fail returns the failure of the call: the action, the resource, AWS's code ("" if it
// gave none) and the cause. It never contains the answer to a successful call, and so no
// secret.
func (r request) fail(code problem.Code, answered, cause, fix string) *problem.Problem {
	p := &problem.Problem{Code: r.code(code), Message: fmt.Sprintf("calling %s for %s: ", r.op, r.resource), Fix: fix}
	if answered != "" {
		p.Message, p.Err = p.Message+answered+": ", Code(answered)
	}
	p.Message += cause
	return p
}

// code returns c, the code of a failed look-up of routes for a call of a service that only
// routes and zones need, or "" if the caller's code applies.
func (r request) code(c problem.Code) problem.Code {
	switch {
	case c == problem.ClockSkew:
		return c
	case r.callerCode:
		return ""
	}
	if service, _, _ := strings.Cut(r.op, ":"); routeServices[service] {
		return problem.RoutesUnknown
	}
	return c
}

// routeServices are the services that only routes and zones need.
var routeServices = map[string]bool{"ec2": true, "rds": true, "elasticloadbalancing": true, "route53": true, "route53profiles": true, "route53resolver": true}

// error classifies an error of the SDK. The order matters: an error from AWS takes precedence
// over the end of the exchange.
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
	code, cause := secret.Clean(api.ErrorCode(), maxCode), message(api)
	switch _, throttled := retry.DefaultThrottleErrorCodes[code]; {
	case federationDisabled(code):
		return r.fail(problem.FederationDisabled, code, cause, "switch it on, once per account: aws iam enable-outbound-web-identity-federation")
	case skewCodes[code], aboutTime(cause):
		return r.fail(problem.ClockSkew, code, cause, "set the clock of this machine, which shows "+time.Now().UTC().Format(time.RFC3339)+": on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task")
	case r.kms != "" && (keyCodes[code] || deniedCodes[code] && aboutKMS.MatchString(cause)):
		return r.fail(problem.CredentialDenied, code, cause, r.kms)
	case deniedCodes[code]:
		return r.fail(problem.CredentialDenied, code, cause, r.allow)
	case r.missing[code]:
		return r.fail(problem.CredentialMissing, code, cause, r.find)
	case r.fixes[code] != "":
		return r.fail(problem.JoinFailed, code, cause, r.fixes[code])
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

// credentialCause is [networkCause] for the endpoint of the role's credentials. An answer
// may have no text, such as that of a proxy.
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
	const maxText = 200
	if text := secret.Clean(answer.ErrorMessage(), maxText); text != "" {
		cause += ": " + text
	}
	return cause
}

const credentialFix = "give the task a task role (taskRoleArn); outside ECS set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

// deniedCodes are the codes for a denied action, which differ between services.
var deniedCodes = map[string]bool{
	"UnauthorizedOperation": true,
	"AccessDeniedException": true,
	"AccessDenied":          true,
}

// keyCodes are the codes for a resource whose KMS key cannot be used.
var keyCodes = map[string]bool{
	"DecryptionFailure":        true, // Secrets Manager
	"InvalidKeyId":             true, // Systems Manager
	"KMSAccessDeniedException": true, // DynamoDB
}

// aboutKMS matches a denial by KMS, of the key that encrypts a resource: "Access to KMS is not
// allowed", "… is not authorized to perform: kms:Decrypt …", "The ciphertext refers to a
// customer master key that …".
var aboutKMS = regexp.MustCompile(`Access to KMS|\bkms:[A-Z]|customer master key|\(Service: (AWS)?K(MS|ms)\b`)

// isCode reports whether AWS answered a call with a code.
func isCode(err error, code Code) bool {
	got, ok := errors.AsType[Code](err)
	return ok && got == code
}

// skewCodes are the codes for a request with a wrong time.
var skewCodes = map[string]bool{
	"RequestExpired":       true,
	"RequestInTheFuture":   true,
	"RequestTimeTooSkewed": true,
}

// aboutTime reports whether AWS refused a signature only for its age: "Signature expired: …
// is now earlier than …", "Signature not yet current: …".
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

// reach returns the fix for an unreachable endpoint.
func (r request) reach() string {
	service, _, _ := strings.Cut(r.op, ":")
	if service == "dynamodb" { // its gateway endpoint is free
		return fmt.Sprintf("the task's subnet needs a NAT gateway or the gateway endpoint com.amazonaws.%s.dynamodb in its route table, and its security groups must allow port 443", r.region)
	}
	switch service {
	case "route53": // global; its endpoint is of us-east-1, and can be made in other regions
		return "the task's subnet needs a NAT gateway or the cross-region interface endpoint com.amazonaws.route53 of us-east-1, and its security groups must allow port 443; or " + listZonesByHand
	case "route53resolver": // without an interface endpoint
		return "the task's subnet needs a NAT gateway, and its security groups must allow port 443; or " + listZonesByHand
	}
	return fmt.Sprintf("the task's subnet needs a NAT gateway or the interface endpoint com.amazonaws.%s.%s, and its security groups must allow port 443", r.region, service)
}

// maxMessage bounds AWS's text in an error, maxCode AWS's code, both in bytes.
const (
	maxMessage = 500
	maxCode    = 100
)

// message returns AWS's text without the blob that EC2 appends: about a kilobyte, which
// only another call can decode.
func message(api smithy.APIError) string {
	s, _, _ := strings.Cut(api.ErrorMessage(), " Encoded authorization failure message:")
	s = strings.TrimPrefix(s, "You are not authorized to perform this operation. ")
	s = strings.TrimRight(secret.Clean(s, maxMessage), ".")
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

// networkCause returns the network's error without the SDK's layers around it.
func networkCause(err error) string {
	if t := net.Error(nil); errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout() {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			return "no answer in time from " + hostOf(u.URL)
		}
		return "no answer in time"
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return "no answer from " + hostOf(u.URL) + ": " + secret.Clean(u.Err.Error(), maxMessage)
	}
	return secret.Clean(innermost(err), maxMessage)
}

// hostOf returns a URL without its path: with the path of the credentials endpoint, anyone
// could fetch the credentials.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "a malformed URL"
	}
	return u.Scheme + "://" + u.Host + "/"
}

// innermost returns the text at the end of a chain, which in the SDK's errors is the cause.
func innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
