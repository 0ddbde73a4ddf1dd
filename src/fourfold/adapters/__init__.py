"""One engine, store or protocol per file; they know `core` and their foreign library, nothing else."""
