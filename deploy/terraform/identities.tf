# The nodes' keys in DynamoDB, with an identity for each task, or in one SSM parameter. In the
# table the router encrypts them with data keys of the KMS key.

locals {
  on_dynamodb      = contains(["dynamodb", "existing-dynamodb"], var.state)
  on_ssm           = var.state == "ssm"
  create_table     = var.create && var.state == "dynamodb"
  create_state_key = var.create && local.on_dynamodb && var.create_state_kms_key

  # Where one identity is all that there is, two tasks would share a node. An import reads
  # the keys of a task that must have stopped.
  one_task = contains(["efs", "existing-efs", "ssm"], var.state) || var.state_import_efs

  fewest_tasks = var.autoscaling == null ? var.desired_count : var.autoscaling.min
  most_tasks   = var.autoscaling == null ? var.desired_count : var.autoscaling.max

  # During a deployment, each of the new and old tasks has an identity.
  identity_slots = var.identity_slots == null ? min(100, max(1, floor(local.most_tasks * local.maximum_percent / 100))) : var.identity_slots

  # The router stores identities under the name of its service, which it reads from the
  # task's metadata.
  service_name = coalesce(var.service_name, local.name)

  table         = local.create_table ? aws_dynamodb_table.state[0].name : try(split("/", var.dynamodb_table_arn)[1], "")
  table_arn     = local.create_table ? "arn:${local.partition}:dynamodb:${local.region}:${local.account_id}:table/${local.table}" : var.dynamodb_table_arn
  state_key_arn = local.create_state_key ? one(aws_kms_key.state[*].arn) : var.state_kms_key_arn

  parameter_name      = coalesce(var.ssm_parameter_name, "/subnetrouter/${local.service_name}")
  state_parameter_arn = "arn:${local.partition}:ssm:${local.region}:${local.account_id}:parameter${local.parameter_name}"

  router_state = (
    local.on_dynamodb ? "dynamodb:${local.create_table ? local.table : coalesce(local.table_arn, "none")}?slots=${local.identity_slots}&kms=${coalesce(local.state_key_arn, "none")}" :
    local.on_ssm ? "${local.state_parameter_arn}${var.state_kms_key_arn == null ? "" : "?kms=${var.state_kms_key_arn}"}" :
    local.on_efs ? local.state_dir :
    null
  )
}

resource "aws_dynamodb_table" "state" {
  count = local.create_table ? 1 : 0

  name                        = "${local.name}-identities"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "service"
  range_key                   = "slot"
  deletion_protection_enabled = var.dynamodb_deletion_protection
  tags                        = var.tags

  attribute {
    name = "service"
    type = "S"
  }

  attribute {
    name = "slot"
    type = "N"
  }

  point_in_time_recovery {
    enabled = true
  }

  # The AWS managed key, which needs no permission. The items that contain keys are also
  # encrypted by the router.
  server_side_encryption {
    enabled = true
  }

  lifecycle {
    ignore_changes = [name] # a table keeps its name, and its identities
  }
}

resource "aws_kms_key" "state" {
  count = local.create_state_key ? 1 : 0

  description             = "Identities of the Tailscale subnet routers ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = merge({ Name = "${local.name}-identities" }, var.tags)

  # The account administers the key, and only the routers can decrypt. The role is in a
  # condition, because KMS does not accept a principal that IAM has just created.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Administer"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account_id}:root" }
        Action = [
          "kms:CancelKeyDeletion", "kms:Create*", "kms:Delete*", "kms:Describe*", "kms:Disable*", "kms:Enable*", "kms:Get*",
          "kms:List*", "kms:Put*", "kms:Revoke*", "kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:Update*",
        ]
        Resource = "*"
      },
      {
        Sid       = "EncryptState"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account_id}:root" }
        Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
        Resource  = "*"
        Condition = { ArnEquals = { "aws:PrincipalArn" = local.task_role_arn } }
      },
    ]
  })
}
