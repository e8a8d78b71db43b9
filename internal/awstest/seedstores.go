package awstest

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamodbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

// SeedStores creates the tables, KMS keys and parameters of a world, and returns the world
// with the server's IDs of the keys.
func (m *Moto) SeedStores(ctx context.Context, w World) (World, error) {
	config := m.config(w.region())
	tables, keys, parameters := dynamodb.NewFromConfig(config), kms.NewFromConfig(config), ssm.NewFromConfig(config)
	for name, t := range w.Tables {
		in := &dynamodb.CreateTableInput{TableName: &name, BillingMode: dynamodbtypes.BillingModePayPerRequest}
		for i, key := range t.keyNames() {
			kind := dynamodbtypes.ScalarAttributeTypeS
			if key == t.Sort && t.SortType == "N" {
				kind = dynamodbtypes.ScalarAttributeTypeN
			}
			in.AttributeDefinitions = append(in.AttributeDefinitions, dynamodbtypes.AttributeDefinition{AttributeName: &key, AttributeType: kind})
			in.KeySchema = append(in.KeySchema, dynamodbtypes.KeySchemaElement{AttributeName: &key, KeyType: []dynamodbtypes.KeyType{"HASH", "RANGE"}[i]})
		}
		if _, err := tables.CreateTable(ctx, in); err != nil {
			return World{}, fmt.Errorf("creating table %s: %w", name, err)
		}
	}
	created := make([]Key, 0, len(w.Keys))
	for _, k := range w.Keys {
		out, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
		if err != nil {
			return World{}, fmt.Errorf("creating a key: %w", err)
		}
		k.ID = aws.ToString(out.KeyMetadata.KeyId)
		if k.Alias != "" {
			if _, err := keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &k.Alias, TargetKeyId: &k.ID}); err != nil {
				return World{}, fmt.Errorf("creating %s: %w", k.Alias, err)
			}
		}
		if k.Disabled {
			if _, err := keys.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &k.ID}); err != nil {
				return World{}, fmt.Errorf("disabling a key: %w", err)
			}
		}
		created = append(created, k)
	}
	w.Keys = created
	for name, p := range w.Parameters {
		for _, value := range p.Values {
			_, err := parameters.PutParameter(ctx, &ssm.PutParameterInput{
				Name: &name, Value: &value, Type: ssmtypes.ParameterType(or(p.Type, "SecureString")), Overwrite: aws.Bool(true),
			})
			if err != nil {
				return World{}, fmt.Errorf("storing parameter %s: %w", name, err)
			}
		}
		for label, version := range p.Labels {
			_, err := parameters.LabelParameterVersion(ctx, &ssm.LabelParameterVersionInput{Name: &name, ParameterVersion: aws.Int64(int64(version)), Labels: []string{label}})
			if err != nil {
				return World{}, fmt.Errorf("labelling parameter %s: %w", name, err)
			}
		}
	}
	return w, nil
}
