# Two roles. ECS itself uses the execution role, to pull the image and write logs. The
# router runs as the task role, which only allows reading its credential, keeping its
# identity and looking up the network. If the caller gives a role, the module creates no role, policy or attachment.

locals {
  # Secrets Manager accepts the ARN only without ECS's suffix; the router, with it.
  auth_secret = var.tailscale_auth_key_secret == null ? var.auth_secret_arn : one(data.aws_secretsmanager_secret.auth[*].arn)
  secret_arn  = try(regex("^arn:[^:]+:secretsmanager:[^:]+:[^:]+:secret:[^:]+", local.auth_secret), null)
  # IAM knows no versions and labels of parameters.
  auth_parameter_arn = try(regex("^arn:[^:]+:ssm:[^:]+:[^:]+:parameter/[^:]+", local.auth_secret), null)
  # A complete ARN ends with six characters that Secrets Manager adds to the name. A
  # name may end in such characters itself, as "subnet-router" does.
  secret_resources = (
    local.secret_arn == null ? [] :
    can(regex("-[A-Za-z0-9]{6}$", local.secret_arn)) ? [local.secret_arn, "${local.secret_arn}-??????"] :
    ["${local.secret_arn}-??????"]
  )

  # The AWS managed key needs no permission.
  looked_up_kms_keys = [for key in data.aws_kms_key.auth : key.arn if key.key_manager != "AWS" && !endswith(local.secret_key_id, local.aws_secret_key)]
  secret_kms_keys    = var.auth_secret_kms_key_arn == null ? local.looked_up_kms_keys : [var.auth_secret_kms_key_arn]

  container_secrets = distinct(concat(values(var.secrets), flatten([for c in values(var.sidecars) : values(c.secrets)])))
  injected_secrets = concat(
    [for arn in local.container_secrets : join(":", slice(split(":", arn), 0, 7)) if strcontains(arn, ":secretsmanager:")],
    var.repository_credentials_secret_arn == null ? [] : [var.repository_credentials_secret_arn],
  )
  injected_parameters = [for arn in local.container_secrets : arn if strcontains(arn, ":ssm:")]

  # The look-ups that each route source, and `router why`, needs. A test compares this with the
  # output of `router plan --iam`.
  uses_vpc          = contains(local.routes, "vpc")
  uses_subnets      = length([for r in local.routes : r if startswith(r, "subnets:")]) > 0
  uses_peerings     = contains(local.routes, "peerings")
  uses_prefix_lists = length([for r in local.routes : r if startswith(r, "pl-")]) > 0
  uses_databases    = length([for r in local.routes : r if startswith(r, "rds:")]) > 0
  uses_balancers    = length([for r in local.routes : r if startswith(r, "lb:")]) > 0

  # To look up the zones for split DNS. Route 53 checks ec2:DescribeVpcs, too.
  finds_zones = contains(local.dns_zones, "auto")

  network_actions = distinct(concat(
    local.uses_vpc || local.uses_subnets || local.uses_peerings ? ["ec2:DescribeNetworkInterfaces"] : [],
    local.uses_vpc ? ["ec2:DescribeVpcs"] : [],
    local.uses_subnets ? ["ec2:DescribeSubnets"] : [],
    local.uses_peerings ? ["ec2:DescribeRouteTables", "ec2:DescribeVpcPeeringConnections"] : [],
    local.uses_databases ? ["rds:DescribeDBClusters", "rds:DescribeDBInstances", "rds:DescribeDBProxies", "rds:DescribeDBProxyEndpoints"] : [],
    local.uses_balancers ? ["elasticloadbalancing:DescribeLoadBalancers", "elasticloadbalancing:DescribeTags"] : [],
    local.finds_zones ? [
      "ec2:DescribeNetworkInterfaces", "ec2:DescribeVpcs",
      "route53:ListHostedZonesByVPC", "route53resolver:ListResolverRuleAssociations", "route53resolver:ListResolverRules",
      "route53profiles:ListProfileAssociations", "route53profiles:ListProfileResourceAssociations", "route53:GetHostedZone",
      "ec2:DescribeVpcAttribute", "ec2:DescribeDhcpOptions",
    ] : [],
    var.access != "off" ? ["ec2:DescribeNetworkInterfaces", "ec2:DescribeTags"] : [],
    var.enable_why ? [
      "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables", "ec2:DescribeVpcPeeringConnections",
      "ec2:DescribeSecurityGroups", "ec2:DescribeNetworkAcls",
    ] : [],
  ))

  # The permissions to keep an identity, in the order of `router plan --iam`.
  identity_statements = concat(
    [for table in local.on_dynamodb ? [local.table_arn] : [] : {
      Sid      = "KeepIdentities"
      Effect   = "Allow"
      Action   = ["dynamodb:Query", "dynamodb:UpdateItem"]
      Resource = [table]
    }],
    [for parameter in local.on_ssm ? [local.state_parameter_arn] : [] : {
      Sid      = "KeepState"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter", "ssm:PutParameter"]
      Resource = [parameter]
    }],
    # SSM uses kms:Encrypt for a value up to 4 KB, and a data key for a longer one.
    [for key in local.on_dynamodb || (local.on_ssm && var.state_kms_key_arn != null) ? [local.state_key_arn] : [] : {
      Sid      = "EncryptState"
      Effect   = "Allow"
      Action   = concat(["kms:GenerateDataKey", "kms:Decrypt"], local.on_ssm ? ["kms:Encrypt"] : [])
      Resource = [key]
    }],
    # Whether the task that holds an identity still runs, which tasks belong to the service, and
    # whether the service ends, after which its split DNS is removed.
    [for cluster in local.on_dynamodb || var.dns_register ? [local.cluster_arn] : [] : {
      Sid      = "SeeTasks"
      Effect   = "Allow"
      Action   = ["ecs:DescribeTasks"]
      Resource = ["${replace(cluster, ":cluster/", ":task/")}/*"]
    }],
    [for cluster in local.on_dynamodb || var.dns_register ? [local.cluster_arn] : [] : {
      Sid      = "SeeService"
      Effect   = "Allow"
      Action   = ["ecs:DescribeServices"]
      Resource = ["${replace(cluster, ":cluster/", ":service/")}/${local.service_name}"]
    }],
  )

  router_statements = concat(
    [for secret in local.secret_arn == null ? [] : [local.secret_arn] : {
      Sid      = "ReadCredential"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.secret_resources
    }],
    [for parameter in local.auth_parameter_arn == null ? [] : [local.auth_parameter_arn] : {
      Sid      = "ReadCredential"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = [parameter]
    }],
    [for key in local.secret_arn == null && local.auth_parameter_arn == null ? [] : local.secret_kms_keys : {
      Sid      = "DecryptCredential"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = [key]
      Condition = {
        StringLike = { "kms:ViaService" = "${join(".", slice(split(":", local.auth_secret), 2, 4))}.${local.dns_suffix}" }
      }
    }],
    [for audience in var.tailscale_client_id == null ? [] : [var.tailscale_audience] : {
      Sid      = "VouchForRouter"
      Effect   = "Allow"
      Action   = ["sts:GetWebIdentityToken"]
      Resource = ["*"] # the action has no resources; the condition restricts the audience
      Condition = {
        "ForAllValues:StringEquals" = { "sts:IdentityTokenAudience" = audience }
        StringEquals                = { "sts:SigningAlgorithm" = "ES384" }
        NumericLessThanEquals       = { "sts:DurationSeconds" = "300" }
      }
    }],
    [for used in local.uses_prefix_lists || local.uses_peerings || var.enable_why ? ["used"] : [] : {
      Sid    = "ReadPrefixLists"
      Effect = "Allow"
      Action = ["ec2:GetManagedPrefixListEntries"]
      # A route table or a security group may refer to any list. Those of AWS have the account "aws".
      Resource = local.uses_peerings || var.enable_why ? ["*"] : [for r in local.routes : "arn:${local.partition}:ec2:${local.region}:*:prefix-list/${r}" if startswith(r, "pl-")]
    }],
    [for used in local.uses_databases ? ["used"] : [] : {
      Sid      = "ReadProxyTags"
      Effect   = "Allow"
      Action   = ["rds:ListTagsForResource"]
      Resource = ["arn:${local.partition}:rds:${local.region}:*:db-proxy:*"]
    }],
    # The Describe actions of EC2 and Elastic Load Balancing do not support resources; of RDS, all
    # resources are listed to find those with a tag.
    [for used in length(local.network_actions) > 0 ? ["used"] : [] : {
      Sid      = "ReadNetwork"
      Effect   = "Allow"
      Action   = local.network_actions
      Resource = ["*"]
    }],
    local.identity_statements,
  )

  # Region, account and name of an ECR repository given by URI.
  ecr_uri = try(regex("^([0-9]{12})\\.dkr[.-]ecr(?:-fips)?\\.([a-z0-9-]+)\\.[a-z.]+/([^:@]+)", coalesce(var.image, "none")), null)
  ecr_repository_arn = (
    var.tailscale_docker_repository != null ? one(data.aws_ecr_repository.tailscale[*].arn) :
    local.ecr_uri != null ? "arn:${local.partition}:ecr:${local.ecr_uri[1]}:${local.ecr_uri[0]}:repository/${local.ecr_uri[2]}" :
    null
  )

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      # Only for tasks of this account and region, to prevent a confused deputy.
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ecs:${local.region}:${local.account_id}:*" }
      }
    }]
  })

  exec_statements = !var.enable_execute_command ? [] : [{
    Sid    = "ECSExec"
    Effect = "Allow"
    Action = [
      "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    ]
    Resource = ["*"] # the actions have no resources
  }]

  # During an import, the task that a rollback would start again still writes.
  efs_statements = [for point in aws_efs_access_point.state : {
    Sid       = "MountState"
    Effect    = "Allow"
    Action    = concat(["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"], var.efs_owner_id == 0 ? ["elasticfilesystem:ClientRootAccess"] : [])
    Resource  = [point.file_system_arn]
    Condition = { StringEquals = { "elasticfilesystem:AccessPointArn" = point.arn } }
  }]

  task_role_statements = concat(local.router_statements, local.exec_statements, local.efs_statements)

  execution_role_statements = concat(
    [for repository in local.ecr_repository_arn == null ? [] : [local.ecr_repository_arn] : {
      Sid    = "PullImage"
      Effect = "Allow"
      Action = concat(
        ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        var.ecr_pull_through_cache ? ["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"] : [],
      )
      Resource = [repository]
    }],
    [for used in local.ecr_repository_arn == null ? [] : ["used"] : {
      Sid      = "LogInToECR"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"] # the action has no resources
    }],
    [for group in local.log_group_arn == null ? [] : [local.log_group_arn] : {
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${group}:*"]
    }],
    # ECS reads these before the container starts; an ARN may end with a JSON key.
    [for used in length(local.injected_secrets) == 0 ? [] : ["used"] : {
      Sid      = "ReadSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.injected_secrets
    }],
    [for used in length(local.injected_parameters) == 0 ? [] : ["used"] : {
      Sid      = "ReadParameters"
      Effect   = "Allow"
      Action   = ["ssm:GetParameters"]
      Resource = local.injected_parameters
    }],
    [for s in var.execution_role_statements : s],
  )

  create_task_role      = var.create && var.create_task_role
  create_execution_role = var.create && var.create_execution_role

  task_role_arn       = var.create_task_role ? one(aws_iam_role.ecs_task_tailscale[*].arn) : var.task_role_arn
  task_role_name      = var.create_task_role ? one(aws_iam_role.ecs_task_tailscale[*].name) : try(reverse(split("/", var.task_role_arn))[0], null)
  execution_role_arn  = var.create_execution_role ? one(aws_iam_role.ecs_task_execution_tailscale[*].arn) : var.execution_role_arn
  execution_role_name = var.create_execution_role ? one(aws_iam_role.ecs_task_execution_tailscale[*].name) : try(reverse(split("/", var.execution_role_arn))[0], null)
}

