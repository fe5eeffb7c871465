"""The run directory is the API: where everything lies, what is done, who holds it, what ran."""
