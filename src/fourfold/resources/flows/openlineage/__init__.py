"""Flow runs and steps as OpenLineage events, told from their records and sent on."""
