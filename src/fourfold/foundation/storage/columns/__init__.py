"""Column lineage: which input columns act on which columns of a DuckDB query's result."""
