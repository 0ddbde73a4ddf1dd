"""A person's rows taken out of a table wherever this project keeps them, and what saw them."""
