"""One run of a flow: its steps through Prefect, its record, its MLflow run, its pages."""
