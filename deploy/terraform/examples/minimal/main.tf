# One router in a private subnet with a way out: a VPC, subnets, a cluster, an
# image and a credential.

module "subnet_router" {
  source = "../.."

  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true

  image           = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
}

# What to merge into the tailnet's policy file.
output "policy" {
  value = module.subnet_router.autoapprovers_json
}
