# ---------------------------------------------------------------- identity

variable "create" {
  description = "Whether to create anything. If false, there is no resource and no look-up."
  type        = bool
  default     = true
  nullable    = false
}

variable "name" {
  description = "Name of the deployment; the names of all resources derive from it. By default it is \"<vpc>-tailscale\" with the VPC's Name tag at the first apply (characters that AWS rejects in names become dashes), or else the VPC's ID. The service and the security groups keep the names that they were created with."
  type        = string
  default     = null

  validation {
    # "ecs-task-execution-" goes in front, and IAM allows 64 characters.
    condition     = var.name == null || can(regex("^[A-Za-z0-9_-]{1,45}$", var.name))
    error_message = "The name must be 1 to 45 letters, digits, dashes and underscores."
  }
}

variable "hostname" {
  description = "Name of the node in the tailnet: one DNS label. By default it is the deployment's name. Replicas share it; Tailscale distinguishes them by a suffix. With state in DynamoDB, the nodes are HOSTNAME-0, HOSTNAME-1 and so on."
  type        = string
  default     = null

  validation {
    condition     = var.hostname == null || can(regex("^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$", var.hostname))
    error_message = "The hostname must be at most 63 letters, digits and dashes, without a dash at either end."
  }
}

variable "tags" {
  description = "Tags for every resource that the module creates, and for the tasks."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for k, v in var.tags : length(k) >= 1 && length(k) <= 128 && length(v) <= 256 && !startswith(lower(k), "aws:")])
    error_message = "A tag's key must have 1 to 128 characters and not start with \"aws:\", and its value at most 256."
  }
}

# ---------------------------------------------------------------- where

variable "region" {
  description = "Region in which the router must run, such as eu-west-1: the plan fails if the provider is configured for another one. With hashicorp/aws 5.x, a module's resources are in the region of its provider; for another region pass another provider, as in providers = { aws = aws.frankfurt }."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "The region must look like eu-west-1."
  }
}

variable "vpc" {
  description = "Value of the Name tag of the VPC in which the router runs. Give this or vpc_id."
  type        = string
  default     = null
}

variable "vpc_id" {
  description = "ID of the VPC in which the router runs. Give this or vpc."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "The vpc_id must look like vpc-0123abcd."
  }
}

variable "subnet_group" {
  description = "Value of the tag \"group\" of the subnets in which the router may run. Give this or subnet_ids."
  type        = string
  default     = null
}

variable "subnet_ids" {
  description = "IDs of the subnets in which the router may run: for two tasks, subnets of two zones. Give this or subnet_group."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null || length(coalesce(var.subnet_ids, [])) > 0
    error_message = "The subnet_ids must not be empty: leave them out to use subnet_group."
  }
}

variable "assign_public_ip" {
  description = "Whether the tasks get a public IPv4 address. In a public subnet they need one to pull the image and to reach Tailscale; with it and an open udp_port, clients connect directly."
  type        = bool
  default     = false
  nullable    = false
}

variable "security_group_ids" {
  description = "IDs of security groups of the tasks, and of the EFS mount targets if the state is on EFS. Empty only with create_security_group."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "create_security_group" {
  description = "Whether to create a security group that allows WireGuard on udp_port inbound and everything outbound, in addition to those of security_group_ids."
  type        = bool
  default     = false
  nullable    = false
}

variable "metrics_ingress_security_group_ids" {
  description = "IDs of security groups whose members may reach the HTTP port 9002 (metrics, status), through the security group that the module creates. The rules are numbered: to remove one of several, use metrics_ingress_rules."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "metrics_ingress_rules" {
  description = "Sources that may reach the HTTP port 9002 (metrics, status) through the security group that the module creates, keyed by description: each a cidr, a security_group_id or a prefix_list_id, which the same apply may create."
  type = map(object({
    cidr              = optional(string)
    security_group_id = optional(string)
    prefix_list_id    = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for r in values(var.metrics_ingress_rules) : length([for source in values(r) : source if source != null]) == 1 && (r.cidr == null || can(cidrhost(r.cidr, 0)))])
    error_message = "Each of the metrics_ingress_rules must have exactly one of cidr, such as 10.0.9.0/24, security_group_id and prefix_list_id."
  }
}

variable "metrics_ingress_cidrs" {
  description = "CIDRs, IPv4 or IPv6, from which the HTTP port 9002 (metrics, status) may be reached, through the security group that the module creates. The plan must know them; otherwise use metrics_ingress_rules."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.metrics_ingress_cidrs : can(cidrhost(c, 0))])
    error_message = "Each of the metrics_ingress_cidrs must be a CIDR, such as 10.0.9.0/24."
  }
}

variable "egress_ingress_rules" {
  description = "Sources in the VPC that may use the router's ways into the tailnet, through the security group that the module creates: the ports of egress, socks5_listen and http_proxy_listen that are not on the loopback address. Keyed by description: each a cidr, a security_group_id or a prefix_list_id, which the same apply may create; the plan must know the ports. These programs have the router's rights in the tailnet."
  type = map(object({
    cidr              = optional(string)
    security_group_id = optional(string)
    prefix_list_id    = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for r in values(var.egress_ingress_rules) : length([for source in values(r) : source if source != null]) == 1 && (r.cidr == null || can(cidrhost(r.cidr, 0)))])
    error_message = "Each of the egress_ingress_rules must have exactly one of cidr, such as 10.0.9.0/24, security_group_id and prefix_list_id."
  }
}

variable "egress_rules" {
  description = "Outbound rules of the security group that the module creates, keyed by description. By default it allows everything. The router needs the targets in the VPC, the control server and DERP servers (TCP 443, UDP 3478), AWS's endpoints (TCP 443) and, for direct connections, any UDP."
  type = map(object({
    cidr      = string
    protocol  = optional(string, "-1")
    from_port = optional(number)
    to_port   = optional(number)
  }))
  default = null

  validation {
    condition     = var.egress_rules == null || alltrue([for r in values(coalesce(var.egress_rules, {})) : can(cidrhost(r.cidr, 0)) && contains(["-1", "tcp", "udp", "icmp", "icmpv6"], r.protocol) && (r.protocol == "-1") == (r.from_port == null)])
    error_message = "Each of the egress_rules must have a cidr and a protocol (-1, tcp, udp, icmp or icmpv6), and from_port unless the protocol is -1."
  }
}

variable "target_ecs_cluster" {
  description = "Name of the ECS cluster. Give this or cluster_arn."
  type        = string
  default     = null
}

variable "cluster_arn" {
  description = "ARN of the ECS cluster. Give this or target_ecs_cluster."
  type        = string
  default     = null

  validation {
    condition     = var.cluster_arn == null || can(regex("^arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/.+$", var.cluster_arn))
    error_message = "The cluster_arn must look like arn:aws:ecs:eu-west-1:123456789012:cluster/main."
  }
}

# ---------------------------------------------------------------- credential

variable "tailscale_auth_key_secret" {
  description = "Name of the Secrets Manager secret that holds the credential: an auth key or an OAuth client secret, as text or JSON. Give this, auth_secret_arn, or tailscale_client_id."
  type        = string
  default     = null
}

