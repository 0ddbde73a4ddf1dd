"""Build or buy, cloud or own, where to place: answers from the project's own records."""
