"""What is expected of tables, asked of data before they are seen."""