variable "auth_secret_arn" {
  description = "ARN of that secret, with ECS's suffix \":json-key:version-stage:version-id\" if needed, or of an SSM parameter, with a version or label at the end if needed. Give this, tailscale_auth_key_secret, or tailscale_client_id."
  type        = string
  default     = null

  validation {
    condition     = var.auth_secret_arn == null || can(regex("^arn:aws[a-z-]*:(secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]+(:[^:]*){0,3}|ssm:[a-z0-9-]+:[0-9]{12}:parameter(/[A-Za-z0-9_.-]+){1,15}(:[A-Za-z0-9_.-]{1,100})?)$", var.auth_secret_arn))
    error_message = "The auth_secret_arn must be the ARN of a Secrets Manager secret or an SSM parameter, such as arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf or arn:aws:ssm:eu-west-1:123456789012:parameter/tailscale/auth-key."
  }
}

variable "auth_secret_json_key" {
  description = "Key of the credential in the JSON of the secret or parameter, unless it is auth_key, authkey, TS_AUTHKEY, or client_id with client_secret."
  type        = string
  default     = null
}

variable "auth_secret_kms_key_arn" {
  description = "ARN of the customer managed KMS key that encrypts the secret or parameter, for the permission to decrypt. The AWS managed key needs none; the module looks up the key of a secret given by name, unless look_up_auth_secret_kms_key is false."
  type        = string
  default     = null

  validation {
    condition     = var.auth_secret_kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.auth_secret_kms_key_arn))
    error_message = "The auth_secret_kms_key_arn must be the ARN of a key, not of an alias, such as arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab."
  }
}

variable "look_up_auth_secret_kms_key" {
  description = "Whether to look up the KMS key of tailscale_auth_key_secret, which needs kms:DescribeKey. If false, give a customer managed key as auth_secret_kms_key_arn."
  type        = bool
  default     = true
  nullable    = false
}

variable "tailscale_client_id" {
  description = "Client ID of the federated identity in Tailscale, for workload identity federation, without a stored secret. It needs tailscale_audience."
  type        = string
  default     = null

  validation {
    condition     = var.tailscale_client_id == null || can(regex("^[^[:space:][:cntrl:]]+$", var.tailscale_client_id))
    error_message = "The tailscale_client_id must not be empty or have blanks."
  }
}

variable "tailscale_audience" {
  description = "Audience that the federated identity expects. It needs tailscale_client_id."
  type        = string
  default     = null

  validation {
    condition     = var.tailscale_audience == null || can(regex("^[^[:space:][:cntrl:]]+$", var.tailscale_audience))
    error_message = "The tailscale_audience must not be empty or have blanks."
  }
}

variable "tailscale_tags" {
  description = "Tags of the node in the tailnet, for keys that the router mints (OAuth, federation) and for the outputs. An auth key determines its own tags."
  type        = list(string)
  default     = ["tag:subnet-router"]
  nullable    = false

  validation {
    condition     = length(var.tailscale_tags) > 0 && alltrue([for t in var.tailscale_tags : can(regex("^tag:[a-zA-Z][a-zA-Z0-9-]*$", t))])
    error_message = "There must be at least one tag, each \"tag:\" and a letter, then letters, digits and dashes, such as tag:subnet-router."
  }
}

variable "control_url" {
  description = "URL of the control server, by default Tailscale's own. Headscale works."
  type        = string
  default     = null

  validation {
    condition     = var.control_url == null || can(regex("^https?://[^/?#@ ]+(/[^?# ]*)?$", var.control_url))
    error_message = "The control_url must be an http or https URL, such as https://headscale.example.com."
  }
}

# ---------------------------------------------------------------- image

variable "tailscale_docker_repository" {
  description = "Name of the ECR repository, in this account and region, that holds the image. Give this with tailscale_docker_tag, or image."
  type        = string
  default     = null
}

variable "tailscale_docker_tag" {
  description = "Tag of the image in that repository. The task definition contains the digest of the tag at the time of the apply, so a moved tag has no effect until the next apply."
  type        = string
  default     = null
}

variable "image" {
  description = "URI of the image in any registry that the tasks can reach, preferably with a digest: registry/repository@sha256:…. Give this or tailscale_docker_repository."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9][^\\s]*[:@][^\\s]+$", var.image))
    error_message = "The image must have a tag or a digest, as in registry.example.com/subnetrouter@sha256:…."
  }
}

# ---------------------------------------------------------------- routes

variable "routes" {
  description = "Routes to advertise: vpc (every CIDR associated with the VPC, IPv4 and IPv6, now and later), subnet (the task's own), subnets:TAG=VALUE, peerings (networks that the subnet's route table reaches over peerings and transit gateways), pl-… (a prefix list), rds:TAG=VALUE (databases), lb:TAG=VALUE (load balancers), host:NAME (a DNS name), and CIDRs. [\"none\"] advertises no route: for a sidecar, or a router that is only an exit node, app connector or peer relay."
  type        = list(string)
  default     = ["vpc"]
  nullable    = false

  validation {
    condition = length(var.routes) > 0 && alltrue([for r in var.routes :
      contains(["vpc", "subnet", "peerings", "none"], trimspace(r)) || can(regex("^\\s*(subnets|rds|lb):[^=,]+=[^,]+$", r)) || can(regex("^\\s*pl-[0-9a-f]{8,17}\\s*$", r)) || can(regex("^\\s*host:[A-Za-z0-9.-]+\\s*$", r)) || can(cidrhost(trimspace(r), 0))
    ])
    error_message = "Each route must be vpc, subnet, subnets:TAG=VALUE, peerings, pl-…, rds:TAG=VALUE, lb:TAG=VALUE, host:NAME, none or a CIDR such as 10.0.0.0/16, and there must be one."
  }
}

variable "additional_routes" {
  description = "CIDRs to advertise in addition to routes."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for r in var.additional_routes : can(cidrhost(trimspace(r), 0))])
    error_message = "Each of the additional_routes must be a CIDR, such as 192.168.0.0/16."
  }
}

variable "exclude_routes" {
  description = "CIDRs that are never advertised, even if routes or additional_routes contain them."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for r in var.exclude_routes : can(cidrhost(trimspace(r), 0))])
    error_message = "Each of the exclude_routes must be a CIDR, such as 10.0.9.0/24."
  }
}

variable "dns_zones" {
  description = "Domains that only the VPC's DNS resolver resolves. The router lists them with the split-DNS setting for clients (`router plan`, the status page). auto stands for the VPC's private hosted zones, the domains of its resolver rules, those of its Route 53 Profile, and the domain of its instances' names; it needs access to Route 53, which vpc_endpoint_services cannot give: in subnets without a way out, list the domains."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for z in var.dns_zones : can(regex("^\\s*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\\.?\\s*$", z)) && !can(regex("(^|[.\\s])[0-9]+\\.?\\s*$", z)) && length(trimsuffix(trimspace(z), ".")) <= 253]) && length(var.dns_zones) <= 500
    error_message = "Each of the dns_zones must be auto or a domain such as corp.example.com, and there must be 500 at most."
  }
}

variable "dns_register" {
  description = "Whether the router keeps the VPC's DNS resolver registered for dns_zones in the tailnet's split DNS, with Tailscale's API. It needs an OAuth client or a federated identity with the scope dns (write). Nameservers of others stay. When the service is scaled in to no task, the last router removes the resolver from all domains, unless another router serves it."
  type        = bool
  default     = false
  nullable    = false
}

