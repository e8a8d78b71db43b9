# Private subnets with a NAT gateway, the usual way out. The router calls two kinds of
# services:
#
#   AWS: ECR (ecr.api, ecr.dkr, and S3 for the layers), CloudWatch Logs (logs), Secrets
#   Manager or STS, and EC2 for the routes. Through the gateway, or through VPC endpoints.
#
#   Tailscale: the control server (TCP 443), DERP servers (TCP 443, and UDP 3478 for STUN)
#   and clients (any UDP). They are on the Internet, so VPC endpoints do not replace the
#   gateway.
#
# The gateway endpoint of S3 is free, and saves the gateway's charge for image layers. The
# interface endpoints save nothing here: each costs more than the router's calls to AWS. The
# README has the costs. The example "isolated" has endpoints and no gateway.

variable "vpc_id" {
  description = "ID of the VPC, with an Internet gateway."
  type        = string
  default     = "vpc-0123456789abcdef0"
}

variable "public_subnet_id" {
  description = "ID of a public subnet, for the NAT gateway."
  type        = string
  default     = "subnet-0123456789abcdef0"
}

variable "private_cidrs" {
  description = "CIDRs of the private subnets, by the last letter of their zones."
  type        = map(string)
  default     = { a = "10.0.64.0/24", b = "10.0.65.0/24" }
}

data "aws_region" "current" {}

resource "aws_eip" "nat" {
  domain = "vpc"
}

# One gateway for both zones halves the cost. If its zone fails, so does the way out of the
# other one.
resource "aws_nat_gateway" "this" {
  allocation_id = aws_eip.nat.id
  subnet_id     = var.public_subnet_id
}

resource "aws_subnet" "private" {
  for_each = var.private_cidrs

  vpc_id            = var.vpc_id
  availability_zone = "${data.aws_region.current.id}${each.key}"
  cidr_block        = each.value
  tags              = { Name = "router-${each.key}" }
}

resource "aws_route_table" "private" {
  vpc_id = var.vpc_id
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.private.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this.id
}

resource "aws_route_table_association" "private" {
  for_each = aws_subnet.private

  subnet_id      = each.value.id
  route_table_id = aws_route_table.private.id
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = var.vpc_id
  service_name      = "com.amazonaws.${data.aws_region.current.id}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.private.id]
}

module "subnet_router" {
  source = "../.."

  name   = "private"
  vpc_id = var.vpc_id

  # Through the associations: without a way out, tasks cannot start.
  subnet_ids            = [for zone in keys(var.private_cidrs) : aws_route_table_association.private[zone].subnet_id]
  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true

  # The ways out, no more: everything in the VPC, and above.
  egress_rules = {
    VPC       = { cidr = "10.0.0.0/8" }
    HTTPS     = { cidr = "0.0.0.0/0", protocol = "tcp", from_port = 443 }
    WireGuard = { cidr = "0.0.0.0/0", protocol = "udp", from_port = 1, to_port = 65535 }
  }

  image           = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
}

output "policy" {
  description = "What to merge into the tailnet's policy file."
  value       = module.subnet_router.autoapprovers_json
}
