# Application containers that share the router's task, and so its network.

locals {
  sidecars = [for name in sort(keys(var.sidecars)) : { for k, v in {
    name        = name
    image       = var.sidecars[name].image
    essential   = var.sidecars[name].essential
    cpu         = var.sidecars[name].cpu
    memory      = var.sidecars[name].memory
    user        = var.sidecars[name].user
    entryPoint  = var.sidecars[name].entry_point
    command     = var.sidecars[name].command
    stopTimeout = var.sidecars[name].stop_timeout

    environment = [for k in sort(keys(var.sidecars[name].environment)) : { name = k, value = var.sidecars[name].environment[k] }]
    secrets     = length(var.sidecars[name].secrets) == 0 ? null : [for k in sort(keys(var.sidecars[name].secrets)) : { name = k, valueFrom = var.sidecars[name].secrets[k] }]

    # ECS stops containers in the reverse order: the application first, so that the router carries its
    # last connections.
    dependsOn = var.sidecars[name].after_router ? [{ containerName = local.container.name, condition = "HEALTHY" }] : null
    healthCheck = var.sidecars[name].health_check == null ? null : { for k, v in {
      command     = var.sidecars[name].health_check
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = var.sidecars[name].health_check_start_period
    } : k => v if v != null }

    portMappings     = [for p in sort(tolist(var.sidecars[name].ports)) : { containerPort = tonumber(p), hostPort = tonumber(p), protocol = "tcp" }]
    mountPoints      = []
    volumesFrom      = []
    systemControls   = []
    logConfiguration = local.container.logConfiguration
  } : k => v if v != null }]

  # Both containers would listen there: the second fails with "address in use".
  sidecar_conflicts = flatten([for name, c in var.sidecars : [for p in c.ports :
    "sidecars: ${name} has port ${p}, at which the router listens: use another." if contains(local.own_tcp_ports, p)
  ]])
}