variable "site_id" {
  description = "Number of the site, 0 to 65535, under which IPv4 is advertised as 4via6: for VPCs with overlapping CIDRs, each with a different number."
  type        = number
  default     = null

  validation {
    condition     = var.site_id == null || try(var.site_id >= 0 && var.site_id <= 65535 && floor(var.site_id) == var.site_id, false)
    error_message = "The site_id must be a whole number from 0 to 65535."
  }
}

# ---------------------------------------------------------------- node

variable "additional_flags" {
  description = "Flags of `tailscale up`, quoted as in a shell. Only flags that are useful for a subnet router are accepted; most have their own variable, which takes precedence."
  type        = string
  default     = ""
  nullable    = false

  validation {
    # Each word is a flag, or the value of one that takes a value.
    condition     = can(regex("^\\s*((-{1,2}(accept-dns|accept-routes|advertise-connector|advertise-exit-node|reset|snat-subnet-routes|stateful-filtering)(=(1|t|T|TRUE|true|True|0|f|F|FALSE|false|False))?|-{1,2}(advertise-routes|advertise-tags|hostname|login-server|timeout)(=|\\s+)([^-\\s\"'\\\\][^\\s\"'\\\\]*|\"[^-\"\\\\][^\"\\\\]*\"|'[^-'][^']*')|-{1,2}netfilter-mode(=|\\s+)[\"']?on[\"']?)(\\s+|$))*$", var.additional_flags))
    error_message = "The additional_flags must be flags such as --accept-routes or --timeout=30s; boolean flags take =true or =false, and --netfilter-mode only on."
  }

  validation {
    condition = alltrue([for f in regexall("(?:^|\\s)--?([A-Za-z0-9][A-Za-z0-9-]*)", var.additional_flags) : contains([
      "accept-dns", "accept-routes", "advertise-connector", "advertise-exit-node", "advertise-routes", "advertise-tags", "hostname", "login-server",
      "netfilter-mode", "reset", "snat-subnet-routes", "stateful-filtering", "timeout",
    ], f[0])])
    error_message = "The additional_flags may only be accept-dns, accept-routes, advertise-connector, advertise-exit-node, advertise-routes, advertise-tags, hostname, login-server, netfilter-mode, reset, snat-subnet-routes, stateful-filtering and timeout: the router has no SSH server, and uses no exit node."
  }
}

variable "udp_port" {
  description = "UDP port of WireGuard. It is fixed so that a security group can allow it, which lets clients connect directly instead of through DERP."
  type        = number
  default     = 41641
  nullable    = false

  validation {
    condition     = var.udp_port >= 1024 && var.udp_port <= 65535 && floor(var.udp_port) == var.udp_port
    error_message = "The udp_port must be a whole number from 1024 to 65535: lower ports need privileges that the router does not have."
  }
}

variable "state" {
  description = "Where the nodes' keys are stored: \"ephemeral\" (in memory: each task is a new node, which is removed from the tailnet when the task stops), \"dynamodb\" (a table that the module creates, with an identity for each task), \"existing-dynamodb\" (dynamodb_table_arn), \"ssm\" (a parameter that the router creates), \"efs\" (an encrypted file system that the module creates), or \"existing-efs\" (efs_file_system_id). A parameter and a file system hold one identity, so they allow only one task."
  type        = string
  default     = "ephemeral"
  nullable    = false

  validation {
    condition     = contains(["ephemeral", "dynamodb", "existing-dynamodb", "ssm", "efs", "existing-efs"], var.state)
    error_message = "The state must be ephemeral, dynamodb, existing-dynamodb, ssm, efs or existing-efs."
  }
}

variable "dynamodb_table_arn" {
  description = "ARN of the table for state = \"existing-dynamodb\". Its partition key must be service, a string, and its sort key slot, a number. Services with different names can share a table."
  type        = string
  default     = null

  validation {
    condition     = var.dynamodb_table_arn == null || can(regex("^arn:aws[a-z-]*:dynamodb:[a-z0-9-]+:[0-9]{12}:table/[A-Za-z0-9_.-]{3,255}$", var.dynamodb_table_arn))
    error_message = "The dynamodb_table_arn must look like arn:aws:dynamodb:eu-west-1:123456789012:table/routers."
  }
}

variable "dynamodb_deletion_protection" {
  description = "Whether AWS refuses to delete the table of state = \"dynamodb\". To destroy the module, set it to false and apply first."
  type        = bool
  default     = true
  nullable    = false
}

variable "identity_slots" {
  description = "Number of identities of state = \"dynamodb\" or \"existing-dynamodb\", 1 to 100, which is also the largest number of nodes of this service in the tailnet. By default it is the largest number of tasks during a deployment: desired_count, or autoscaling.max, times deployment_maximum_percent. It must not be smaller than the number of tasks."
  type        = number
  default     = null

  validation {
    condition     = var.identity_slots == null || try(var.identity_slots >= 1 && var.identity_slots <= 100 && floor(var.identity_slots) == var.identity_slots, false)
    error_message = "The identity_slots must be a whole number from 1 to 100."
  }
}

variable "create_state_kms_key" {
  description = "Whether to create the KMS key with which the router encrypts the identities of state = \"dynamodb\" or \"existing-dynamodb\". If false, give state_kms_key_arn."
  type        = bool
  default     = true
  nullable    = false
}

variable "state_kms_key_arn" {
  description = "ARN of the KMS key with which the router encrypts its identities, with create_state_kms_key = false, or of the key that encrypts the parameter of state = \"ssm\", by default the AWS managed key. The key's policy must allow the account's IAM policies to grant its use."
  type        = string
  default     = null

  validation {
    condition     = var.state_kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.state_kms_key_arn))
    error_message = "The state_kms_key_arn must be the ARN of a key, not of an alias, such as arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab."
  }
}

variable "ssm_parameter_name" {
  description = "Name of the parameter of state = \"ssm\", a SecureString that the router creates. By default it is /subnetrouter/ and the name of the service. The parameter remains after a destroy."
  type        = string
  default     = null

  validation {
    condition     = var.ssm_parameter_name == null || can(regex("^(/[A-Za-z0-9_.-]+)+$", var.ssm_parameter_name))
    error_message = "The ssm_parameter_name must be parts of letters, digits, dots, dashes and underscores, each after a slash, such as /network/router."
  }
}

variable "state_import_efs" {
  description = "Whether the router of state = \"dynamodb\" or \"existing-dynamodb\" takes over the identity on the file system of a previous state = \"efs\", or of efs_file_system_id. The file system stays, mounted read-only, and there is one task, which a deployment stops first. See UPGRADING.md."
  type        = bool
  default     = false
  nullable    = false
}

variable "efs_file_system_id" {
  description = "ID of the file system for state = \"existing-efs\", or for state_import_efs if the module did not create it. It must have a mount target in each subnet's zone, reachable from the tasks on port 2049."
  type        = string
  default     = null

  validation {
    condition     = var.efs_file_system_id == null || can(regex("^fs-[0-9a-f]+$", var.efs_file_system_id))
    error_message = "The efs_file_system_id must look like fs-0123abcd."
  }
}

