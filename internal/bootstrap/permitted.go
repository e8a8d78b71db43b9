package bootstrap

import (
	"context"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/routes"
)

// Signer is with what AWS calls are signed, and Region where they go.
func (b *Bootstrap) Signer(ctx context.Context) (signer awsapi.Caller, region string, err error) {
	client, err := b.client(ctx)
	if err != nil {
		return awsapi.Caller{}, "", err
	}
	signer, err = client.Caller(ctx)
	return signer, client.Region(), err
}

// Permitted asks AWS whether an action of [Actions] is allowed, by a dry run.
// [awsapi.ErrNoDryRun] says that only doing it tells.
func (b *Bootstrap) Permitted(ctx context.Context, action string) error {
	list := ""
	if action == "ec2:GetManagedPrefixListEntries" {
		if list = b.prefixList(); list == "" { // which ones, only route tables tell
			return awsapi.ErrNoDryRun
		}
	}
	client, err := b.client(ctx)
	if err != nil {
		return err
	}
	return client.Permitted(ctx, action, list)
}

func (b *Bootstrap) prefixList() string {
	for _, s := range b.config.Sources {
		if s.Kind == routes.PrefixList {
			return s.ID
		}
	}
	return ""
}
