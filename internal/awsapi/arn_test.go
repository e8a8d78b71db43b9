package awsapi_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
)

func TestParseARN(t *testing.T) {
	for s, want := range map[string]awsapi.ARN{
		"arn:aws:ecs:eu-west-1:123456789012:task/prod/0123":                       {"aws", "ecs", "eu-west-1", "123456789012", "task/prod/0123"},
		"arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:a/b-AbCdEf:k::": {"aws-cn", "secretsmanager", "cn-north-1", "123456789012", "secret:a/b-AbCdEf:k::"},
		"arn:aws-us-gov:iam::123456789012:role/x":                                 {"aws-us-gov", "iam", "", "123456789012", "role/x"},
		"arn:aws-iso-b:kms:us-isob-east-1:123456789012:key/k":                     {"aws-iso-b", "kms", "us-isob-east-1", "123456789012", "key/k"},
		"arn:aws-eusc:ecs:eusc-de-east-1:123456789012:task/0123":                  {"aws-eusc", "ecs", "eusc-de-east-1", "123456789012", "task/0123"},
	} {
		got, ok := awsapi.ParseARN(s)
		if !ok || got != want || got.String() != s {
			t.Errorf("%s: %+v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "tailscale/auth-key", "arn:", "arn:aws:ecs:eu-west-1:123456789012", "a:b:c:d:e:f"} {
		if got, ok := awsapi.ParseARN(s); ok {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

// TestPartitions compares Partition with the SDK's own list.
func TestPartitions(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "internal/endpoints/awsrulesfn/partitions.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Partitions []struct {
			ID      string
			Regions map[string]any
			Outputs struct{ DNSSuffix string }
		}
	}
	if err := json.Unmarshal(data, &list); err != nil || len(list.Partitions) < 8 {
		t.Fatalf("%d partitions, %v", len(list.Partitions), err)
	}
	for _, p := range list.Partitions {
		for region := range p.Regions {
			if strings.HasSuffix(region, "-global") {
				continue // no tasks run there
			}
			if got := awsapi.Partition(region); got != p.ID {
				t.Errorf("region %s of partition %s: Partition returned %s", region, p.ID, got)
			}
			if host := awsapi.ServiceHost("ssm", p.ID, region); host != "ssm."+region+"."+p.Outputs.DNSSuffix {
				t.Errorf("Secrets Manager of %s is %s", region, host)
			}
		}
		if host := awsapi.ServiceHost("secretsmanager", p.ID, ""); host != "secretsmanager.*."+p.Outputs.DNSSuffix {
			t.Errorf("Secrets Manager of %s is %s", p.ID, host)
		}
	}
	for _, region := range []string{"", "mars-north-1", "a b"} {
		if got := awsapi.Partition(region); got != awsapi.DefaultPartition {
			t.Errorf("Partition(%q) = %s", region, got)
		}
	}
}
