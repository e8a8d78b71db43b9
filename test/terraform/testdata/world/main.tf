# What the published call of Hardfin's module finds in its account.

resource "aws_vpc" "sandbox" {
  cidr_block                       = "10.0.0.0/16"
  enable_dns_hostnames             = true # as private DNS of endpoints needs
  assign_generated_ipv6_cidr_block = true
  tags                             = { Name = "sandbox" }
}

resource "aws_vpc_ipv4_cidr_block_association" "second" {
  vpc_id     = aws_vpc.sandbox.id
  cidr_block = "10.8.0.0/16"
}

resource "aws_subnet" "igw" {
  for_each = { a = "10.0.1.0/24", b = "10.0.2.0/24" }

  vpc_id            = aws_vpc.sandbox.id
  availability_zone = "eu-west-1${each.key}"
  cidr_block        = each.value
  tags              = { group = "sandbox-igw-zz-minotaur-7" }
}

# A second subnet of a zone, as tags and groups of subnets often name.
resource "aws_subnet" "igw_a2" {
  vpc_id            = aws_vpc.sandbox.id
  availability_zone = "eu-west-1a"
  cidr_block        = "10.0.4.0/24"
}

# A VPC without a private DNS namespace: moto allows one.
resource "aws_vpc" "other" {
  cidr_block           = "10.20.0.0/16"
  enable_dns_hostnames = true
}

resource "aws_subnet" "other" {
  for_each = { a = "10.20.1.0/24", b = "10.20.2.0/24" }

  vpc_id            = aws_vpc.other.id
  availability_zone = "eu-west-1${each.key}"
  cidr_block        = each.value
}

# Where a task of the router would be.
resource "aws_network_interface" "task" {
  subnet_id = aws_subnet.igw["a"].id
}

resource "aws_route_table" "isolated" {
  vpc_id = aws_vpc.sandbox.id
}

resource "aws_security_group" "vpn" {
  name   = "sandbox-vpn"
  vpc_id = aws_vpc.sandbox.id
}

resource "aws_ecs_cluster" "sandbox" {
  name = "sandbox-spot"
}

resource "aws_secretsmanager_secret" "auth_key" {
  name = "sandbox-tailscale-auth-key"
}

# Named as a role's own credential would be: its last six letters are no suffix.
resource "aws_secretsmanager_secret" "six_letters" {
  name = "sandbox-tailscale-auth-key/subnet-router"
}

# Secrets Manager returns the key as it was given here.
resource "aws_kms_key" "secrets" {}

resource "aws_kms_alias" "secrets" {
  name          = "alias/secrets"
  target_key_id = aws_kms_key.secrets.id
}

resource "aws_secretsmanager_secret" "encrypted" {
  for_each = {
    by-id    = aws_kms_key.secrets.id
    by-alias = aws_kms_alias.secrets.name
    by-arn   = aws_kms_key.secrets.arn
    by-aws   = "alias/aws/secretsmanager"
  }

  name       = "sandbox-tailscale-auth-key/${each.key}"
  kms_key_id = each.value
}

resource "aws_ecr_repository" "tailscale" {
  name = "tailscale"
}

resource "aws_ec2_managed_prefix_list" "office" {
  name           = "office"
  address_family = "IPv4"
  max_entries    = 5

  entry {
    cidr = "192.168.7.0/24"
  }
}

resource "aws_service_discovery_private_dns_namespace" "internal" {
  name = "internal.example.com"
  vpc  = aws_vpc.sandbox.id
}

output "prefix_list_id" {
  value = aws_ec2_managed_prefix_list.office.id
}

output "namespace_id" {
  value = aws_service_discovery_private_dns_namespace.internal.id
}

output "subnet_a" {
  value = aws_subnet.igw["a"].id
}

output "subnet_b" {
  value = aws_subnet.igw["b"].id
}

output "subnet_a2" {
  value = aws_subnet.igw_a2.id
}

output "other_vpc_id" {
  value = aws_vpc.other.id
}

output "other_subnet_a" {
  value = aws_subnet.other["a"].id
}

output "other_subnet_b" {
  value = aws_subnet.other["b"].id
}

output "task_mac" {
  value = aws_network_interface.task.mac_address
}

output "task_address" {
  value = aws_network_interface.task.private_ip
}

output "vpc_id" {
  value = aws_vpc.sandbox.id
}

output "route_table_id" {
  value = aws_route_table.isolated.id
}

output "security_group_id" {
  value = aws_security_group.vpn.id
}

output "cluster_arn" {
  value = aws_ecs_cluster.sandbox.arn
}

output "kms_key_arn" {
  value = aws_kms_key.secrets.arn
}

output "six_letters_arn" {
  value = trimsuffix(aws_secretsmanager_secret.six_letters.arn, regex("-[A-Za-z0-9]{6}$", aws_secretsmanager_secret.six_letters.arn))
}

output "secret_arn" {
  value = aws_secretsmanager_secret.auth_key.arn
}
