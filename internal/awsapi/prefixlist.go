package awsapi

import (
	"context"
	"net/netip"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"subnetrouter/internal/problem"
)

// Entry is an entry of a managed prefix list.
type Entry struct {
	Prefix      netip.Prefix
	Description string // "" for most
}

// GetManagedPrefixListEntries is the action that [Client.PrefixList] needs. A dry
// run needs the ID of a list.
var GetManagedPrefixListEntries = Action{Name: "ec2:GetManagedPrefixListEntries", onResource: true, dryRun: func(ctx context.Context, c *ec2.Client, list string) error {
	_, err := c.GetManagedPrefixListEntries(ctx, &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &list, DryRun: aws.Bool(true)})
	return err
}}

// PrefixList returns the entries of a managed prefix list, a customer's or one of AWS's, in
// AWS's order. The list may be empty.
func (c *Client) PrefixList(ctx context.Context, id string) ([]Entry, error) {
	req := c.describe(GetManagedPrefixListEntries, "prefix list "+id,
		"check the ID in ROUTER_ROUTES, and that the list is of this region or shared with this account")
	req.missing = map[string]bool{"InvalidPrefixListID.NotFound": true, "InvalidPrefixListId.NotFound": true, "InvalidPrefixListID.Malformed": true}
	pages := ec2.NewGetManagedPrefixListEntriesPaginator(c.ec2, &ec2.GetManagedPrefixListEntriesInput{
		PrefixListId: &id, MaxResults: aws.Int32(100), // the most that EC2 takes
	})
	var list []Entry
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, e := range out.Entries {
			ps, err := parsePrefixes(id, []string{aws.ToString(e.Cidr)})
			if err != nil {
				return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			list = append(list, Entry{Prefix: ps[0].Masked(), Description: aws.ToString(e.Description)})
		}
	}
	return list, nil
}
