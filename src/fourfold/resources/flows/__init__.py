"""Flows of steps: cron, durable runs, retries, cache, the loop that moves them."""
