locals {
  security_group_ids = concat(var.security_group_ids, aws_security_group.router[*].id)
}

resource "aws_security_group" "router" {
  count = var.create_security_group ? 1 : 0

  name        = local.name
  description = "Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = local.name }, var.tags)
}

# WireGuard answers nobody whose key it does not know.
resource "aws_vpc_security_group_ingress_rule" "wireguard" {
  for_each = var.create_security_group ? { ipv4 = "0.0.0.0/0", ipv6 = "::/0" } : {}

  security_group_id = aws_security_group.router[0].id
  description       = "WireGuard"
  ip_protocol       = "udp"
  from_port         = var.udp_port
  to_port           = var.udp_port
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
  tags              = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  count = var.create_security_group ? length(var.metrics_ingress_security_group_ids) : 0

  security_group_id            = aws_security_group.router[0].id
  description                  = "Metrics and status"
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  referenced_security_group_id = var.metrics_ingress_security_group_ids[count.index]
  tags                         = var.tags
}

# The router opens connections to the whole VPC, to the control server and to relays.
resource "aws_vpc_security_group_egress_rule" "all" {
  for_each = var.create_security_group ? { ipv4 = "0.0.0.0/0", ipv6 = "::/0" } : {}

  security_group_id = aws_security_group.router[0].id
  description       = "Everywhere"
  ip_protocol       = "-1"
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
  tags              = var.tags
}

# ---------------------------------------------------------------- VPC endpoints

locals {
  # The services that are called by a task of this configuration.
  endpoint_services = !var.create_vpc_endpoints ? [] : concat(
    ["ecr.api", "ecr.dkr", "logs"],
    length(local.network_actions) > 0 || local.uses_prefix_lists ? ["ec2"] : [],
    var.tailscale_client_id == null ? ["secretsmanager"] : ["sts"],
    var.enable_execute_command ? ["ssmmessages"] : [],
    local.on_efs ? ["elasticfilesystem"] : [],
  )
}

resource "aws_security_group" "endpoints" {
  count = var.create_vpc_endpoints ? 1 : 0

  name        = "${local.name}-endpoints"
  description = "VPC endpoints of the Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = "${local.name}-endpoints" }, var.tags)
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count = var.create_vpc_endpoints ? length(local.security_group_ids) : 0

  security_group_id            = aws_security_group.endpoints[0].id
  description                  = "The router's tasks"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = local.security_group_ids[count.index]
  tags                         = var.tags
}

resource "aws_vpc_endpoint" "interface" {
  for_each = toset(local.endpoint_services)

  vpc_id              = local.vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.value}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = local.subnet_ids
  security_group_ids  = aws_security_group.endpoints[*].id
  tags                = merge({ Name = "${local.name}-${each.value}" }, var.tags)
}

resource "aws_vpc_endpoint" "s3" {
  count = var.create_vpc_endpoints && length(var.vpc_endpoint_route_table_ids) > 0 ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc_endpoint_route_table_ids
  tags              = merge({ Name = "${local.name}-s3" }, var.tags)
}
