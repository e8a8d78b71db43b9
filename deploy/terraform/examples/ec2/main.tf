# Kernel mode, on EC2 instances that are in the cluster already: they forward the
# packets, and clients' addresses can be kept with --snat-subnet-routes=false. Each
# task has an interface of its own (awsvpc), of which an instance type has few, and
# no public address.

module "subnet_router" {
  source = "../.."

  name                  = "kernel"
  vpc_id                = "vpc-0123456789abcdef0"
  subnet_ids            = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true

  launch_type = "EC2"
  kernel_mode = true

  image           = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
}