resource "aws_iam_role" "ecs_task_execution_tailscale" {
  count = local.create_execution_role ? 1 : 0

  name                 = "ecs-task-execution-${local.name}"
  path                 = var.iam_path
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy   = local.assume_role_policy
  tags                 = var.tags
}

resource "aws_iam_role_policy" "execution" {
  count = local.create_execution_role ? 1 : 0

  name = "start-task"
  role = aws_iam_role.ecs_task_execution_tailscale[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      local.execution_role_statements,
      # A policy has at least one statement.
      [for used in length(local.execution_role_statements) > 0 ? [] : ["used"] : { Sid = "NoPermission", Effect = "Deny", Action = ["none:null"], Resource = ["*"] }],
    )
  })
}

resource "aws_iam_role_policy_attachment" "execution" {
  for_each = local.create_execution_role ? var.execution_role_policy_arns : {}

  role       = aws_iam_role.ecs_task_execution_tailscale[0].name
  policy_arn = each.value
}

resource "aws_iam_role" "ecs_task_tailscale" {
  count = local.create_task_role ? 1 : 0

  name                 = "ecs-task-${local.name}"
  path                 = var.iam_path
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy   = local.assume_role_policy
  tags                 = var.tags
}

resource "aws_iam_role_policy_attachment" "task" {
  for_each = local.create_task_role ? var.task_role_policy_arns : {}

  role       = aws_iam_role.ecs_task_tailscale[0].name
  policy_arn = each.value
}

