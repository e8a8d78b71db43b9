# Workload identity federation, with both sides from the same apply: no stored secret, and
# no step by hand.
#
# The resource of hashicorp/aws enables outbound federation for the whole account, adopts
# it if it is enabled, and disables it when it is destroyed. If others in the account use
# federation, manage it in one place, and give its issuer here.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.36" # has aws_iam_outbound_web_identity_federation; not run
    }
    tailscale = {
      source  = "tailscale/tailscale"
      version = ">= 0.26" # not run: the arguments are those of its documentation
    }
  }
}

resource "aws_iam_outbound_web_identity_federation" "account" {}

# Tailscale accepts tokens of this account whose subject is the router's task role.
resource "tailscale_federated_identity" "router" {
  description = "subnet router"
  issuer      = aws_iam_outbound_web_identity_federation.account.issuer_identifier
  subject     = module.subnet_router.task_role_arn
  scopes      = ["auth_keys"]
  tags        = ["tag:subnet-router"]
}

module "subnet_router" {
  source = "../.."

  name                  = "federation"
  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true
  image                 = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"

  tailscale_client_id = tailscale_federated_identity.router.id
  tailscale_audience  = "api.tailscale.com/${tailscale_federated_identity.router.id}"
  tailscale_tags      = ["tag:subnet-router"]
}

output "policy" {
  description = "What to merge into the tailnet's policy file."
  value       = module.subnet_router.autoapprovers_json
}