variable "efs_root_directory" {
  description = "Folder of the file system for the state. If it does not exist, it is created with the owner efs_owner_id."
  type        = string
  default     = "/subnetrouter"
  nullable    = false

  validation {
    condition     = can(regex("^/", var.efs_root_directory))
    error_message = "The efs_root_directory must start with a slash."
  }
}

variable "efs_owner_id" {
  description = "User and group ID that the access point uses for every access to the file system; 0 to read files of root, as in Hardfin's module. The container's own user stays 65532."
  type        = number
  default     = 65532
  nullable    = false
}

variable "efs_mount_target_subnet_ids" {
  description = "IDs of the subnets with a mount target for state = \"efs\", one per availability zone, with keys of your choice. By default they are the first of subnet_ids in each zone, keyed by the last letter of the zone, such as a; the subnets must then exist before the plan."
  type        = map(string)
  default     = null
}

variable "create_efs_policy" {
  description = "Whether the file system of state = \"efs\" gets a policy that allows access only to the router's role, through the access point."
  type        = bool
  default     = true
  nullable    = false
}

variable "efs_kms_key_arn" {
  description = "ARN of the KMS key that encrypts the file system of state = \"efs\". By default it is the AWS managed key."
  type        = string
  default     = null
}

variable "probes" {
  description = "Targets host:port behind the router. A router whose probes fail is not ready."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for p in var.probes : can(regex("^\\s*[^\\s,/]+:[0-9]{1,5}\\s*$", p))])
    error_message = "Each of the probes must be host:port, such as 10.0.3.4:5432."
  }
}

variable "serve" {
  description = "TCP ports of the node's own tailnet addresses, each as port=host:port, such as 443=localhost:8443: they lead to another container of the task (localhost) or into the VPC, as in ROUTER_SERVE. With port/tls=host:port the router terminates TLS, and with port/https=host:port or port/http=host:port it is an HTTP proxy that adds the client's user in headers. An element *=host leads all other ports to one host."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for s in var.serve : can(regex("^\\s*([0-9]{1,5}(/(tls|https?))?=[^\\s,/=]+:[0-9]{1,5}|\\*=[^\\s,/=]+)\\s*$", s))])
    error_message = "Each element of serve must be port=host:port, also with /tls, /http or /https behind the first port, or *=host, such as 443=localhost:8443."
  }
}

variable "keepalive" {
  description = "Silence after which the client of a TCP connection is probed, as in ROUTER_KEEPALIVE: a comma list of a duration from 10s to 2h for all ports, and of port=duration, such as 2h,5432=10m. By default the router decides: 2h."
  type        = string
  default     = null

  validation {
    # checks.tf has the ports and bounds.
    condition     = var.keepalive == null || can(regex("^\\s*(file:.*|([^,=]*=)?\\s*\\+?([0-9.]+(h|m|s|ms|us|µs|μs|ns))+\\s*(,([^,=]*=)?\\s*\\+?([0-9.]+(h|m|s|ms|us|µs|μs|ns))+\\s*)*)?$", var.keepalive))
    error_message = "The keepalive must be a comma list of durations from 10s to 2h, for all ports or as port=duration, such as 2h,5432=10m."
  }
}

variable "target_keepalive" {
  description = "Silence after which the target of a TCP connection is probed, as in ROUTER_TARGET_KEEPALIVE: a duration from 10s to 2h, such as 60s. By default the router decides: 60s."
  type        = string
  default     = null

  validation {
    # checks.tf has the bounds.
    condition     = var.target_keepalive == null || can(regex("^\\s*(file:.*|\\+?([0-9.]+(h|m|s|ms|us|µs|μs|ns))+)?\\s*$", var.target_keepalive))
    error_message = "The target_keepalive must be a duration from 10s to 2h, such as 60s."
  }
}

variable "access" {
  description = "Whether grants in the tailnet policy decide which targets clients reach, by the targets' security groups, tags and VPC: off, report (let all flows through, and log those that grants would deny) or grants."
  type        = string
  default     = "off"
  nullable    = false

  validation {
    condition     = contains(["off", "report", "grants"], var.access)
    error_message = "The access must be off, report or grants."
  }
}

variable "access_cut" {
  description = "Whether a change of grants, tags or security groups also ends open flows that access no longer allows."
  type        = bool
  default     = false
  nullable    = false
}

variable "proxy_protocol" {
  description = "Targets as CIDR:PORT, such as 10.0.3.0/24:443, to which TCP connections begin with a PROXY protocol header that has the client's address and identity. The targets must expect it."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    # checks.tf has the CIDRs.
    condition     = length(var.proxy_protocol) <= 100 && alltrue([for t in var.proxy_protocol : can(regex("^\\s*(\\[[0-9A-Fa-f:./]+\\]|[0-9A-Fa-f:.]+/[0-9]+|[0-9.]+):0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))\\s*$", t))])
    error_message = "Each of the proxy_protocol must be CIDR:PORT, such as 10.0.3.0/24:443, and there must be 100 at most."
  }
}

variable "flow_log" {
  description = "Whether the router logs one line per ended flow, with the client's identity in the tailnet."
  type        = bool
  default     = false
  nullable    = false
}

variable "dns" {
  description = "Whether the router answers the DNS queries that clients send to the VPC's resolver, from a cache, and with 4via6 addresses if site_id is set. The router advertises the resolver's address if no route has it."
  type        = bool
  default     = false
  nullable    = false
}

variable "exit_node" {
  description = "Whether the router is an exit node too: clients may send all of their traffic through it. The tailnet's policy has to approve it: see docs/operations.md#roles."
  type        = bool
  default     = false
  nullable    = false
}

variable "app_connector" {
  description = "Whether the router is an app connector too: it routes the domains that the tailnet's policy names for it. See docs/operations.md#roles."
  type        = bool
  default     = false
  nullable    = false
}

variable "peer_relay_port" {
  description = "UDP port of a peer relay, through which nodes that cannot reach each other directly exchange packets instead of through DERP; null for none. The security group that the module creates allows it. See docs/operations.md#roles."
  type        = number
  default     = null

  validation {
    condition     = try(var.peer_relay_port >= 1024 && var.peer_relay_port <= 65535 && floor(var.peer_relay_port) == var.peer_relay_port && var.peer_relay_port != 9002, var.peer_relay_port == null)
    error_message = "The peer_relay_port must be a whole number from 1024 to 65535, and not 9002, or null."
  }
}

variable "peer_relay_endpoints" {
  description = "Public endpoints (IP:PORT) of the peer relay behind a NAT or a Network Load Balancer, at most 8."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition = length(var.peer_relay_endpoints) <= 8 && alltrue([for e in var.peer_relay_endpoints :
      can(regex("^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):([1-9][0-9]{0,4})$", e)) && can(cidrhost("${trim(join(":", slice(split(":", e), 0, length(split(":", e)) - 1)), "[]")}/${startswith(e, "[") ? 128 : 32}", 0))
    ])
    error_message = "Each of the peer_relay_endpoints, at most 8, must be an address and a port, such as 203.0.113.7:40000 or [2001:db8::7]:40000."
  }
}

variable "socks5_listen" {
  description = "Address, host:port or :port, of a SOCKS5 proxy from the VPC into the tailnet, TCP and UDP. Without a host it serves the task's own containers only. Every program that reaches it has the router's rights in the tailnet: let the security groups admit only the programs that need it."
  type        = string
  default     = null
}

