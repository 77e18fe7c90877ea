"""Descriptions of data sets, drafted from the files of a user."""
