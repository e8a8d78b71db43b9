# A call of hardfinhq/tailscale-subnet-router/aws, as its README has it: only the
# source is another. UPGRADING.md tells what a first apply does.

data "aws_security_group" "vpn" {
  name = "sandbox-vpn"
}

module "sandbox" {
  source = "../.."

  vpc                         = "sandbox"
  subnet_group                = "sandbox-igw-zz-minotaur-7"
  security_group_ids          = [data.aws_security_group.vpn.id]
  target_ecs_cluster          = "sandbox-spot"
  tailscale_auth_key_secret   = "sandbox-tailscale-auth-key"
  tailscale_docker_repository = "tailscale"
  tailscale_docker_tag        = "sha-a0063fef6ccfa4dc689642d60637a124c60b1be3"
}

# The module's one output; ours gives the role ECS Exec's permissions by itself,
# with enable_execute_command.
output "tailscale_ecs_task_role_name" {
  value = module.sandbox.tailscale_ecs_task_role_name
}
