# EC2 does not delete a group while a network interface or another group refers to it. So
# the new group is created, with its rules, and the tasks move to it before the old one is
# deleted; otherwise running tasks would lose their connectivity. Names are prefixes,
# because both groups exist for a time. A group keeps its name. Rules that refer to the
# caller's groups are an exception: create_before_destroy would extend to those groups,
# whose names may be fixed.

locals {
  # EC2 reserves names that start with "sg-".
  group_name = startswith(lower(local.name), "sg-") ? "tailscale-${local.name}" : local.name

  security_group_ids = concat(var.security_group_ids, aws_security_group.router[*].id)
}

resource "aws_security_group" "router" {
  count = var.create && var.create_security_group ? 1 : 0

  name_prefix = "${local.group_name}-"
  description = "Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = local.name }, var.tags)

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [name, name_prefix]
  }
}

# WireGuard does not answer packets of unknown keys.
resource "aws_vpc_security_group_ingress_rule" "wireguard" {
  for_each = var.create && var.create_security_group ? { ipv4 = "0.0.0.0/0", ipv6 = "::/0" } : {}

  security_group_id = aws_security_group.router[0].id
  description       = "WireGuard"
  ip_protocol       = "udp"
  from_port         = var.udp_port
  to_port           = var.udp_port
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
  tags              = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

# The relay answers only nodes with a key that it has given them.
resource "aws_vpc_security_group_ingress_rule" "peer_relay" {
  for_each = var.create && var.create_security_group && var.peer_relay_port != null ? { ipv4 = "0.0.0.0/0", ipv6 = "::/0" } : {}

  security_group_id = aws_security_group.router[0].id
  description       = "Peer relay"
  ip_protocol       = "udp"
  from_port         = var.peer_relay_port
  to_port           = var.peer_relay_port
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
  tags              = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  count = var.create && var.create_security_group ? length(var.metrics_ingress_security_group_ids) : 0

  security_group_id            = aws_security_group.router[0].id
  description                  = "Metrics and status"
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  referenced_security_group_id = var.metrics_ingress_security_group_ids[count.index]
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "metrics_cidr" {
  for_each = var.create && var.create_security_group ? toset(var.metrics_ingress_cidrs) : []

  security_group_id = aws_security_group.router[0].id
  description       = "Metrics and status"
  ip_protocol       = "tcp"
  from_port         = local.metrics_port
  to_port           = local.metrics_port
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
  tags              = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "metrics_given" {
  for_each = var.create && var.create_security_group ? var.metrics_ingress_rules : {}

  security_group_id            = aws_security_group.router[0].id
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  cidr_ipv4                    = try(strcontains(each.value.cidr, ":"), true) ? null : each.value.cidr
  cidr_ipv6                    = try(strcontains(each.value.cidr, ":"), false) ? each.value.cidr : null
  prefix_list_id               = each.value.prefix_list_id
  referenced_security_group_id = each.value.security_group_id
  tags                         = var.tags
}

# A program that reaches one of these ports has the router's rights in the tailnet.
resource "aws_vpc_security_group_ingress_rule" "egress" {
  for_each = var.create && var.create_security_group ? { for pair in setproduct(keys(var.egress_ingress_rules), local.vpc_ports) :
    "${pair[0]} ${pair[1]}" => { name = pair[0], protocol = split("/", pair[1])[0], port = tonumber(split("/", pair[1])[1]), source = var.egress_ingress_rules[pair[0]] }
  } : {}

  security_group_id            = aws_security_group.router[0].id
  description                  = each.value.name
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  cidr_ipv4                    = try(strcontains(each.value.source.cidr, ":"), true) ? null : each.value.source.cidr
  cidr_ipv6                    = try(strcontains(each.value.source.cidr, ":"), false) ? each.value.source.cidr : null
  prefix_list_id               = each.value.source.prefix_list_id
  referenced_security_group_id = each.value.source.security_group_id
  tags                         = var.tags
}

# The router connects to the whole VPC, the control server and DERP servers.
resource "aws_vpc_security_group_egress_rule" "all" {
  for_each = var.create && var.create_security_group && var.egress_rules == null ? { ipv4 = "0.0.0.0/0", ipv6 = "::/0" } : {}

  security_group_id = aws_security_group.router[0].id
  description       = "Everywhere"
  ip_protocol       = "-1"
  cidr_ipv4         = each.key == "ipv4" ? each.value : null
  cidr_ipv6         = each.key == "ipv6" ? each.value : null
  tags              = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "given" {
  for_each = var.create && var.create_security_group && var.egress_rules != null ? coalesce(var.egress_rules, {}) : {}

  security_group_id = aws_security_group.router[0].id
  description       = each.key
  ip_protocol       = each.value.protocol
  from_port         = each.value.from_port
  to_port           = each.value.to_port == null ? each.value.from_port : each.value.to_port
  cidr_ipv4         = strcontains(each.value.cidr, ":") ? null : each.value.cidr
  cidr_ipv6         = strcontains(each.value.cidr, ":") ? each.value.cidr : null
  tags              = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

# ---------------------------------------------------------------- VPC endpoints

locals {
  create_vpc_endpoints = var.create && var.create_vpc_endpoints

  # The services that a task calls. Keys must not depend on values, such as the ID of a
  # prefix list that the same apply creates: EC2 is always included.
  endpoint_services = !local.create_vpc_endpoints ? [] : var.vpc_endpoint_services != null ? var.vpc_endpoint_services : concat(
    ["ecr.api", "ecr.dkr", "logs", "ec2"],
    var.tailscale_client_id == null ? ["secretsmanager"] : ["sts"],
    var.enable_execute_command ? ["ssmmessages"] : [],
    local.on_efs ? ["elasticfilesystem"] : [],
    local.on_dynamodb ? ["kms", "ecs"] : [],
    local.on_ssm ? ["ssm"] : [],
  )
}

resource "aws_security_group" "endpoints" {
  count = local.create_vpc_endpoints ? 1 : 0

  name_prefix = "${local.group_name}-endpoints-"
  description = "VPC endpoints of the Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = "${local.name}-endpoints" }, var.tags)

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [name, name_prefix]
  }
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count = local.create_vpc_endpoints ? length(local.security_group_ids) : 0

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
  subnet_ids          = values(local.subnets_by_zone)
  security_group_ids  = aws_security_group.endpoints[*].id
  tags                = merge({ Name = "${local.name}-${each.value}" }, var.tags)

  lifecycle {
    precondition {
      condition     = local.vpc.enable_dns_support && local.vpc.enable_dns_hostnames
      error_message = "The endpoints need private DNS: set enable_dns_support and enable_dns_hostnames of the VPC ${local.vpc_id}, or remove create_vpc_endpoints."
    }
  }
}

resource "aws_vpc_endpoint" "s3" {
  count = local.create_vpc_endpoints && length(var.vpc_endpoint_route_table_ids) > 0 ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc_endpoint_route_table_ids
  tags              = merge({ Name = "${local.name}-s3" }, var.tags)
}

resource "aws_vpc_endpoint" "dynamodb" {
  count = local.create_vpc_endpoints && local.on_dynamodb && length(var.vpc_endpoint_route_table_ids) > 0 ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc_endpoint_route_table_ids
  tags              = merge({ Name = "${local.name}-dynamodb" }, var.tags)
}

check "s3_endpoint" {
  assert {
    condition     = !local.create_vpc_endpoints || length(var.vpc_endpoint_route_table_ids) > 0
    error_message = "ECR serves an image's layers from S3, for which no endpoint is created: set vpc_endpoint_route_table_ids to the subnets' route tables, unless the VPC has an S3 endpoint."
  }
}

check "dynamodb_endpoint" {
  assert {
    condition     = !local.create_vpc_endpoints || !local.on_dynamodb || length(var.vpc_endpoint_route_table_ids) > 0
    error_message = "The router keeps its identities in DynamoDB, for which no endpoint is created: set vpc_endpoint_route_table_ids to the subnets' route tables, unless the VPC has a DynamoDB endpoint."
  }
}