variable "http_proxy_listen" {
  description = "Address, host:port or :port, of an HTTP proxy from the VPC into the tailnet, as for socks5_listen. One port may serve both."
  type        = string
  default     = null
}

variable "egress" {
  description = "Ports of the router that are forwarded into the tailnet: PORT=HOST:PORT or PORT/udp=HOST:PORT, for the task's own containers, and with an address before the port, such as 0.0.0.0:5432=db:5432, for the VPC. With kernel_mode, *=HOST forwards all other ports of TCP and UDP at the task's addresses."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "emf" {
  description = "Whether the router logs its load once a minute in CloudWatch's embedded metric format, of which CloudWatch makes metrics for alarms and autoscaling. It needs the log driver awslogs. CloudWatch bills 8 custom metrics for each service, and 10 with dns."
  type        = bool
  default     = false
  nullable    = false
}

variable "log_level" {
  description = "How much the router logs: debug, info, warn or error."
  type        = string
  default     = "info"
  nullable    = false

  validation {
    condition     = contains(["debug", "info", "warn", "error"], var.log_level)
    error_message = "The log_level must be debug, info, warn or error."
  }
}

variable "environment" {
  description = "Additional environment variables of the container, such as ROUTER_MAX_FLOWS. Use the module's variable for a setting that has one, and store credentials in Secrets Manager."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = length(setintersection(keys(var.environment), [
      "ROUTER_AUTH_SECRET", "ROUTER_AUTH_SECRET_KEY", "TS_CLIENT_ID", "TS_AUDIENCE", "ROUTER_TAGS", "ROUTER_HOSTNAME", "ROUTER_CONTROL_URL",
      "ROUTER_ROUTES", "ROUTER_EXCLUDE_ROUTES", "ROUTER_SITE_ID", "ROUTER_DNS_ZONES", "ROUTER_DNS_REGISTER", "ROUTER_STATE", "ROUTER_STATE_IMPORT", "ROUTER_UDP_PORT", "ROUTER_LISTEN", "ROUTER_DRAIN_TIMEOUT",
      "ROUTER_PROBE", "ROUTER_SOCKS5_LISTEN", "ROUTER_HTTP_PROXY_LISTEN", "ROUTER_EGRESS", "ROUTER_SERVE", "ROUTER_DNS", "ROUTER_EXIT_NODE", "ROUTER_APP_CONNECTOR", "ROUTER_PEER_RELAY", "ROUTER_PEER_RELAY_ENDPOINTS", "ROUTER_ACCESS", "ROUTER_ACCESS_CUT", "ROUTER_PROXY_PROTOCOL", "ROUTER_FLOW_LOG", "ROUTER_EMF", "ROUTER_LOG_LEVEL", "TS_EXTRA_ARGS",
    ])) == 0
    error_message = "The environment must not contain settings that have their own variable, nor ROUTER_LISTEN: the health check relies on port 9002."
  }

  validation {
    condition     = length(setintersection(keys(var.environment), ["TS_AUTHKEY", "TS_AUTH_KEY", "TAILSCALE_AUTH_KEY", "TS_CLIENT_SECRET"])) == 0
    error_message = "Everyone who may read task definitions can read a credential in the environment: store it in Secrets Manager, and set tailscale_auth_key_secret or auth_secret_arn."
  }

  validation {
    condition = alltrue([for name in keys(var.environment) : !startswith(name, "ROUTER_") || contains([
      "ROUTER_API_URL", "ROUTER_BOOT_TIMEOUT", "ROUTER_CONGESTION", "ROUTER_DEBUG_LISTEN", "ROUTER_DNS_REBIND_GUARD", "ROUTER_KEEPALIVE", "ROUTER_LOG_FORMAT", "ROUTER_MAX_FLOWS",
      "ROUTER_MAX_FLOWS_PER_PEER", "ROUTER_MODE", "ROUTER_REFRESH", "ROUTER_SOCKET", "ROUTER_STATUS_PAGE", "ROUTER_TAILNET_STATUS", "ROUTER_TARGET_KEEPALIVE",
      "ROUTER_AUTH_SECRET", "ROUTER_AUTH_SECRET_KEY", "ROUTER_TAGS", "ROUTER_HOSTNAME", "ROUTER_CONTROL_URL", "ROUTER_ROUTES", "ROUTER_EXCLUDE_ROUTES",
      "ROUTER_SITE_ID", "ROUTER_DNS_ZONES", "ROUTER_DNS_REGISTER", "ROUTER_STATE", "ROUTER_STATE_IMPORT", "ROUTER_UDP_PORT", "ROUTER_LISTEN", "ROUTER_DRAIN_TIMEOUT", "ROUTER_PROBE", "ROUTER_SOCKS5_LISTEN", "ROUTER_HTTP_PROXY_LISTEN", "ROUTER_EGRESS", "ROUTER_SERVE", "ROUTER_DNS", "ROUTER_EXIT_NODE", "ROUTER_APP_CONNECTOR", "ROUTER_PEER_RELAY", "ROUTER_PEER_RELAY_ENDPOINTS", "ROUTER_ACCESS", "ROUTER_ACCESS_CUT", "ROUTER_PROXY_PROTOCOL", "ROUTER_FLOW_LOG", "ROUTER_EMF", "ROUTER_LOG_LEVEL",
    ], name)])
    error_message = "The environment has a ROUTER_ variable that does not exist: see router --help."
  }

  validation {
    condition = alltrue([for name, value in var.environment : trimspace(value) == "" || startswith(trimspace(value), "file:") || can(regex(lookup({
      ROUTER_CONGESTION                    = "^(bbr|cubic)$"
      ROUTER_API_URL                       = "^https?://[^/?#@\\s]+(/[^?#\\s]*)?$"
      ROUTER_DNS_REBIND_GUARD              = "^(on|off)$"
      ROUTER_LOG_FORMAT                    = "^(json|text)$"
      ROUTER_MAX_FLOWS                     = "^([1-9][0-9]{0,6}|10000000)$"
      ROUTER_MAX_FLOWS_PER_PEER            = "^([1-9][0-9]{0,6}|10000000)$"
      ROUTER_MODE                          = "^(auto|userspace|kernel)$"
      ROUTER_SOCKET                        = "^/.{0,102}$"
      ROUTER_STATUS_PAGE                   = "^(on|off)$"
      ROUTER_TAILNET_STATUS                = "^(on|off)$"
      TS_CLIENT_SECRET                     = "^$"
      TS_ID_TOKEN                          = "^$"
      TS_TAILSCALED_EXTRA_ARGS             = "^$"
      TS_DEST_IP                           = "^$"
      TS_EXPERIMENTAL_DEST_DNS_NAME        = "^$"
      TS_TAILNET_TARGET_IP                 = "^$"
      TS_TAILNET_TARGET_FQDN               = "^$"
      TS_SERVE_CONFIG                      = "^$"
      TS_KUBE_SECRET                       = "^$"
      TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR = "^$"
      TS_EGRESS_PROXIES_CONFIG_PATH        = "^$"
      TS_INGRESS_PROXIES_CONFIG_PATH       = "^$"
    }, name, ""), trimspace(value)))])
    error_message = "The environment has a value that the router rejects: ROUTER_MAX_FLOWS and ROUTER_MAX_FLOWS_PER_PEER are 1 to 10000000, ROUTER_MODE is auto, userspace or kernel, ROUTER_DNS_REBIND_GUARD, ROUTER_STATUS_PAGE and ROUTER_TAILNET_STATUS on or off, ROUTER_LOG_FORMAT json or text, ROUTER_CONGESTION bbr or cubic; and some variables of the official image are refused: use serve instead of TS_DEST_IP, TS_EXPERIMENTAL_DEST_DNS_NAME and TS_SERVE_CONFIG, egress instead of TS_TAILNET_TARGET_IP and TS_TAILNET_TARGET_FQDN, and see docs/configuration.md."
  }
}

