"""What one step of the pipeline does: a plain function on folders, declared as a step, driven by DVC or by Prefect."""
