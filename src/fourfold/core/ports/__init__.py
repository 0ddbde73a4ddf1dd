"""What a floor asks of the outside world; adapters answer. One port per file."""
