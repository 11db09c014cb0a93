variable "region" {
  description = "AWS region of the bucket."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket; SRPO_BUCKET of infra/stacks, and in the ConfigMap mlflow of infra/kubernetes."
  type        = string
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's IAM OpenID Connect provider."
  type        = string
}

variable "role" {
  description = "Name of the IAM role for the service accounts."
  type        = string
  default     = "srpo"
}

variable "checkpoint_days" {
  description = "Days until objects under checkpoints/ are deleted; registered models lie elsewhere."
  type        = number
  default     = 14

  validation {
    condition     = var.checkpoint_days >= 1
    error_message = "checkpoint_days is at least 1."
  }
}
