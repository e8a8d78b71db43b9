# With the module's variables.tf, settings.tf and checks.tf, all that a plan
# refuses of the router's settings, without AWS.

variable "case" {
  type = number
}

locals {
  name         = coalesce(var.name, "router")
  auth_secret  = var.auth_secret_arn
  router_state = null
}

resource "terraform_data" "settings" {
  input = local.environment

  lifecycle {
    precondition {
      condition     = length(local.problems) == 0
      error_message = "case ${var.case}: ${join("\n", local.problems)}"
    }
  }
}

output "environment" {
  value = local.environment
}
