"""Pipelines of diffusers: from requests to pictures, and from folders to pipelines."""
