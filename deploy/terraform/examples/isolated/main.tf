# Subnets without a NAT gateway. VPC endpoints lead to AWS; the control server,
# here a Headscale in a peered network, must be reachable, and so must its DERP.

module "subnet_router" {
  source = "../.."

  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true

  image           = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
  control_url     = "https://headscale.example.com"

  create_vpc_endpoints         = true
  vpc_endpoint_route_table_ids = ["rtb-0123456789abcdef0"]
}

output "vpc_endpoint_ids" {
  value = module.subnet_router.vpc_endpoint_ids
}
