"""The MLflow and Prefect servers: started, found, and stopped."""
