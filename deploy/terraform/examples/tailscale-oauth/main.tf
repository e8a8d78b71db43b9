# The tailnet's side from the same apply, with Tailscale's provider: an OAuth client that
# does not expire, stored in Secrets Manager, and split DNS. Merge the output "policy" into
# the policy file first: its tag must be among the file's tagOwners.
#
# The client's secret is in Terraform's state. To keep it out, create the client in the
# admin console and store it by hand, as in the example "complete".

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
    tailscale = {
      source  = "tailscale/tailscale"
      version = ">= 0.26" # not run: the arguments are those of its documentation
    }
  }
}

resource "tailscale_oauth_client" "router" {
  description = "subnet router"
  scopes      = ["auth_keys"]
  tags        = ["tag:subnet-router"]
}

resource "aws_secretsmanager_secret" "tailscale" {
  name = "tailscale/oauth-client"
}

resource "aws_secretsmanager_secret_version" "tailscale" {
  secret_id = aws_secretsmanager_secret.tailscale.id
  secret_string = jsonencode({
    client_id     = tailscale_oauth_client.router.id
    client_secret = tailscale_oauth_client.router.key
  })
}

module "subnet_router" {
  source = "../.."

  name                  = "oauth"
  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true
  image                 = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"

  # Through the version, so that tasks start only once the secret has a value.
  auth_secret_arn = aws_secretsmanager_secret_version.tailscale.arn
  tailscale_tags  = tailscale_oauth_client.router.tags
}

resource "tailscale_dns_split_nameservers" "vpc" {
  domain      = "internal.example.com"
  nameservers = module.subnet_router.split_dns.nameservers
}

output "policy" {
  description = "What to merge into the tailnet's policy file."
  value       = module.subnet_router.autoapprovers_json
}
