"""Raw data: fetched from its source and read from files."""
