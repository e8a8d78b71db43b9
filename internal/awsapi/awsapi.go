// Package awsapi makes all of the router's calls to AWS, with typed results and errors that
// name the fix: Secrets Manager, STS, EC2, DynamoDB, KMS, Systems Manager, ECS, RDS,
// Elastic Load Balancing and Route 53.
//
// Endpoints, region and credentials come from the SDK's standard environment (AWS_ENDPOINT_URL,
// AWS_REGION, container credentials, AWS_MAX_ATTEMPTS, ...). The SDK retries calls with jitter;
// this package bounds their time. Every failed call returns a [*problem.Problem].
package awsapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53profiles"
	"github.com/aws/aws-sdk-go-v2/service/route53resolver"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Options configure a [Client]. The zero value of a field means the default that its comment
// gives.
type Options struct {
	// Region is used if the environment has none.
	Region string
	// Logger receives the SDK's log at debug level. Default: it is dropped.
	Logger *slog.Logger
	// TryTimeout bounds one HTTP exchange. A call with its retries may take six times as
	// long: by default the SDK tries three times and pauses for up to 2 s and 4 s in
	// between. Default: 5 s.
	TryTimeout time.Duration
	// Tries bounds the attempts of a call. Default: the setting of the SDK's environment,
	// or three.
	Tries int
	// Date is called with the Date header of each answer as soon as it arrives. Default:
	// nothing is called.
	Date func(time.Time)
	// Called is called after each call with the action's IAM name and nil or a [*problem.Problem].
	// Each page of a paginated answer is a call; the SDK's retries are not. Default:
	// nothing is called.
	Called func(action string, err error)
	// Transport sends the requests. Default: the SDK's.
	Transport http.RoundTripper
}

// Client calls AWS. It is safe for concurrent use.
type Client struct {
	config      aws.Config
	secrets     *secretsmanager.Client
	ec2         *ec2.Client
	sts         *sts.Client
	dynamodb    *dynamodb.Client
	kms         *kms.Client
	ssm         *ssm.Client
	ecs         *ecs.Client
	rds         *rds.Client
	elb         *elb.Client
	route53     *route53.Client
	profiles    *route53profiles.Client
	resolver    *route53resolver.Client
	callTimeout time.Duration
	called      func(action string, err error)
}

// New returns a client configured from the SDK's environment. It does not call AWS.
func New(ctx context.Context, o Options) (*Client, error) {
	if o.TryTimeout == 0 {
		o.TryTimeout = 5 * time.Second
	}
	if o.Called == nil {
		o.Called = func(string, error) {}
	}
	client := awshttp.NewBuildableClient().WithTimeout(o.TryTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = httpproxy.FromEnvironment
	})
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(client),
		// For the credentials endpoint of the task role, the SDK creates a separate
		// HTTP client, which obeys HTTP_PROXY even for a link-local address.
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = client }),
		config.WithLogger(sdkLogger(o.Logger)),
		config.WithClientLogMode(aws.LogRetries),
	)
	if err != nil {
		return nil, fmt.Errorf("reading the AWS environment: %w", err)
	}
	if o.Tries > 0 {
		cfg.RetryMaxAttempts = o.Tries
	}
	if o.Date != nil {
		cfg.APIOptions = append(cfg.APIOptions, dates(o.Date))
	}
	if o.Transport != nil { // not earlier, because the SDK adds AWS_CA_BUNDLE only to its own client
		cfg.HTTPClient = &http.Client{Transport: o.Transport, Timeout: o.TryTimeout}
	}
	cfg.HTTPClient = ownBodies{cfg.HTTPClient}
	if cfg.Region == "" {
		cfg.Region = o.Region
	}
	if cfg.Region == "" {
		return nil, problem.New("set AWS_REGION", "choosing the AWS region: nothing names one")
	}
	return &Client{
		config:      cfg,
		secrets:     secretsmanager.NewFromConfig(cfg),
		ec2:         ec2.NewFromConfig(cfg),
		sts:         sts.NewFromConfig(cfg),
		dynamodb:    dynamodb.NewFromConfig(cfg, regionalHost),
		kms:         kms.NewFromConfig(cfg),
		ssm:         ssm.NewFromConfig(cfg),
		ecs:         ecs.NewFromConfig(cfg),
		rds:         rds.NewFromConfig(cfg),
		elb:         elb.NewFromConfig(cfg),
		route53:     route53.NewFromConfig(cfg),
		profiles:    route53profiles.NewFromConfig(cfg),
		resolver:    route53resolver.NewFromConfig(cfg),
		callTimeout: 6 * o.TryTimeout,
		called:      o.Called,
	}, nil
}

// regionalHost keeps the account's ID out of DynamoDB's host name: the private name of an
// interface endpoint is that of the region.
func regionalHost(o *dynamodb.Options) { o.AccountIDEndpointMode = aws.AccountIDEndpointModeDisabled }

// Region returns the region of calls other than those for a resource whose ARN names
// another region.
func (c *Client) Region() string { return c.config.Region }

// call runs one SDK call within the time limit. It returns nil or a [*problem.Problem].
func (c *Client) call(ctx context.Context, req request, do func(context.Context) error) (err error) {
	defer func() { c.called(req.op, err) }()
	tctx, cancel := context.WithTimeout(ctx, c.callTimeout)
	defer cancel()
	// Without this, the SDK would report missing credentials as a failure to sign, and only
	// after trying every provider.
	credentials, err := c.config.Credentials.Retrieve(tctx)
	if err != nil {
		return req.credentialError(ctx, err)
	}
	secret.Remember(credentials.SecretAccessKey, credentials.SessionToken)
	err = do(tctx)
	if err == nil {
		return nil
	}
	err = req.error(ctx, err)
	code, _ := errors.AsType[Code](err)
	if credentialCodes[string(code)] && problem.CodeOf(err, "") != problem.ClockSkew {
		// The SDK caches credentials until they expire by the local clock, which may
		// have been set back.
		if cache, ok := c.config.Credentials.(*aws.CredentialsCache); ok {
			cache.Invalidate()
		}
	}
	return err
}

// nextPage runs the next call of an SDK paginator, as [Client.call] does. Output is a pointer: the code
// for all pointers is one.
func nextPage[Output, Option any](ctx context.Context, c *Client, req request, next func(context.Context, ...Option) (Output, error)) (out Output, err error) {
	err = c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = next(ctx)
		return err
	})
	return out, err
}

func sdkLogger(l *slog.Logger) logging.Logger {
	if l == nil {
		return logging.Nop{}
	}
	return logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
		l.Debug("aws sdk", "detail", fmt.Sprintf(format, v...))
	})
}
