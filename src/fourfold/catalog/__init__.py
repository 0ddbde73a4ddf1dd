"""The one metadata database: names, versions, lineage, roles, audit."""
