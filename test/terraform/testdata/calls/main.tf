# Configurations of many kinds, by what drift_test.go reads of their plans. The
# test defines the locals that are not here.

module "named" {
  source = "../module"

  vpc                         = "sandbox"
  subnet_group                = "sandbox-igw-zz-minotaur-7"
  security_group_ids          = [local.security_group_id]
  target_ecs_cluster          = "sandbox-spot"
  tailscale_auth_key_secret   = "sandbox-tailscale-auth-key"
  tailscale_docker_repository = "tailscale"
  tailscale_docker_tag        = "sha-a0063fef6ccfa4dc689642d60637a124c60b1be3"
  additional_routes           = ["192.168.0.0/16"]
  additional_flags            = "--accept-dns=false --accept-routes --advertise-tags=tag:edge,db --timeout=30s"
}

module "json_key" {
  source = "../module"

  name                    = "json-key"
  hostname                = "db-router"
  vpc_id                  = local.vpc_id
  subnet_ids              = [local.subnet_a, local.subnet_b]
  create_security_group   = true
  cluster_arn             = local.cluster_arn
  image                   = local.image
  auth_secret_arn         = "${local.secret_arn}:router::"
  auth_secret_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  routes                  = ["subnets:group=sandbox-igw-*", "10.99.0.0/24", local.prefix_list_id]
  exclude_routes          = ["10.0.2.128/25"]
  probes                  = ["10.0.1.10:5432", "[fd00::1]:443"]
  dns                     = true
  flow_log                = true
  access                  = "report"
  proxy_protocol          = ["10.0.3.0/24:443", "[2001:db8::1]:8443"]
  emf                     = true
  log_level               = "debug"
  udp_port                = 42000
  drain_timeout           = 90
  stop_timeout            = 110
  environment             = { ROUTER_MAX_FLOWS = "2000", ROUTER_REFRESH = "1m", ROUTER_STATUS_PAGE = "off" }
}

module "federation" {
  source = "../module"

  name                  = "federation"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  tailscale_client_id   = "k123456CNTRL"
  tailscale_audience    = "api.tailscale.com/k123456CNTRL"
  tailscale_tags        = ["tag:subnet-router", "tag:prod"]
  control_url           = "https://control.example.com"
  state                 = "efs"
  environment           = { ROUTER_API_URL = "https://api.example.com" }
}

module "peerings" {
  source = "../module"

  name                  = "peerings"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn
  routes                = ["vpc", "subnet", "peerings"]
  dns_zones             = ["auto"]
}

module "names" {
  source = "../module"

  name                  = "names"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn
  routes                = ["10.50.0.0/16", "rds:env=prod*", "lb:env=prod*", "host:db.invalid"]
  dns_zones             = ["auto", "Corp.example.com."]
  dns_register          = true
}

module "site" {
  source = "../module"

  name                  = "site"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn
  site_id               = 7
}

module "static" {
  source = "../module"

  name                  = "static"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = trimsuffix(local.secret_arn, regex("-[A-Za-z0-9]{6}$", local.secret_arn)) # as people write it
  routes                = ["10.50.0.0/16"]

  access     = "grants"
  access_cut = true
}

# A sidecar, which advertises no routes.
module "sidecar" {
  source = "../module"

  name                  = "sidecar"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn
  routes                = ["none"]
  serve                 = ["80=localhost:8080"]
}

# A secret whose name looks complete without the end of its ARN.
module "why" {
  source = "../module"

  name                  = "why"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn
  routes                = ["vpc", local.prefix_list_id]
  enable_why            = true
}

module "six_letters" {
  source = "../module"

  name                  = "six-letters"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.six_letters_arn
}

module "parameter" {
  source = "../module"

  name                    = "parameter"
  vpc_id                  = local.vpc_id
  subnet_ids              = [local.subnet_a]
  create_security_group   = true
  cluster_arn             = local.cluster_arn
  image                   = local.image
  auth_secret_arn         = "arn:aws:ssm:eu-central-1:123456789012:parameter/router/sandbox-tailscale-auth-key:3"
  auth_secret_json_key    = "router"
  auth_secret_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
}

# The keys of secrets, as Secrets Manager returns them.
module "key_by_id" {
  source = "../module"

  name                      = "key-by-id"
  vpc_id                    = local.vpc_id
  subnet_ids                = [local.subnet_a]
  create_security_group     = true
  cluster_arn               = local.cluster_arn
  image                     = local.image
  tailscale_auth_key_secret = "sandbox-tailscale-auth-key/by-id"
}

module "key_by_alias" {
  source = "../module"

  name                      = "key-by-alias"
  vpc_id                    = local.vpc_id
  subnet_ids                = [local.subnet_a]
  create_security_group     = true
  cluster_arn               = local.cluster_arn
  image                     = local.image
  tailscale_auth_key_secret = "sandbox-tailscale-auth-key/by-alias"
}

module "key_by_arn" {
  source = "../module"

  name                      = "key-by-arn"
  vpc_id                    = local.vpc_id
  subnet_ids                = [local.subnet_a]
  create_security_group     = true
  cluster_arn               = local.cluster_arn
  image                     = local.image
  tailscale_auth_key_secret = "sandbox-tailscale-auth-key/by-arn"
}

module "key_by_aws" {
  source = "../module"

  name                      = "key-by-aws"
  vpc_id                    = local.vpc_id
  subnet_ids                = [local.subnet_a]
  create_security_group     = true
  cluster_arn               = local.cluster_arn
  image                     = local.image
  tailscale_auth_key_secret = "sandbox-tailscale-auth-key/by-aws"
}

module "identities" {
  source = "../module"

  name                  = "identities"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn

  state                = "existing-dynamodb"
  dynamodb_table_arn   = "arn:aws:dynamodb:eu-west-1:123456789012:table/routers"
  create_state_kms_key = false
  state_kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
}

module "state_parameter" {
  source = "../module"

  name                  = "state-parameter"
  vpc_id                = local.vpc_id
  subnet_ids            = [local.subnet_a]
  create_security_group = true
  cluster_arn           = local.cluster_arn
  image                 = local.image
  auth_secret_arn       = local.secret_arn

  state                = "ssm"
  create_state_kms_key = false
  state_kms_key_arn    = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
}

locals {
  calls = {
    named      = module.named
    json_key   = module.json_key
    federation = module.federation
    peerings   = module.peerings
    names      = module.names
    site       = module.site
    static     = module.static
    why        = module.why
    sidecar    = module.sidecar

    six_letters  = module.six_letters
    parameter    = module.parameter
    key_by_id    = module.key_by_id
    key_by_alias = module.key_by_alias
    key_by_arn   = module.key_by_arn
    key_by_aws   = module.key_by_aws

    identities      = module.identities
    state_parameter = module.state_parameter
  }
}

output "calls" {
  value = { for name, call in local.calls : name => {
    environment        = call.environment
    autoapprovers_json = call.autoapprovers_json
    nameservers        = call.split_dns.nameservers
  } }
}
