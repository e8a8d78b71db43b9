package awsapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// IdentityLife is the lifetime of an identity token: enough for one exchange. AWS grants 60 to
// 3600 s.
const IdentityLife = 5 * time.Minute

// IdentityToken is a signed statement by AWS about the caller's identity, for a third party.
type IdentityToken struct {
	JWT     secret.String
	Expires time.Time
}

// GetWebIdentityToken is the action that [Client.IdentityToken] needs.
var GetWebIdentityToken = Action{Name: "sts:GetWebIdentityToken"}

// IdentityToken returns a token with the caller's identity, for the given audience only. It
// calls the regional endpoint, as the global one has no such call.
func (c *Client) IdentityToken(ctx context.Context, audience string) (IdentityToken, error) {
	req := request{
		op:       GetWebIdentityToken.Name,
		resource: fmt.Sprintf("audience %q", audience),
		region:   c.Region(),
		allow:    `allow sts:GetWebIdentityToken on "*" in the task role's policy`,
	}
	var out *sts.GetWebIdentityTokenOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.sts.GetWebIdentityToken(ctx, &sts.GetWebIdentityTokenInput{
			Audience:         []string{audience},
			SigningAlgorithm: aws.String("ES384"),
			DurationSeconds:  aws.Int32(int32(IdentityLife / time.Second)),
		})
		return err
	})
	if err != nil {
		return IdentityToken{}, err
	}
	if aws.ToString(out.WebIdentityToken) == "" {
		return IdentityToken{}, req.fail(problem.CredentialUnreachable, "", "the answer contains no token", "")
	}
	return IdentityToken{secret.String(*out.WebIdentityToken), aws.ToTime(out.Expiration)}, nil
}

// federationDisabled reports whether code is STS's error for an account in which outbound web
// identity federation is disabled. The code occurs with and without "Exception".
func federationDisabled(code string) bool {
	return strings.HasPrefix(code, "OutboundWebIdentityFederationDisabled")
}