variable "secrets" {
  description = "Additional environment variables of the container, with the ARNs of the secrets or parameters that hold the values. ECS reads them with the execution role when a task starts; unlike the router's credential, they are not read again. A customer managed KMS key needs execution_role_statements with kms:Decrypt. With create_vpc_endpoints, vpc_endpoint_services must contain ssm for parameters, and secretsmanager for secrets if the router uses federation: the default then contains neither."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for arn in values(var.secrets) : can(regex("^arn:aws[a-z-]*:(secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]+(:[^:]*){0,3}|ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9/_.-]+)$", arn))])
    error_message = "Each of the secrets must be the complete ARN of a Secrets Manager secret or an SSM parameter, such as arn:aws:secretsmanager:eu-west-1:123456789012:secret:token-AbCdEf or arn:aws:ssm:eu-west-1:123456789012:parameter/token."
  }
}

# ---------------------------------------------------------------- task

variable "launch_type" {
  description = "Where the tasks run: FARGATE, or EC2 for container instances of the cluster. With a capacity_provider_strategy it is the kind of these providers."
  type        = string
  default     = "FARGATE"
  nullable    = false

  validation {
    condition     = contains(["FARGATE", "EC2"], var.launch_type)
    error_message = "The launch_type must be FARGATE or EC2."
  }
}

variable "kernel_mode" {
  description = "Whether the instance's kernel forwards the packets, through /dev/net/tun: on EC2 only, and the container runs as root with NET_ADMIN and NET_RAW."
  type        = bool
  default     = false
  nullable    = false
}

variable "cpu_architecture" {
  description = "CPU architecture of the tasks: X86_64 or ARM64. The image must support it."
  type        = string
  default     = "X86_64"
  nullable    = false

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "The cpu_architecture must be X86_64 or ARM64."
  }
}

variable "cpu" {
  description = "CPU units of a task, 1024 to a vCPU: 256, 512, 1024, 2048, 4096, 8192 or 16384."
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "The cpu must be 256, 512, 1024, 2048, 4096, 8192 or 16384."
  }
}

variable "memory" {
  description = "Memory of a task in MiB, one of the sizes that Fargate offers for the cpu."
  type        = number
  default     = 512
  nullable    = false
}

variable "extra_containers" {
  description = "Additional containers of the task, as in container_definitions, such as a log router. Include the defaults that ECS stores, empty lists among them, or each plan shows a change."
  type        = any
  default     = []
  nullable    = false

  validation {
    condition     = can([for c in var.extra_containers : "${c.name} ${c.image}"]) && !contains([for c in try(tolist([for c in var.extra_containers : c.name]), []) : c], "tailscale")
    error_message = "The extra_containers must be a list of objects with name and image, none with the name tailscale."
  }
}

variable "sidecars" {
  description = "Application containers of the router's task, by name. They share its network: an application reaches the tailnet through the router's listeners on localhost (socks5_listen, http_proxy_listen, egress), and is reached at the router's name with serve. Each starts once the router is healthy (after_router = false: at once) and stops before it; if an essential one ends or is unhealthy, so does the task. A health_check runs every 30 seconds, and three failures in a row count: give an application that starts slowly a health_check_start_period. The image must be one that the execution role may pull. Trust it as the router: it gets the task role's credentials, with which it can read the router's credential and the state of its node, and reaches all listeners on localhost. Run an image that you do not trust as a task of its own, and reach the tailnet from there by egress. Additional roles and policies: task_role_policy_arns, execution_role_statements."
  type = map(object({
    image        = string
    essential    = optional(bool, true)
    after_router = optional(bool, true)
    cpu          = optional(number, 0)
    memory       = optional(number)
    user         = optional(string)
    entry_point  = optional(list(string))
    command      = optional(list(string))
    environment  = optional(map(string), {})
    secrets      = optional(map(string), {})
    ports        = optional(set(number), [])
    health_check = optional(list(string))
    stop_timeout = optional(number)

    health_check_start_period = optional(number)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name, c in var.sidecars : name != "tailscale" && can(regex("^[A-Za-z0-9_-]{1,255}$", name)) && length(c.image) > 0])
    error_message = "The names of sidecars have 1 to 255 letters, digits, dashes and underscores, and none is tailscale, the router's container."
  }
  validation {
    condition     = alltrue(flatten([for c in values(var.sidecars) : [for arn in values(c.secrets) : can(regex("^arn:aws[a-z-]*:(secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]+(:[^:]*){0,3}|ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9/_.-]+)$", arn))]]))
    error_message = "Each of the sidecars' secrets must be the ARN of a Secrets Manager secret or an SSM parameter."
  }
  validation {
    condition = alltrue([for c in values(var.sidecars) : (
      try(c.stop_timeout >= 2 && c.stop_timeout <= 120 && floor(c.stop_timeout) == c.stop_timeout, c.stop_timeout == null)
      && try(c.health_check_start_period >= 0 && c.health_check_start_period <= 300 && floor(c.health_check_start_period) == c.health_check_start_period && c.health_check != null, c.health_check_start_period == null)
    )])
    error_message = "The sidecars' stop_timeout must be a whole number from 2 to 120, and health_check_start_period, which needs a health_check, one from 0 to 300."
  }
  validation {
    condition = (
      alltrue(flatten([for c in values(var.sidecars) : [for p in c.ports : p >= 1 && p <= 65535 && floor(p) == p]]))
      && length(distinct(flatten([for c in values(var.sidecars) : tolist(c.ports)]))) == length(flatten([for c in values(var.sidecars) : tolist(c.ports)]))
    )
    error_message = "The sidecars' ports must be whole numbers from 1 to 65535, and no two sidecars may have the same: they share one network."
  }
}

variable "repository_credentials_secret_arn" {
  description = "ARN of the Secrets Manager secret with user name and password of a private registry. ECS reads it with the execution role: a customer managed KMS key needs execution_role_statements with kms:Decrypt, and vpc_endpoint_services must contain secretsmanager, which the default does unless the router uses federation."
  type        = string
  default     = null

  validation {
    condition     = var.repository_credentials_secret_arn == null || can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]+$", var.repository_credentials_secret_arn))
    error_message = "The repository_credentials_secret_arn must be the ARN of a Secrets Manager secret, such as arn:aws:secretsmanager:eu-west-1:123456789012:secret:registry-AbCdEf."
  }
}

variable "open_files" {
  description = "Limit of open files of the container. Each flow uses one or two."
  type        = number
  default     = 65536
  nullable    = false

  validation {
    condition     = var.open_files >= 1024 && var.open_files <= 1048576 && floor(var.open_files) == var.open_files
    error_message = "The open_files must be a whole number from 1024 to 1048576."
  }
}

