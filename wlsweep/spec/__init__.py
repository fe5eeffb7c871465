"""What a sweep is: axes, conditions, configuration, and what it would do and cost. Imports no engine."""
