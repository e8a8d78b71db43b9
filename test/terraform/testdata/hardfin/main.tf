# A stand-in of the shape of Hardfin's module, as far as state goes: the same
# addresses, names, and arguments that force a replacement. Not its code.

variable "name" {
  type    = string
  default = null
}
variable "vpc" { type = string }
variable "subnet_group" { type = string }
variable "assign_public_ip" {
  type    = bool
  default = false
}
variable "security_group_ids" { type = list(string) }
variable "target_ecs_cluster" { type = string }
variable "tailscale_auth_key_secret" { type = string }
variable "tailscale_docker_repository" { type = string }
variable "tailscale_docker_tag" { type = string }
variable "enable_execute_command" {
  type    = bool
  default = false
}
variable "additional_routes" {
  type    = list(string)
  default = []
}
variable "cpu_architecture" {
  type    = string
  default = "X86_64"
}
variable "additional_flags" {
  type    = string
  default = ""
}
variable "cpu" {
  type    = number
  default = 256
}
variable "memory" {
  type    = number
  default = 512
}

module "subnet_router" {
  source = "./modules/subnet_router"

  name                        = var.name
  vpc                         = var.vpc
  subnet_group                = var.subnet_group
  assign_public_ip            = var.assign_public_ip
  security_group_ids          = var.security_group_ids
  target_ecs_cluster          = var.target_ecs_cluster
  tailscale_auth_key_secret   = var.tailscale_auth_key_secret
  tailscale_docker_repository = var.tailscale_docker_repository
  tailscale_docker_tag        = var.tailscale_docker_tag
  enable_execute_command      = var.enable_execute_command
  additional_routes           = var.additional_routes
  cpu_architecture            = var.cpu_architecture
  additional_flags            = var.additional_flags
  cpu                         = var.cpu
  memory                      = var.memory
}

output "tailscale_ecs_task_role_name" {
  value = module.subnet_router.tailscale_ecs_task_role_name
}
