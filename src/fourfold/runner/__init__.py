"""What every engine starts: fetches work from the control socket, runs it, reports how it went."""
