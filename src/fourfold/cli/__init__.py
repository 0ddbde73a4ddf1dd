"""The command line door: `fourfold NOUN VERB`."""