variable "enable_execute_command" {
  description = "Whether ECS Exec may run commands in the container. It gives the task role the four permissions that this needs, and the container a writable root file system, without which ECS Exec does not start."
  type        = bool
  default     = false
  nullable    = false
}

variable "enable_why" {
  description = "Whether the task role may read security groups, network ACLs, route tables, peerings, prefix lists and network interfaces of the account, with which the command `router why` explains why a flow fails. Without it, the command names the actions that it lacks."
  type        = bool
  default     = false
  nullable    = false
}

# ---------------------------------------------------------------- service

variable "desired_count" {
  description = "Number of tasks. With two, in subnets of two zones, the routes survive the loss of one: Tailscale sends all traffic to one router, and the other takes over. With autoscaling it is the number of tasks at first."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.desired_count >= 0 && floor(var.desired_count) == var.desired_count
    error_message = "The desired_count must be a whole number, 0 or more."
  }
}

variable "autoscaling" {
  description = "Bounds between which Application Auto Scaling sets the number of tasks, so that their average CPU utilization is near the target, in percent. Tailscale sends the traffic of a route to one router, so further tasks are hot standbys: for more throughput, raise cpu. A plan then needs tag:GetResources, and a name that it knows."
  type = object({
    min    = number
    max    = number
    target = optional(number, 60)
  })
  default = null

  validation {
    condition     = var.autoscaling == null || try(var.autoscaling.min >= 1 && floor(var.autoscaling.min) == var.autoscaling.min && floor(var.autoscaling.max) == var.autoscaling.max, false)
    error_message = "The autoscaling.min and autoscaling.max must be whole numbers, at least 1."
  }

  validation {
    condition     = var.autoscaling == null || try(var.autoscaling.max >= var.autoscaling.min, false)
    error_message = "The autoscaling.max must not be smaller than autoscaling.min."
  }

  validation {
    condition     = var.autoscaling == null || try(var.autoscaling.target >= 10 && var.autoscaling.target <= 90, false)
    error_message = "The autoscaling.target must be from 10 to 90 percent."
  }
}

variable "service_name" {
  description = "Name of the ECS service, by default the deployment's. A service keeps the name that it was created with, so set this to the old name when you change name, and to tailscale for a service of Hardfin's module. It matters with state in DynamoDB or SSM, which is stored under the service's name, and with autoscaling: the plan fails if it differs from the actual name."
  type        = string
  default     = null

  validation {
    condition     = var.service_name == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.service_name))
    error_message = "The service_name must be 1 to 255 letters, digits, dashes and underscores."
  }
}

variable "capacity_provider_strategy" {
  description = "Capacity providers of the cluster and their shares, such as FARGATE_SPOT with weight 1, instead of the launch type FARGATE. To change between these and a launch type, a running service has to be replaced: see UPGRADING.md."
  type = list(object({
    capacity_provider = string
    weight            = optional(number, 1)
    base              = optional(number, 0)
  }))
  default  = []
  nullable = false

  validation {
    condition     = alltrue([for s in var.capacity_provider_strategy : s.weight >= 0 && s.weight <= 1000 && s.base >= 0 && s.base <= 100000])
    error_message = "A weight must be 0 to 1000, a base 0 to 100000."
  }

  validation {
    condition     = length([for s in var.capacity_provider_strategy : s if s.base > 0]) <= 1
    error_message = "Only one capacity provider may have a base."
  }
}

variable "platform_version" {
  description = "Platform version of Fargate. The router needs 1.4.0 or later."
  type        = string
  default     = "LATEST"
  nullable    = false

  validation {
    condition     = var.platform_version == "LATEST" || can(regex("^1\\.([4-9]|[1-9][0-9])\\.[0-9]+$", var.platform_version))
    error_message = "The platform_version must be LATEST, or 1.4.0 or later."
  }
}

variable "deployment_minimum_healthy_percent" {
  description = "Percentage of the tasks that keep running in a deployment. By default 100: new tasks start first and take over the routes. With state on a file system or in a parameter it is 0, as two tasks must not share a node."
  type        = number
  default     = null

  validation {
    condition     = var.deployment_minimum_healthy_percent == null || try(var.deployment_minimum_healthy_percent >= 0 && var.deployment_minimum_healthy_percent <= 100, false)
    error_message = "The deployment_minimum_healthy_percent must be from 0 to 100."
  }
}

variable "deployment_maximum_percent" {
  description = "Largest number of tasks in a deployment, in percent, 200 by default. With state on a file system or in a parameter it is 100."
  type        = number
  default     = null

  validation {
    condition     = var.deployment_maximum_percent == null || try(var.deployment_maximum_percent >= 100 && var.deployment_maximum_percent <= 200, false)
    error_message = "The deployment_maximum_percent must be from 100 to 200."
  }
}

variable "deployment_circuit_breaker" {
  description = "Whether ECS stops a deployment whose tasks do not become healthy, and whether it then rolls back to the last successful one. The variable health_check defines healthy."
  type = object({
    enable   = optional(bool, true)
    rollback = optional(bool, true)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.deployment_circuit_breaker.enable || !var.deployment_circuit_breaker.rollback
    error_message = "Only a circuit breaker that is enabled can roll back."
  }
}

variable "wait_for_steady_state" {
  description = "Whether apply waits until the tasks are healthy and the old ones have stopped."
  type        = bool
  default     = true
  nullable    = false
}

variable "keep_task_definitions" {
  description = "Whether unused revisions of the task definition stay registered, even after a destroy. They cost nothing, and ECS can roll back only to a registered revision."
  type        = bool
  default     = true
  nullable    = false
}

variable "timeouts" {
  description = "How long Terraform waits for the service. A deployment fails only after three tasks have failed, each after its start, health_check_start_period, three failed checks and stop_timeout: about 9 minutes with health_check = \"live\", and 25 with \"started\"."
  type = object({
    create = optional(string, "40m")
    update = optional(string, "40m")
    delete = optional(string, "20m")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for t in values(var.timeouts) : can(regex("^([0-9]+(\\.[0-9]+)?(h|m|s|ms))+$", t))])
    error_message = "Each of the timeouts must be a duration such as 40m or 1h30m."
  }
}

variable "force_new_deployment" {
  description = "Whether each change of the service starts new tasks. By default it is true with a capacity_provider_strategy, because AWS changes a strategy only with a new deployment; otherwise hashicorp/aws 5.x would replace the service, and 6.x reject the plan."
  type        = bool
  default     = null
}

variable "availability_zone_rebalancing" {
  description = "Whether ECS moves a task when two are in one zone and another zone is available again. By default it is true for two tasks and more, if deployment_maximum_percent allows one more, and false with state in DynamoDB, whose nodes would change their addresses."
  type        = bool
  default     = null
}

variable "health_check" {
  description = "Condition under which ECS considers a task healthy. \"live\": the engine answers; ECS does not stop a router that waits for an approval. \"started\": the router has been ready once, and the engine answers; a deployment continues only once the new routers have routes, and fails otherwise."
  type        = string
  default     = "live"
  nullable    = false

  validation {
    condition     = contains(["live", "started"], var.health_check)
    error_message = "The health_check must be live or started. Readiness itself is not offered: ECS would stop all routers when the tailnet or a probed target fails."
  }
}

