# No stored secret at all: AWS issues a token for the task's role, and Tailscale trusts a
# federated identity with that role as its subject.
#
# Once per account: aws iam enable-outbound-web-identity-federation. Then create
# the federated identity in Tailscale's admin console (scope auth_keys, the tag
# below) with the issuer that AWS gives and the output "subject", and give its
# client ID here.

variable "client_id" {
  description = "Client ID of the federated identity."
  type        = string
  default     = "k123456CNTRL"
}

module "subnet_router" {
  source = "../.."

  name                  = "federated"
  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true
  image                 = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"

  tailscale_client_id = var.client_id
  tailscale_audience  = "api.tailscale.com/${var.client_id}"
  tailscale_tags      = ["tag:subnet-router"]
}

output "subject" {
  description = "The subject of the federated identity."
  value       = module.subnet_router.task_role_arn
}
