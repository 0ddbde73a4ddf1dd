"""Units that are measured, jobs and services that are metered, environments that are locked."""
