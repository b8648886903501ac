"""What the outlying label does: measurements of trained networks, each with statements and a verdict."""
