"""Deployments on a Prefect server, and the workers that start their runs."""
