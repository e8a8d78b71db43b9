// Package awsapi is the router's only door to AWS: typed calls to Secrets
// Manager, STS and EC2 whose errors tell the operator what to change.
//
// Endpoints, region and credentials come from the SDK's standard environment
// (AWS_ENDPOINT_URL, AWS_REGION, container credentials, AWS_MAX_ATTEMPTS, ...).
// Calls are retried with jitter by the SDK and bounded in time here. Every
// failed call returns an [*Error].
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
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/secret"
)

// Options are optional.
type Options struct {
	// Region is used where the environment names none.
	Region string
	// Logger gets the SDK's own words, at debug level. Nil drops them.
	Logger *slog.Logger
	// TryTimeout bounds one HTTP exchange; 0 means 5 s. A whole call may take
	// six times as long: by default the SDK tries three times and pauses for
	// up to 2 s and 4 s in between.
	TryTimeout time.Duration
	// Tries is how often a call is tried at most; 0 leaves that to the SDK's
	// environment, three times by default.
	Tries int
	// Date hears of the Date header of every answer, while it is fresh. Nil drops it.
	Date func(time.Time)
	// Called hears of every call once it is over: the action as IAM spells it,
	// and nil or an [*Error]. Each page of a long answer is a call, the SDK's
	// further tries are not. Nil drops it.
	Called func(action string, err error)
	// Transport carries the calls. Nil is the SDK's own.
	Transport http.RoundTripper
}

// Client calls AWS. It is safe for concurrent use.
type Client struct {
	config      aws.Config
	secrets     *secretsmanager.Client
	ec2         *ec2.Client
	sts         *sts.Client
	callTimeout time.Duration
	called      func(action string, err error)
}

// New reads the SDK's environment. It does not call AWS.
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
		// The SDK gives the endpoint of the task role's credentials a client of its
		// own, which obeys HTTP_PROXY even for a link-local address.
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
	if o.Transport != nil { // not before: the SDK wants to add AWS_CA_BUNDLE to a client of its own
		cfg.HTTPClient = &http.Client{Transport: o.Transport, Timeout: o.TryTimeout}
	}
	cfg.HTTPClient = ownBodies{cfg.HTTPClient}
	if cfg.Region == "" {
		cfg.Region = o.Region
	}
	if cfg.Region == "" {
		return nil, errors.New("choosing the AWS region: nothing names one; set AWS_REGION")
	}
	return &Client{
		config:      cfg,
		secrets:     secretsmanager.NewFromConfig(cfg),
		ec2:         ec2.NewFromConfig(cfg),
		sts:         sts.NewFromConfig(cfg),
		callTimeout: 6 * o.TryTimeout,
		called:      o.Called,
	}, nil
}

// Region is where the calls go, except for a secret whose ARN names another.
func (c *Client) Region() string { return c.config.Region }

// call runs one SDK call within the time limit. What it returns is nil or an [*Error].
func (c *Client) call(ctx context.Context, req request, do func(context.Context) error) (err error) {
	defer func() { c.called(req.op, err) }()
	tctx, cancel := context.WithTimeout(ctx, c.callTimeout)
	defer cancel()
	// The SDK would also do this, but report a missing credential as a
	// failure to sign after an odyssey through its providers.
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
	if e := (*Error)(nil); errors.As(err, &e) && e.Kind == Credentials {
		// They are kept until their end by this machine's clock, which may have been
		// set back since.
		if cache, ok := c.config.Credentials.(*aws.CredentialsCache); ok {
			cache.Invalidate()
		}
	}
	return err
}

func sdkLogger(l *slog.Logger) logging.Logger {
	if l == nil {
		return logging.Nop{}
	}
	return logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
		l.Debug("aws sdk", "detail", fmt.Sprintf(format, v...))
	})
}
