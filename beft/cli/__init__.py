"""The commands of the science: what is done without a flow."""
