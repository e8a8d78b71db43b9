# Several VPCs with the same addresses. Each has a site: 10.0.3.4 of site 7 is
# 10-0-3-4-via-7 in MagicDNS, and an IPv6 address that no other site has.

variable "vpcs" {
  description = "The VPCs by name, each with a site of its own."
  type = map(object({
    site_id    = number
    vpc_id     = string
    subnet_ids = list(string)
  }))
  default = {
    staging    = { site_id = 7, vpc_id = "vpc-0123456789abcdef0", subnet_ids = ["subnet-0123456789abcdef0"] }
    production = { site_id = 8, vpc_id = "vpc-0123456789abcdef1", subnet_ids = ["subnet-0123456789abcdef1"] }
  }

  validation {
    condition     = length(distinct([for v in var.vpcs : v.site_id])) == length(var.vpcs)
    error_message = "Two VPCs must not have the same site_id."
  }
}

module "subnet_router" {
  source   = "../.."
  for_each = var.vpcs

  name       = "${each.key}-router"
  vpc_id     = each.value.vpc_id
  subnet_ids = each.value.subnet_ids
  site_id    = each.value.site_id

  cluster_arn           = "arn:aws:ecs:eu-west-1:123456789012:cluster/network"
  create_security_group = true
  image                 = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/subnetrouter:1.0.0"
  auth_secret_arn       = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"
}

# Each site's addresses, as the tailnet's policy file approves them.
output "policies" {
  value = { for name, router in module.subnet_router : name => router.autoapprovers_json }
}
