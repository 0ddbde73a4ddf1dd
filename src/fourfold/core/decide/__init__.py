"""Rules as pure functions: `decide(state, event, now) -> (state, commands)`, each command with its reason."""
