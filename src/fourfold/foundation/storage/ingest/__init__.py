"""Files become one version of a table: Parquet, CSV and JSON lines, read as streams."""
