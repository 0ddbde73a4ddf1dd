"""The four layers of ML infrastructure for a company of reasonable scale, in one install."""