variable "health_check_start_period" {
  description = "Seconds after the start of a task during which failed health checks do not count, 0 to 300. By default 60, and 300 with health_check = \"started\"."
  type        = number
  default     = null

  validation {
    condition     = var.health_check_start_period == null || try(var.health_check_start_period >= 0 && var.health_check_start_period <= 300, false)
    error_message = "The health_check_start_period must be from 0 to 300 seconds."
  }
}

variable "drain_timeout" {
  description = "Seconds that a stopping router has to hand over its routes and flows."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.drain_timeout >= 1 && var.drain_timeout <= 110 && floor(var.drain_timeout) == var.drain_timeout
    error_message = "The drain_timeout must be a whole number from 1 to 110: Fargate kills a task 120 seconds after SIGTERM, and the log-out takes a few."
  }
}

variable "stop_timeout" {
  description = "Seconds after SIGTERM at which ECS kills the container, at most 120. It must exceed drain_timeout by 10."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.stop_timeout >= 2 && var.stop_timeout <= 120 && floor(var.stop_timeout) == var.stop_timeout
    error_message = "The stop_timeout must be a whole number from 2 to 120."
  }
}

# ---------------------------------------------------------------- roles and logs

variable "iam_path" {
  description = "Path of the two roles."
  type        = string
  default     = "/"
  nullable    = false

  validation {
    condition     = can(regex("^/([!-~]+/)?$", var.iam_path))
    error_message = "The iam_path must begin and end with a slash."
  }
}

variable "permissions_boundary_arn" {
  description = "ARN of the policy that bounds the permissions of the two roles."
  type        = string
  default     = null
}

variable "create_task_role" {
  description = "Whether to create the task role, as which the router runs. If false, give task_role_arn."
  type        = bool
  default     = true
  nullable    = false
}

variable "task_role_arn" {
  description = "ARN of a task role of your own, with create_task_role = false. It needs the policy of the output task_role_policy_json, and ecs-tasks.amazonaws.com must be able to assume it."
  type        = string
  default     = null

  validation {
    condition     = var.task_role_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$", var.task_role_arn))
    error_message = "The task_role_arn must look like arn:aws:iam::123456789012:role/router."
  }
}

variable "create_execution_role" {
  description = "Whether to create the execution role, with which ECS starts the task. If false, give execution_role_arn."
  type        = bool
  default     = true
  nullable    = false
}

variable "execution_role_arn" {
  description = "ARN of an execution role of your own, with create_execution_role = false. It needs the policy of the output execution_role_policy_json, and ecs-tasks.amazonaws.com must be able to assume it."
  type        = string
  default     = null

  validation {
    condition     = var.execution_role_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$", var.execution_role_arn))
    error_message = "The execution_role_arn must look like arn:aws:iam::123456789012:role/ecs-start."
  }
}

variable "iam_wait" {
  description = "Seconds between the creation of the roles and their first use, 0 to 120. IAM takes some seconds to make a new role known to ECS; without the wait, the first apply can fail with iam:PassRole. Terraform runs the command sleep where it applies, and continues without it if there is none."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.iam_wait >= 0 && var.iam_wait <= 120 && floor(var.iam_wait) == var.iam_wait
    error_message = "The iam_wait must be a whole number from 0 to 120."
  }
}

variable "execution_role_policy_arns" {
  description = "ARNs of additional policies for the execution role, with which ECS starts the task, by a key of your choice, such as { guardduty = \"arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy\" }: GuardDuty's Runtime Monitoring pulls its sidecar with that role."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "execution_role_statements" {
  description = "Additional statements, as in a policy's JSON, for the execution role, with which ECS starts the task."
  type        = any
  default     = []
  nullable    = false

  validation {
    condition     = can([for s in var.execution_role_statements : "${s.Effect} ${jsonencode(s.Action)}"])
    error_message = "The execution_role_statements must be a list of objects with Effect, Action and Resource."
  }
}

variable "task_role_policy_arns" {
  description = "ARNs of additional policies for the task role, as which the router runs, by a key of your choice."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "ecr_pull_through_cache" {
  description = "Whether the image's ECR repository belongs to a pull-through cache. The execution role then may fetch the image from upstream."
  type        = bool
  default     = false
  nullable    = false
}

variable "create_log_group" {
  description = "Whether to create the log group, /ecs/ and the name. If false, give log_group_name, or a log_configuration of your own."
  type        = bool
  default     = true
  nullable    = false
}

variable "log_group_name" {
  description = "Name of an existing log group of this account and region, with create_log_group = false."
  type        = string
  default     = null

  validation {
    condition     = var.log_group_name == null || can(regex("^[A-Za-z0-9_./#-]{1,512}$", var.log_group_name))
    error_message = "The log_group_name must be 1 to 512 letters, digits and the characters _ . / # -."
  }
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps the logs; 0 means forever."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "The log_retention_days must be 0 or a retention that CloudWatch offers: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }
}

variable "log_configuration" {
  description = "Log driver of the container and its options, instead of awslogs with the module's log group, such as awsfirelens with one of the extra_containers. The alarm on readiness reads the log group."
  type = object({
    log_driver = string
    options    = optional(map(string), {})
  })
  default = null
}

variable "log_kms_key_arn" {
  description = "ARN of the KMS key that encrypts the logs. Its policy must allow CloudWatch Logs to use it."
  type        = string
  default     = null
}

# ---------------------------------------------------------------- around it

variable "create_alarms" {
  description = "Whether to create CloudWatch alarms for routers that are not ready and for missing tasks. The first reads the log, which must be JSON, the default; the second reads Container Insights, which the cluster must have enabled."
  type        = bool
  default     = false
  nullable    = false
}

variable "alarm_actions" {
  description = "ARNs of the targets that the alarms notify, such as an SNS topic."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "alarm_rollback" {
  description = "Whether ECS rolls back a deployment if the alarm on readiness goes off meanwhile. It needs create_alarms."
  type        = bool
  default     = false
  nullable    = false
}

variable "service_discovery" {
  description = "ID of a private DNS namespace of Cloud Map, in which the tasks are registered under the deployment's name, for example for Prometheus, or for programs that use egress."
  type = object({
    namespace_id = string
  })
  default = null
}

variable "create_vpc_endpoints" {
  description = "Whether to create the VPC endpoints that tasks need to call AWS from subnets without Internet access. Tailscale's control server, or yours, must still be reachable."
  type        = bool
  default     = false
  nullable    = false
}

variable "vpc_endpoint_services" {
  description = "Services of the interface endpoints, instead of those that a task calls: ecr.api, ecr.dkr, logs, ec2, secretsmanager or sts, ssmmessages with ECS Exec, elasticfilesystem with state on EFS, kms and ecs with state in DynamoDB, and ssm with state in a parameter. Add rds or elasticloadbalancing for such routes. Set it if the same apply creates the credential, and, with ssm instead of secretsmanager, if the credential is an SSM parameter."
  type        = list(string)
  default     = null
}

variable "vpc_endpoint_route_table_ids" {
  description = "IDs of the subnets' route tables, for the gateway endpoints of S3, from which ECR serves layers, and of DynamoDB, for state in a table. Without them the endpoints are not created; images in ECR need that of S3."
  type        = list(string)
  default     = []
  nullable    = false
}
