"""Values, ports, service protocols and decisions: no input or output, no clock, no chance."""
