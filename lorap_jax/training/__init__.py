"""Training steps: state, optimizer, schedules, loss, what is measured."""