# The same statements as `router plan --iam` prints.
resource "aws_iam_role_policy" "router" {
  count = local.create_task_role ? 1 : 0

  name = "router"
  role = aws_iam_role.ecs_task_tailscale[0].name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.router_statements
  })
}

resource "aws_iam_role_policy" "exec" {
  count = local.create_task_role && var.enable_execute_command ? 1 : 0

  name = "ecs-exec"
  role = aws_iam_role.ecs_task_tailscale[0].name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.exec_statements
  })
}

resource "aws_iam_role_policy" "efs" {
  count = local.create_task_role && local.on_efs ? 1 : 0

  name = "state"
  role = aws_iam_role.ecs_task_tailscale[0].name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.efs_statements
  })
}

# IAM takes some seconds to make a new role known to ECS, which until then refuses a task
# definition with it (iam:PassRole). Terraform has no wait of its own: where the command
# does not exist, it continues at once.
resource "terraform_data" "roles_known" {
  count = var.iam_wait > 0 && (local.create_task_role || local.create_execution_role) ? 1 : 0

  triggers_replace = concat(aws_iam_role.ecs_task_tailscale[*].unique_id, aws_iam_role.ecs_task_execution_tailscale[*].unique_id)

  provisioner "local-exec" {
    command    = "sleep ${var.iam_wait}"
    on_failure = continue
  }

  depends_on = [aws_iam_role_policy.execution, aws_iam_role_policy.router]
}
