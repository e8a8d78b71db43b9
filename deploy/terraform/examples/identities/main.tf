# Two routers in private subnets of two zones, which keep their identities without a disk.
# Each task leases one of the nodes in a DynamoDB table, so the nodes keep their addresses,
# names and approved routes across restarts and deployments. During a deployment there are
# up to four tasks, and so four nodes: edge-0 to edge-3.
#
# The calls to AWS go through VPC endpoints: the gateway endpoints of S3 and DynamoDB are
# free. The control server and DERP servers are on the Internet, so the subnets also have a
# way out, such as the NAT gateway of the example "private".

variable "vpc_id" {
  description = "ID of the VPC, with enable_dns_support and enable_dns_hostnames."
  type        = string
  default     = "vpc-0123456789abcdef0"
}

variable "private_subnet_ids" {
  description = "IDs of private subnets of two zones."
  type        = list(string)
  default     = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
}

variable "private_route_table_ids" {
  description = "IDs of the route tables of these subnets, for the gateway endpoints."
  type        = list(string)
  default     = ["rtb-0123456789abcdef0"]
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the table. To destroy the example, apply it with false first."
  type        = bool
  default     = true
}

module "subnet_router" {
  source = "../.."

  name                  = "edge"
  desired_count         = 2
  vpc_id                = var.vpc_id
  subnet_ids            = var.private_subnet_ids
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true

  state                        = "dynamodb"
  dynamodb_deletion_protection = var.deletion_protection

  image = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"

  # An OAuth client secret, or an auth key that is not ephemeral.
  auth_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"

  create_vpc_endpoints         = true
  vpc_endpoint_route_table_ids = var.private_route_table_ids
}

output "policy" {
  description = "What to merge into the tailnet's policy file."
  value       = module.subnet_router.autoapprovers_json
}

output "identity_slots" {
  description = "Number of nodes."
  value       = module.subnet_router.identity_slots
}
