"""Serving measured: many adapters against one, against MLflow's server and PEFT, under load and over time."""
